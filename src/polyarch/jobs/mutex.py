"""Let one at a time into a critical section."""

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

__all__ = ["CriticalSection", "Mutex", "Turn", "Usage", "overtaken"]


class Turn(Record):
    """One stay in the critical section."""

    number: int
    """The how manyth of all, as the resource counts them."""
    waited: float
    """Seconds from asking to being in."""


class Usage(Record):
    """What happened to the resource that the critical section protects."""

    entries: int
    overlaps: tuple[str, ...]
    """Each time that somebody came in while another one was inside."""
    last: bool = True
    """Whether every participant could enter in the end, when all was healed."""


class CriticalSection(Node):
    """The port: participants that want to do something alone."""

    timeout = 60.0

    @rpc
    async def enter(self, participant: int, seconds: float) -> Turn:
        """A participant (by number, modulo their number) enters the critical section, stays for so long,
        and leaves."""
        raise NotImplementedError

    @rpc
    async def usage(self) -> Usage:
        """What the resource has seen; every participant has entered once more for that."""
        raise NotImplementedError


class Mutex(Job):
    """Let one at a time into a critical section; let in everybody who asks.

    What is checked: the resource that the section protects never sees two inside; and when everything is
    healed, every participant gets in.  Requests that a broken system does not grant are operations lost.
    """

    port = CriticalSection
    rate = 20.0
    small = {"stay": 0.05}
    participants: int = parameter(1000, "who asks: a number below this, modulo the participants", least=1)
    stay: float = parameter(0.005, "mean stay in the section", least=0, unit="s")

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            who = random.below(self.participants)
            yield (Operation("enter", (who, random.exponential(self.stay) if self.stay else 0.0)),)

    async def audit(self, client: Any) -> Usage:
        usage: Usage = await client.usage()
        return usage

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        usage = audit if isinstance(audit, Usage) else msgspec.convert(audit, Usage)
        asked = [done for done in history if done.name == "enter"]
        let_in = sum(done.outcome == "ok" for done in asked)
        first = f"; first: {usage.overlaps[0]}" if usage.overlaps else ""
        detail = f"{usage.entries} entries, {len(usage.overlaps)} while another one was inside{first}"
        most = max(overtaken(asked), default=0)
        share = f"{let_in} of {len(asked)} requests granted; the most overtaken one by {most} later ones"
        return [
            Verdict("never two in the critical section", not usage.overlaps, detail),
            Verdict("every participant gets in when all is healed", usage.last, share),
        ]


def overtaken(history: Sequence[Done]) -> list[int]:
    """For each stay, in the order of asking: how many that asked later got in before."""
    turns = sorted(
        (done.start, msgspec.convert(done.value, Turn).number) for done in history if done.outcome == "ok"
    )
    numbers = [number for _, number in turns]
    return [sum(later < number for later in numbers[i + 1 :]) for i, number in enumerate(numbers)]
