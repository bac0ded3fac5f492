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

__all__ = ["KV", "REGISTER", "Call", "Model", "Outcome", "check", "explain", "read_history", "whole"]


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
    conditional: frozenset[str] = frozenset()
    """Operations that change nothing if they answer False."""

    def changes_nothing(self, call: Call) -> bool:
        """Whether the operation, as it ended, leaves every state as it is."""
        refused = call.end != math.inf and call.result is False  # what never returned has no result
        return call.name in self.reads or (refused and call.name in self.conditional)


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
    prefix: int = 0
    """If it does not hold: calls and returns in the shortest prefix of the history that does not."""


def check(calls: Iterable[Call], model: Model, *, budget: int = 3_000_000) -> Outcome:
    """Decide for all keys; ``budget``: steps of the search in all.  If it does not hold, the outcome tells of
    the key whose history goes wrong first."""
    by_key: dict[Hashable, list[Call]] = {}
    for call in calls:
        if call.end != math.inf or call.name not in model.reads:
            by_key.setdefault(call.key, []).append(call)
    steps = 0
    undecided: list[Hashable] = []
    worst: tuple[Call, Hashable] | None = None
    for key, group in by_key.items():
        if worst is not None:  # only what goes wrong still earlier is of interest
            group = _until(group, worst[0].end)
        holds, stuck, used = _search(group, model, budget - steps)
        steps += used
        if holds is None:
            undecided.append(key)
        elif stuck is not None and (worst is None or stuck.end < worst[0].end):
            worst = stuck, key
    if worst is not None:
        stuck, key = worst
        where = "" if key is None else f"key {key!r}: "
        length = sum(
            (c.start <= stuck.end) + (c.end <= stuck.end) for group in by_key.values() for c in group
        )
        return Outcome(False, f"{where}no order allows {stuck}", key, stuck, steps, length)
    if undecided:
        names = ", ".join(map(repr, undecided[:3])) + (", …" if len(undecided) > 3 else "")
        return Outcome(None, f"undecided after {steps} steps (keys {names})", undecided[0], None, steps)
    operations = sum(map(len, by_key.values()))
    return Outcome(True, f"{operations} operations on {len(by_key)} keys", None, None, steps)


