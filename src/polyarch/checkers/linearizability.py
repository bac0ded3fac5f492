"""Is a history linearizable?  Could each operation have taken effect at one moment between its call and
its return, so that a single sequential object would have given the same answers?

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
configurations ("Testing for linearizability", 2017): take the operations in the order of their calls; try
each that may be next; go back when a return is reached whose operation has not been placed; never visit the
same pair of placed operations and state twice.  Linearizability is local (Herlihy and Wing, 1990), so that
the operations on each key are searched alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

__all__ = ["KV", "REGISTER", "Call", "Model", "Outcome", "check", "read_history"]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One operation: what was asked, when, and what came of it."""

    name: str
    arguments: tuple[Any, ...]
    start: float
    end: float = math.inf
    """Infinity: it never returned; it may take effect at any time after its start, or never."""
    result: Any = None
    key: Hashable = None
    client: int = 0

    def __str__(self) -> str:
        asked = f"{self.name}({', '.join(map(repr, self.arguments))})"
        if self.end == math.inf:
            return f"client {self.client}: {asked} from {self.start:g}, never returned"
        return f"client {self.client}: {asked} = {self.result!r} from {self.start:g} to {self.end:g}"


@dataclasses.dataclass(frozen=True)
class Model:
    """A sequential object: its first state (hashable), and what an operation does to a state:
    ``apply(state, name, arguments) -> (new state, result)``."""

    initial: Hashable
    apply: Callable[[Any, str, tuple[Any, ...]], tuple[Hashable, Any]]
    reads: frozenset[str] = frozenset()
    """Operations that change nothing: those that never returned need no place."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the search has found."""

    holds: bool | None
    """None: not decided within the budget."""
    detail: str
    key: Hashable = None
    stuck: Call | None = None
    """If it does not hold: the first operation (by its return) that cannot be ordered.  Without what
    happened after its return the history is not linearizable either."""
    steps: int = 0


def check(calls: Iterable[Call], model: Model, *, budget: int = 3_000_000) -> Outcome:
    """Decide for all keys; ``budget``: steps of the search in all."""
    by_key: dict[Hashable, list[Call]] = {}
    for call in calls:
        if call.end != math.inf or call.name not in model.reads:
            by_key.setdefault(call.key, []).append(call)
    steps = 0
    undecided: list[Hashable] = []
    for key, group in by_key.items():
        holds, stuck, used = _search(group, model, budget - steps)
        steps += used
        if holds is None:
            undecided.append(key)
        elif not holds:
            assert stuck is not None
            where = "" if key is None else f"key {key!r}: "
            return Outcome(False, f"{where}no order allows {stuck}", key, stuck, steps)
    if undecided:
        names = ", ".join(map(repr, undecided[:3])) + (", …" if len(undecided) > 3 else "")
        return Outcome(None, f"undecided after {steps} steps (keys {names})", undecided[0], None, steps)
    operations = sum(map(len, by_key.values()))
    return Outcome(True, f"{operations} operations on {len(by_key)} keys", None, None, steps)


def _search(calls: Sequence[Call], model: Model, budget: int) -> tuple[bool | None, Call | None, int]:
    """Whether one key's operations can be ordered; if not, which cannot; and the steps that it took."""
    # The events in the order of time: entry 0 is the head of a doubly linked list, then calls and returns.
    # Calls come before returns of the same time: such operations overlap.
    events = sorted(
        [(c.start, 0, i) for i, c in enumerate(calls)]
        + [(c.end, 1, i) for i, c in enumerate(calls) if c.end != math.inf]
    )
    size = len(events) + 1
    after = [*range(1, size), 0]  # entry 0 also ends the list
    before = [size - 1, *range(size - 1)]
    returns = [0] * len(calls)  # the entry of each operation's return; 0: never
    entries = [(0, 0), *((kind, i) for _, kind, i in events)]
    for entry, (kind, i) in enumerate(entries[1:], 1):
        if kind:
            returns[i] = entry
    bits = [1 << i for i in range(len(calls))]
    open_ = sum(map(bool, returns))
    apply = model.apply
    placed, state = 0, model.initial
    seen: set[tuple[int, Hashable]] = set()
    path: list[tuple[int, Hashable]] = []
    entry, deepest, steps = after[0], 0, 0
    while open_:
        kind, i = entries[entry]
        if entry and not kind:  # a call: may it be next?
            steps += 1
            if steps > budget:
                return None, None, steps
            call, back = calls[i], returns[i]
            new_state, result = apply(state, call.name, call.arguments)
            if not back or result == call.result:
                new_placed = placed | bits[i]
                if (new_placed, new_state) not in seen:
                    seen.add((new_placed, new_state))
                    path.append((entry, state))
                    placed, state = new_placed, new_state
                    after[before[entry]], before[after[entry]] = after[entry], before[entry]
                    if back:
                        after[before[back]], before[after[back]] = after[back], before[back]
                        open_ -= 1
                    entry = after[0]
                    continue
            entry = after[entry]
        else:  # a return, or the end: something before must have been placed wrongly
            deepest = max(deepest, entry)
            if not path:
                return False, calls[entries[deepest][1]], steps
            entry, state = path.pop()
            i = entries[entry][1]
            back = returns[i]
            if back:
                after[before[back]] = before[after[back]] = back
                open_ += 1
            after[before[entry]] = before[after[entry]] = entry
            placed ^= bits[i]
            entry = after[entry]
    return True, None, steps


