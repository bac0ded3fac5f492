"""What overlays that hold keys have in common: participants that can be counted, and a client that asks any
of them, and another one if that does not answer."""

from __future__ import annotations

import abc

from polyarch.blocks.ring import identifier
from polyarch.core.errors import BadArguments, Failure, Refused, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.tasks import settle
from polyarch.jobs.lookup import Census, Directory, Holder, Member

__all__ = ["TALLY", "NotAMember", "OverlayClient", "Participant"]

TALLY = {
    "hops": "mean nodes that passed a lookup on, after the one that was asked first",
    "timeouts": "mean dead nodes that a lookup ran into",
    "retries": "mean times that a lookup was asked again, of another peer",
}
"""What ``OverlayClient.tally`` measures."""


class NotAMember(Refused, code="not-a-member"):
    """The node that was asked has not joined the overlay, or has left it."""


class Participant(Node):
    """The port of a peer, for a census."""

    life = 0

    @rpc
    async def whoami(self) -> Member:
        """Refused by a node that is not a member."""
        self.life = self.life or 1 + self.random.below(1 << 62)
        return Member(self.place(), self.address, self.life)

    def place(self) -> int:
        """This member's identifier; ``NotAMember`` if it is none."""
        raise NotImplementedError


class OverlayClient(Directory):
    """Asks any peer, and another one if that does not answer."""

    addresses: tuple[str, ...]
    bits: int = 32
    tries: int = 8

    async def start(self) -> None:
        self.lookups = self.hops = self.timeouts = self.retries = 0

    @abc.abstractmethod
    async def ask(self, peer: str, place: int) -> Holder:
        """Look an identifier up through one peer."""

    @rpc
    async def lookup(self, key: int | str) -> Holder:
        place = key if isinstance(key, int) else identifier(key, self.bits)
        failure: Failure = Unreachable("no peers are known")
        for peer in self.random.sample(self.addresses, min(self.tries, len(self.addresses))):
            try:
                holder = await self.ask(peer, place)
            except BadArguments:
                raise
            except Failure as error:
                failure = error  # looking a key up changes nothing: it may always be asked again
                self.retries += 1
            else:
                self.lookups += 1
                self.hops += holder.hops
                self.timeouts += holder.timeouts
                return holder
        raise failure

    @rpc
    async def tally(self) -> dict[str, float]:
        """``TALLY``, of all lookups answered so far."""
        n = self.lookups or 1
        return {"hops": self.hops / n, "timeouts": self.timeouts / n, "retries": self.retries / n}

    @rpc(timeout=120.0)
    async def census(self) -> Census:
        members: list[Member] = []
        for i in range(0, len(self.addresses), 256):
            page = self.addresses[i : i + 256]
            answers = await settle(*(self.at(a, Participant).whoami() for a in page))
            members += [a for a in answers if isinstance(a, Member)]
        return Census(self.bits, tuple(sorted(members, key=lambda m: m.id)))