def explain(calls: Iterable[Call], model: Model, outcome: Outcome, *, budget: int = 300_000) -> list[Call]:
    """Few operations that cannot be ordered, out of the shortest prefix that cannot.  Each of those that have
    returned is needed for the contradiction; the others may have happened or not, at any time after their
    start, and would have to be known for it.  ``budget``: steps, after which it may be more than needed.

    Leaving out a read, or not knowing when a write returned, only makes a history easier to order: so the
    operations that have returned prove of the whole what they prove here."""
    assert outcome.stuck is not None
    kept = _until([c for c in calls if c.key == outcome.key], outcome.stuck.end)
    kept = [c for c in kept if c.end != math.inf or c.name not in model.reads]

    def impossible(some: Sequence[Call]) -> bool:
        nonlocal budget
        for again in (True, False):  # the first is quick where states do not grow
            holds, _, used = _search(some, model, max(1, min(3000, budget)), again=again)
            budget -= used
            if holds is not None:
                return not holds
        return False

    size = max(1, len(kept) // 2)
    while budget > 0:
        at = 0
        while at < len(known := [c for c in kept if c.end != math.inf and c is not outcome.stuck]):
            candidate = _easier(kept, known[at : at + size], model)
            if impossible(candidate):
                kept = candidate
            else:
                at += size
        if size == 1:
            break
        size //= 2
    # Without those that may have happened the rest is as impossible; but they may be why each of it matters.
    known = [c for c in kept if c.end != math.inf and c is not outcome.stuck]
    for call in [c for c in kept if c.end == math.inf]:
        rest = [c for c in kept if c is not call]
        if not any(budget <= 0 or impossible(_easier(rest, [c], model)) for c in known):
            kept = rest
    return sorted(kept, key=lambda c: (c.start, c.end))


def _easier(calls: Sequence[Call], some: Sequence[Call], model: Model) -> list[Call]:
    """The calls without what some of them say."""
    chosen = set(map(id, some))
    return [
        dataclasses.replace(c, end=math.inf, result=None) if id(c) in chosen else c
        for c in calls
        if id(c) not in chosen or not model.changes_nothing(c)
    ]


def _until(calls: Iterable[Call], end: float) -> list[Call]:
    """What was known at a time: later calls are not there, later returns have not come."""
    return [
        c if c.end <= end else dataclasses.replace(c, end=math.inf, result=None)
        for c in calls
        if c.start <= end
    ]


def _search(
    calls: Sequence[Call], model: Model, budget: int, *, again: bool = False
) -> tuple[bool | None, Call | None, int]:
    """Whether one key's operations can be ordered; if not, which cannot; and the steps that it took.

    ``again``: what never returned may happen any number of times, which is easier to order, and to search:
    there is nothing to remember of it."""
    # The events in the order of time: entry 0 is the head of a doubly linked list, then calls and returns.
    # Calls come before returns of the same time: such operations overlap.
    events = sorted(
        [(c.start, 0, i) for i, c in enumerate(calls)]
        + [(c.end, 1, i) for i, c in enumerate(calls) if c.end != math.inf]
    )
    size = len(events) + 1
    after = [*range(1, size), 0]  # entry 0 also ends the list
    before = [size - 1, *range(size - 1)]
    calls_at: list[Call | None] = [None] * size
    """The call of an entry; None: a return, or the head."""
    entry_of = [0] * len(calls)
    returns = [0] * size
    """For a call's entry, that of its return; 0: it never returned."""
    whose = [0] * size
    for entry, (_, kind, i) in enumerate(events, 1):
        whose[entry] = i
        if kind:
            returns[entry_of[i]] = entry
        else:
            entry_of[i] = entry
            calls_at[entry] = calls[i]
    # What changes nothing is placed as soon as it fits, and never somewhere else: it is in nobody's way.
    settled = [call is not None and model.changes_nothing(call) for call in calls_at]
    bits = [1 << i for i in whose]
    if again:
        bits = [bit if returns[e] else 0 for e, bit in enumerate(bits)]
    open_ = sum(map(bool, returns))
    apply = model.apply
    placed, state = 0, model.initial
    seen: set[tuple[int, Hashable]] = set()
    path: list[tuple[int, Hashable]] = []
    entry, deepest, steps = after[0], 0, 0
    while open_:
        call = calls_at[entry]
        if call is not None:  # may it be next?
            steps += 1
            if steps > budget:
                return None, None, steps
            back = returns[entry]
            new_state, result = apply(state, call.name, call.arguments)
            if not back or result == call.result:
                new = (placed | bits[entry], new_state)
                if new not in seen:
                    seen.add(new)
                    path.append((entry, state))
                    placed, state = new
                    if back or not again:
                        b, a = before[entry], after[entry]
                        after[b], before[a] = a, b
                    if back:
                        b, a = before[back], after[back]
                        after[b], before[a] = a, b
                        open_ -= 1
                    entry = after[0]
                    continue
                if settled[entry]:  # placed here it leads nowhere: then nothing does
                    call = None
        if call is not None:
            entry = after[entry]
            continue
        # A return, or the end: something before must have been placed wrongly.
        if not settled[entry]:
            deepest = max(deepest, entry)
        while True:
            if not path:
                return False, calls[whose[deepest]], steps
            entry, state = path.pop()
            back = returns[entry]
            if back:
                after[before[back]] = before[after[back]] = back
                open_ += 1
            if back or not again:
                after[before[entry]] = before[after[entry]] = entry
            placed ^= bits[entry]
            if not settled[entry]:
                break
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


REGISTER = Model(None, _register, frozenset({"read"}), frozenset({"cas"}))
"""read() -> value, write(value), cas(expected, value) -> bool; at first there is None."""
KV = Model(None, _kv, frozenset({"get"}), frozenset({"compare_and_set"}))
"""For each key: get() -> value, put(value), append(text), compare_and_set(expected, value) -> bool."""


def whole(model: Model) -> Model:
    """The same object for all keys at once: what is told apart by ``Call.key`` becomes one state.  Harder to
    search, and needed by what is not local, such as sequential consistency."""

    # States are numbered, so that the search compares and remembers integers.
    states: list[dict[Any, Any]] = [{}]
    numbers: dict[frozenset[Any], int] = {frozenset(): 0}
    known: dict[tuple[int, str, tuple[Any, ...]], tuple[int, Any]] = {}

    def apply(state: int, name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        asked = (state, name, arguments)
        if asked not in known:
            key, *rest = arguments
            old = states[state].get(key, model.initial)
            new, result = model.apply(old, name, tuple(rest))
            number = state
            if new != old:
                changed = {**states[state], key: new}
                number = numbers.setdefault(frozenset(changed.items()), len(states))
                if number == len(states):
                    states.append(changed)
            known[asked] = (number, result)
        return known[asked]

    return Model(0, apply, model.reads, model.conditional)


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
