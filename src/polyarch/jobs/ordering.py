"""Order events without a clock that all share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = ["Event", "Happenings", "Ordering", "Witnesses", "happened_before"]


class Event(Record):
    """Something that has happened in one process, and when, by its logical clocks."""

    process: int
    number: int
    """The how manyth of the process."""
    kind: str
    """``local``, ``send`` or ``receive``."""
    message: str
    """For a message: its name."""
    other: int
    """For a message: its receiver or its sender."""
    lamport: int
    vector: tuple[int, ...]


class Happenings(Record):
    """What has happened in all processes."""

    events: tuple[Event, ...]


class Witnesses(Node):
    """The port: processes in which something happens."""

    timeout = 5.0

    @rpc
    async def happen(self, process: int, other: int) -> int:
        """Something happens in a process (by number, modulo their number): it sends a message to another
        one, or if that is itself, only something of its own.  Its time by Lamport's clock."""
        raise NotImplementedError

    @rpc(timeout=60.0)
    async def happenings(self) -> Happenings:
        """Everything that has happened."""
        raise NotImplementedError


class Ordering(Job):
    """Order events without a clock that all share.

    What is checked, by the definition of happened-before and not by any clock: if one event happened before
    another, its Lamport time is smaller; and it happened before another exactly if its vector is smaller.
    """

    port = Witnesses
    rate = 20.0
    processes: int = parameter(1000, "in whom it happens: a number below this, modulo the processes", least=1)
    local: float = parameter(0.3, "share of events that are no message", least=0, most=1)
    most: int = parameter(1500, "events that are compared with each other: the first so many", least=1)

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            one, other = random.below(self.processes), random.below(self.processes)
            yield (Operation("happen", (one, one if random.chance(self.local) else other)),)

    async def audit(self, client: Any) -> Happenings:
        happenings: Happenings = await client.happenings()
        return happenings

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        told = audit if isinstance(audit, Happenings) else msgspec.convert(audit, Happenings)
        # By Lamport's time: what is cut off then happened before nothing of what is left.
        events = sorted(told.events, key=lambda e: (e.lamport, e.process, e.number))[: self.most]
        past = happened_before(events)
        ordered = wrong_lamport = wrong_vector = 0
        lamport = vector = ""
        for i, a in enumerate(events):
            for j, b in enumerate(events):
                is_before = bool(past[j] >> i & 1)
                ordered += is_before
                if is_before and a.lamport >= b.lamport:
                    wrong_lamport += 1
                    lamport = lamport or f"; first: {_named(a)} happened before {_named(b)}"
                if is_before != _smaller(a.vector, b.vector):
                    wrong_vector += 1
                    vector = vector or f"; first: {_named(a)} and {_named(b)}"
        pairs = len(events) * (len(events) - 1) // 2
        seen = f"{len(events)} events; of {pairs} pairs {ordered} are ordered, {pairs - ordered} concurrent"
        return [
            Verdict(
                "what happened before has a smaller Lamport time",
                not wrong_lamport,
                f"{seen}; {wrong_lamport} wrong{lamport}",
            ),
            Verdict(
                "one event happened before another exactly if its vector is smaller",
                not wrong_vector,
                f"{wrong_vector} of {len(events) ** 2} comparisons wrong{vector}",
            ),
        ]


def happened_before(events: Sequence[Event]) -> list[int]:
    """For each event, those that happened before it, as bits: by the definition (Lamport, 1978): earlier in
    the same process, sent before received, and so on."""
    place = {(e.process, e.number): i for i, e in enumerate(events)}
    sent = {e.message: i for i, e in enumerate(events) if e.kind == "send"}
    causes: list[list[int]] = []
    for e in events:
        mine = [place.get((e.process, e.number - 1)), sent.get(e.message) if e.kind == "receive" else None]
        causes.append([cause for cause in mine if cause is not None])
    past: list[int | None] = [None] * len(events)
    for start in range(len(events)):
        stack = [start]
        while stack:
            i = stack[-1]
            missing = [c for c in causes[i] if past[c] is None]
            if missing:
                stack += missing
                if len(stack) > 2 * len(events):
                    raise ValueError("an event happened before itself")
                continue
            stack.pop()
            bits = 0
            for c in causes[i]:
                bits |= (past[c] or 0) | 1 << c
            past[i] = bits
    return [bits or 0 for bits in past]


def _smaller(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _named(e: Event) -> str:
    return f"{e.kind} {e.message or e.number} at {e.process} (Lamport {e.lamport}, vector {e.vector})"
