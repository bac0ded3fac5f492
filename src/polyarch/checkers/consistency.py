"""Consistency models weaker than linearizability, by their usual names.

A history is a list of ``Call``s: reads and writes of registers under keys (``get`` and ``put``, or ``read``
and ``write``), each write of a value that no other write writes, so that a read tells which write it saw.
Operations of one client are in the order in which it made them: its *session*.

* ``sequential``: all operations have one order, in which each session keeps its own (Lamport, 1979).
* ``causal``: whoever has seen an effect has seen its causes (Ahamad et al., 1995); decided by the bad
  patterns of Bouajjani, Enea, Guerraoui and Hamza, "On verifying causal consistency", 2017 (there: CC).
* ``read_your_writes``, ``monotonic_reads``: two of the session guarantees (Terry et al., 1994).
* ``converges``: when no more is written, all come to read the same (Vogels, "Eventually consistent", 2009).
* ``serializable``: transactions are equal to some order of them, whatever the clock says; ``bank`` is an
  object to check transfers against.  With ``linearizability.check`` that is *strict* serializability.

Each gives a ``Finding``: whether it holds (None: not decided within the budget), and what speaks against it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from polyarch.checkers.linearizability import Call, Model, check

__all__ = [
    "Finding",
    "bank",
    "causal",
    "converges",
    "monotonic_reads",
    "read_your_writes",
    "sequential",
    "serializable",
]

_READS = ("get", "read")
_WRITES = ("put", "write")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Whether a model holds of a history."""

    holds: bool | None
    detail: str = ""
    calls: tuple[Call, ...] = ()
    """The operations that contradict it."""


_HOLDS = Finding(True)


# -- orders --------------------------------------------------------------------------------------------------


def sequential(calls: Iterable[Call], model: Model, *, budget: int = 1_000_000) -> Finding:
    """Is there one order of all operations that keeps each session's, and that the object allows?

    ``model``: of one key; keys cannot be looked at one by one, as sequential consistency is not local.  What
    never returned may have happened at any time after what its client did before, or never."""
    sessions: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda c: c.start):
        sessions.setdefault(call.client, []).append(call)
    lanes: list[list[Call]] = []
    after: list[tuple[int, int] | None] = []  # for a lane of its own: behind which place of which lane
    for session in sessions.values():
        lane: list[Call] = []
        number = len(lanes)
        lanes.append(lane)
        after.append(None)
        for call in session:
            if call.end != math.inf:
                lane.append(call)
            elif not model.changes_nothing(call):
                lanes.append([call])
                after.append((number, len(lane)))
    needed = [after[i] is None for i in range(len(lanes))]
    places, states = [0] * len(lanes), dict[Hashable, Any]()
    left = sum(len(lane) for lane, need in zip(lanes, needed) if need)
    seen: set[Hashable] = set()
    path: list[tuple[int, Hashable, Any]] = []
    steps, lane_at, furthest = 0, 0, 0
    while left:
        moved = False
        for i in range(lane_at, len(lanes)):
            if places[i] == len(lanes[i]) or ((w := after[i]) is not None and places[w[0]] < w[1]):
                continue
            call = lanes[i][places[i]]
            steps += 1
            old = states.get(call.key, model.initial)
            new, result = model.apply(old, call.name, call.arguments)
            if needed[i] and result != call.result:
                continue
            places[i] += 1
            states[call.key] = new
            here = (tuple(places), frozenset(states.items()))
            if here in seen:
                places[i] -= 1
                states[call.key] = old
                continue
            seen.add(here)
            path.append((i, call.key, old))
            left -= needed[i]
            moved, lane_at = True, 0
            furthest = max(furthest, len(path))
            break
        if moved:
            continue
        if steps > budget:
            return Finding(None, f"undecided after {steps} steps")
        if not path:
            return Finding(False, f"no order of all operations keeps every session's ({furthest} fit)")
        i, key, old = path.pop()
        places[i] -= 1
        states[key] = old
        left += needed[i]
        lane_at = i + 1
    return _HOLDS


def serializable(calls: Iterable[Call], model: Model, *, budget: int = 1_000_000) -> Finding:
    """Is there any order of the transactions that the object allows?  That of their returns comes first."""
    ordered = sorted(calls, key=lambda c: c.end)
    free = [
        dataclasses.replace(c, start=0.0, end=1.0 if c.end != math.inf else math.inf, key=None)
        for c in ordered
    ]
    outcome = check(free, model, budget=budget)
    if outcome.holds is False:
        return Finding(False, "no order of the transactions gives these answers")
    return Finding(outcome.holds, "" if outcome.holds else outcome.detail)