# -- models ---------------------------------------------------------------------------------------------


def _register(state: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    if name == "read":
        return state, state
    if name == "write":
        return arguments[0], None
    expected, value = arguments  # cas
    return (value, True) if state == expected else (state, False)


def _kv(state: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    if name == "get":
        return state, state
    if name == "put":
        return arguments[0], None
    if name == "append":
        return (state or "") + arguments[0], None
    expected, value = arguments  # compare_and_set
    return (value, True) if state == expected else (state, False)


REGISTER = Model(None, _register, frozenset({"read"}))
"""read() -> value, write(value), cas(expected, value) -> bool; at first there is None."""
KV = Model(None, _kv, frozenset({"get"}))
"""For each key: get() -> value, put(value), append(text), compare_and_set(expected, value) -> bool."""


# -- histories of others --------------------------------------------------------------------------------

_JEPSEN = re.compile(r"INFO +jepsen\.util - (\d+)\s+:(\w+)\s+:(\w+)\s+(.*)")
_EDN = re.compile(r'\{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*)", :value (.*)\}')


def read_history(lines: Iterable[str]) -> list[Call]:
    """The calls of a log of Jepsen's (register) or of Porcupine's test data (key-value), by line number.
    A call that has not returned, or of which it is not known how it ended, has an ``end`` of infinity."""
    pending: dict[str, tuple[int, str, Hashable, Any]] = {}
    calls: list[Call] = []
    for number, line in enumerate(lines, 1):
        if match := _JEPSEN.match(line):
            process, kind, name, text = match.groups()
            key = None
        elif match := _EDN.match(line):
            process, kind, name, key, text = match.groups()
        else:
            continue  # other lines of a log
        value = None if text == "nil" or text.startswith(":") else _value(text, number)
        if kind == "invoke":
            pending[process] = (number, name, key, value)
            continue
        if process not in pending:
            raise ValueError(f"line {number}: process {process} ends {name}, which it has not begun")
        start, name, key, asked = pending.pop(process)
        if kind == "ok" or (kind == "fail" and name == "cas"):
            # A compare-and-set that failed has found another value: an answer like any other.
            calls.append(_call(name, key, asked, start, number, process, kind == "ok", value))
        elif kind == "info":
            calls.append(_call(name, key, asked, start, math.inf, process))
    for process, (start, name, key, asked) in pending.items():
        calls.append(_call(name, key, asked, start, math.inf, process))
    return calls


def _call(
    name: str,
    key: Hashable,
    asked: Any,
    start: float,
    end: float,
    process: str,
    ok: bool = True,
    value: Any = None,
) -> Call:
    reads = name in ("read", "get")
    arguments = () if reads else asked if name == "cas" else (asked,)
    result = value if reads else ok if name == "cas" else None
    if name == "get":
        result = value or None  # an absent key reads as the empty text
    return Call(name, arguments, start, end, result, key, int(process))


def _value(text: str, number: int) -> Any:
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    try:
        return tuple(map(int, text[1:-1].split())) if text.startswith("[") else int(text)
    except ValueError:
        raise ValueError(f"line {number}: {text!r} is no value") from None
