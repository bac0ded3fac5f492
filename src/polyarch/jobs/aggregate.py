"""Know the mean of what all hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = ["Aggregate", "Gauges", "Reading", "Readings"]


class Reading(Record, array_like=True):
    """What one member holds, and what it believes."""

    address: str
    value: float
    """Its own."""
    estimate: float
    """Of the mean of all members' values."""


class Readings(Record):
    """Of all members that answer."""

    of: tuple[Reading, ...]


class Gauges(Node):
    """The port: members that each hold a number (a load, a temperature, free space)."""

    timeout = 5.0

    @rpc
    async def change(self, member: int, value: float) -> None:
        """Set a member's own value (by number, modulo their number)."""
        raise NotImplementedError

    @rpc
    async def estimate(self, member: int) -> float:
        """What a member believes the mean to be."""
        raise NotImplementedError

    @rpc(timeout=120.0)
    async def readings(self) -> Readings:
        """Of all, when whatever was changed has had time to be known."""
        raise NotImplementedError


class Aggregate(Job):
    """Know the mean of what all members hold, by asking any one of them.

    What is checked: when everything is healed and quiet, the estimate of each member is the mean of the
    values of all who live, to within a part of their spread.
    """

    port = Gauges
    rate = 50.0
    saturates = False  # an answer is what a member believes: asking costs it nothing
    measures = (
        Measure("error", "what members believe is off by {}", better="low"),
        Measure("spread", "what they believe differs by {} (standard deviation)", better="low"),
    )
    members: int = parameter(1000, "who is meant: a number below this, modulo the members", least=1)
    changes: float = parameter(0.2, "share of operations that change a value", least=0, most=1)
    error: float = parameter(0.001, "that an estimate may have, as a part of the values' spread", least=0)

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            member = random.below(self.members)
            if random.chance(self.changes):
                yield (Operation("change", (member, round(random.between(0.0, 100.0), 3))),)
            else:
                yield (Operation("estimate", (member,)),)

    async def audit(self, client: Any) -> Readings:
        readings: Readings = await client.readings()
        return readings

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        readings = (audit if isinstance(audit, Readings) else msgspec.convert(audit, Readings)).of
        name = "each estimate is the mean of all values"
        if not readings:
            return [Verdict(name, False, "nobody answers")]
        values = [r.value for r in readings]
        mean, spread = sum(values) / len(values), max(values) - min(values)
        worst = max(readings, key=lambda r: abs(r.estimate - mean))
        off = abs(worst.estimate - mean)
        detail = f"the mean of {len(values)} is {mean:.6g}; the worst estimate is off by {off:.3g}"
        return [Verdict(name, off <= self.error * spread + 1e-9, f"{detail} ({worst.address})")]
