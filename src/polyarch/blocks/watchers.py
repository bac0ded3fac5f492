"""What protocols that watch who is alive have in common: members that keep a note of what they noticed, and a
client that asks them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal
from zlib import crc32

from polyarch.core.errors import Failure
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import settle
from polyarch.jobs.membership import Notice, Present, Registrar, View

__all__ = ["Summary", "Watcher", "WatcherClient"]


class Summary(Record):
    """What a member knows and has done, in short."""

    life: int
    alive: int
    """A checksum of whom it holds to be alive."""
    periods: int
    """Protocol periods in which it has watched somebody."""
    sent: int
    """Messages of the protocol."""


class Watcher(Node):
    """The port of a member.  Its ``start`` calls ``begin``."""

    def begin(self) -> None:
        """The state of a member that has noticed nothing yet."""
        self.life = 1 + self.random.below(1 << 62)
        self.notices: list[Notice] = []
        self.periods = self.sent = 0

    def alive(self) -> list[str]:
        """Whom it holds to be alive, itself first; a failure if it is no member."""
        raise NotImplementedError

    def notice(self, subject: str, kind: Literal["alive", "suspect", "dead"], heard: float | None) -> None:
        """It has changed its mind about somebody, of whom it has heard last at a time, or never."""
        silence = None if heard is None else self.now - heard
        self.notices.append(Notice(subject, kind, self.now, silence))

    @rpc
    async def view(self) -> View:
        """All that it knows."""
        return View(self.address, self.life, tuple(self.alive()), tuple(self.notices))

    @rpc
    async def summary(self) -> Summary:
        """The same, in short."""
        return Summary(self.life, checksum(self.alive()), self.periods, self.sent)

    @rpc
    async def holds_alive(self, other: str) -> bool:
        """Whether it holds another one to be alive."""
        return other in self.alive()


class WatcherClient(Registrar):
    """Asks the members."""

    addresses: tuple[str, ...]
    period: float = 1.0

    @rpc
    async def holds_alive(self, member: int, other: int) -> bool:
        n = len(self.addresses)
        return await self.at(self.addresses[member % n], Watcher).holds_alive(self.addresses[other % n])

    async def summaries(self) -> dict[str, Summary]:
        """Of all who answer."""
        told: list[Summary | Failure] = []
        for i in range(0, len(self.addresses), 256):
            told += await settle(*(self.at(a, Watcher).summary() for a in self.addresses[i : i + 256]))
        return {a: s for a, s in zip(self.addresses, told) if isinstance(s, Summary)}

    @rpc(timeout=120.0)
    async def present(self) -> Present:
        return Present({a: summary.life for a, summary in (await self.summaries()).items()})

    @rpc
    async def view(self, member: str) -> View:
        return await self.at(member, Watcher).view()

    @rpc(timeout=600.0)
    async def settled(self) -> None:
        for _ in range(60 + 3 * len(self.addresses)):
            there = await self.summaries()
            if all(summary.alive == checksum(there) for summary in there.values()):
                return
            await self.sleep(self.period / 2)

    @rpc(timeout=120.0)
    async def load(self) -> float | None:
        """Messages that a member sends in a period, mean of all so far."""
        there = (await self.summaries()).values()
        periods = sum(summary.periods for summary in there)
        return sum(summary.sent for summary in there) / periods if periods else None


def checksum(addresses: Iterable[str]) -> int:
    """Of a set, in any order."""
    return sum(crc32(a.encode()) for a in addresses)