def bank(accounts: Mapping[Hashable, int], *, overdraft: bool = False) -> Model:
    """Accounts as one object: ``transfer(source, target, amount) -> bool`` (False: not enough there), and
    ``balances() -> tuple``, in the order of ``accounts``."""
    places = {name: i for i, name in enumerate(accounts)}

    def apply(state: tuple[int, ...], name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        if name == "balances":
            return state, state
        source, target, amount = arguments
        if not overdraft and state[places[source]] < amount:
            return state, False
        new = list(state)
        new[places[source]] -= amount
        new[places[target]] += amount
        return tuple(new), True

    return Model(tuple(accounts.values()), apply, frozenset({"balances"}), frozenset({"transfer"}))


# -- causes --------------------------------------------------------------------------------------------------


class _Causes:
    """Which operations happened before which: each session's order, and each write before its reads."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = sorted((c for c in calls if c.name in _READS + _WRITES), key=lambda c: (c.start, c.end))
        self.calls = [c for c in self.calls if c.end != math.inf or c.name in _WRITES]
        self.writer: dict[tuple[Hashable, Any], int] = {}
        for i, call in enumerate(self.calls):
            if call.name in _WRITES:
                self.writer[call.key, call.arguments[0]] = i
        self.thin_air: list[Call] = []
        self.seen: dict[int, int | None] = {}
        """For each read, the write that it saw; None: the initial value."""
        for i, call in enumerate(self.calls):
            if call.name in _READS:
                self.seen[i] = self.writer.get((call.key, call.result))
                if self.seen[i] is None and call.result is not None:
                    self.thin_air.append(call)
        self.before = self._closure()
        """For each operation, a bit for each that happened before it."""

    def _closure(self) -> list[int]:
        n = len(self.calls)
        last: dict[int, int] = {}
        direct: list[list[int]] = [[] for _ in range(n)]
        for i, call in enumerate(self.calls):
            if call.client in last:
                direct[i].append(last[call.client])
            last[call.client] = i
            writer = self.seen.get(i)
            if writer is not None:
                direct[i].append(writer)
        before = [0] * n
        changed = True
        while changed:  # a pass is enough unless a read saw a write that began later
            changed = False
            for i in range(n):
                bits = before[i]
                for j in direct[i]:
                    bits |= before[j] | 1 << j
                if bits != before[i]:
                    before[i], changed = bits, True
        return before

    def precedes(self, a: int, b: int) -> bool:
        return bool(self.before[b] >> a & 1)

    def writes(self, key: Hashable) -> list[int]:
        return [i for i, c in enumerate(self.calls) if c.name in _WRITES and c.key == key]


def causal(calls: Iterable[Call]) -> Finding:
    """Causal consistency: no read of a value out of thin air, no operation before itself, and no read of
    what its own past has overwritten."""
    causes = _Causes(calls)
    if causes.thin_air:
        return Finding(False, f"nobody wrote it: {causes.thin_air[0]}", (causes.thin_air[0],))
    for i, call in enumerate(causes.calls):
        if causes.precedes(i, i):
            return Finding(False, f"it is its own cause: {call}", (call,))
    for i, writer in causes.seen.items():
        for other in causes.writes(causes.calls[i].key):
            replaced = writer is None or causes.precedes(writer, other)
            if replaced and other != writer and causes.precedes(other, i):
                return _overwritten(causes, i, other)
    return _HOLDS


def _overwritten(causes: _Causes, read: int, write: int) -> Finding:
    calls = (causes.calls[write], causes.calls[read])
    return Finding(False, f"{calls[1]}, which its own past has overwritten: {calls[0]}", calls)


# -- sessions ------------------------------------------------------------------------------------------------


def read_your_writes(calls: Iterable[Call]) -> Finding:
    """A client never reads what it has itself overwritten before, or what was overwritten by what led to
    its own write."""
    causes = _Causes(calls)
    own: dict[tuple[int, Hashable], int] = {}
    for i, call in enumerate(causes.calls):
        if call.name in _WRITES:
            if call.end != math.inf:
                own[call.client, call.key] = i
            continue
        mine, writer = own.get((call.client, call.key)), causes.seen[i]
        if mine is not None and writer != mine and (writer is None or causes.precedes(writer, mine)):
            return _overwritten(causes, i, mine)
    return _HOLDS


def monotonic_reads(calls: Iterable[Call]) -> Finding:
    """What a client reads of a key never goes back to what it has seen replaced."""
    causes = _Causes(calls)
    past: dict[tuple[int, Hashable], list[int]] = {}
    for i, call in enumerate(causes.calls):
        if call.name not in _READS:
            continue
        earlier, writer = past.setdefault((call.client, call.key), []), causes.seen[i]
        for j in reversed(earlier):
            other = causes.seen[j]
            if other == writer:
                break
            back = writer is None or (other is not None and causes.precedes(writer, other))
            if back or any(causes.seen[k] == writer for k in earlier if k < j):
                pair = (causes.calls[j], call)
                return Finding(False, f"{pair[1]}, after it had read {pair[0].result!r}: {pair[0]}", pair)
        earlier.append(i)
    return _HOLDS


def converges(calls: Iterable[Call], *, settle: float = 0.0) -> Finding:
    """When nothing has been written to a key for ``settle`` seconds, all reads of it give one value, which
    somebody wrote.  What never returned counts as written from its start on."""
    by_key: dict[Hashable, list[Call]] = {}
    for call in calls:
        by_key.setdefault(call.key, []).append(call)
    for key, group in by_key.items():
        written = [c for c in group if c.name not in _READS]
        last = max((c.end if c.end != math.inf else c.start for c in written), default=-math.inf)
        late: Sequence[Call] = [
            c for c in group if c.name in _READS and c.end != math.inf and c.start > last + settle
        ]
        for other in late[1:]:
            if other.result != late[0].result:
                return Finding(False, f"key {key!r}: {late[0]}, but {other}", (late[0], other))
    return _HOLDS
