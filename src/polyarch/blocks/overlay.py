"""What overlays that hold keys have in common: participants that can be counted, a client that asks any of
them, and another one if that does not answer, and the figures by which overlays are compared."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

from polyarch.blocks.ring import identifier
from polyarch.core.errors import BadArguments, Failure, Refused, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import settle
from polyarch.jobs.lookup import Census, Directory, Holder, Member, NotFound, Rule, place_of

__all__ = [
    "TALLY", "NotAMember", "OverlayClient", "Participant", "Peer", "Standing", "figures", "place_in",
    "ring_of",
]  # fmt: skip

TALLY = {
    "success": "share of the lookups that were answered",
    "hops": "mean steps of a lookup from the peer that was asked first, to the holder or (Chord, ring, "
    "Kademlia) to who knows the holder: as the overlay's paper counts",
    "timeouts": "mean dead nodes that a lookup ran into",
    "retries": "mean times that a lookup was asked again, of another peer",
    "imbalance": "lookup messages that the busiest node handled, over the mean of all nodes",
    "links": "mean other nodes that a node knows",
    "upkeep": "messages per second and node when nobody asks",
}
"""What ``figures`` measures."""

_AT_ONCE = 256  # peers asked at the same time when all are asked


class NotAMember(Refused, code="not-a-member"):
    """The node that was asked has not joined the overlay, or has left it."""


class Peer(Record, array_like=True, order=True):
    """A node with its identifier, as others know it."""

    id: int
    address: str


def ring_of(addresses: Sequence[str], bits: int) -> tuple[Peer, ...]:
    """These nodes in the order of their identifiers; ``ValueError`` if two have the same."""
    ring = tuple(sorted(Peer(identifier(a, bits), a) for a in addresses))
    if len({p.id for p in ring}) < len(ring):
        raise ValueError(f"--bits {bits}: two of {len(ring)} nodes have the same identifier")
    return ring


def place_in(addresses: Sequence[str], address: str) -> int:
    """The place of an address among others.  A role's addresses end with it, so that 100,000 peers need not
    search through 100,000 addresses each."""
    number = address.rpartition("-")[2]
    if number.isdecimal() and int(number) < len(addresses) and addresses[int(number)] == address:
        return int(number)
    return addresses.index(address)


class Standing(Record):
    """How a participant stands among the others."""

    handled: int
    """Lookup messages that it has handled since it started."""
    links: int
    """Different nodes that it knows."""


class Participant(Node):
    """The port of a peer, for a census, for figures, and for churn."""

    handled = 0
    """A peer adds 1 for each lookup message that it handles (those of its upkeep too)."""
    life = 0

    async def start(self) -> None:
        self.handled = self.life = 0

    @rpc
    async def whoami(self) -> Member:
        """Refused by a node that is not a member."""
        self.life = self.life or 1 + self.random.below(1 << 62)
        return Member(self.place(), self.address, self.life)

    @rpc
    async def standing(self) -> Standing:
        """How much it had to do, and how many nodes it knows."""
        return Standing(self.handled, self.links())

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Leave in good order: tell others, hand over; then no more a member.  (By default there is nobody
        to tell.)"""

    def place(self) -> int:
        """This member's identifier; ``NotAMember`` if it is none."""
        raise NotImplementedError

    def links(self) -> int:
        """How many different nodes it knows: its degree in the overlay."""
        raise NotImplementedError


class OverlayClient(Directory):
    """Asks any peer, and another one if that does not answer."""

    addresses: tuple[str, ...]
    """The peers."""
    servers: tuple[str, ...] = ()
    """Participants that are no peers, and do a part of the work."""
    bits: int = 32
    tries: int = 8
    rule: Rule = "successor"
    copies: int = 1
    """By the rule ``holders``: how many peers hold each key."""

    final: ClassVar[tuple[type[Failure], ...]] = (BadArguments, NotFound)
    """Refusals for which no other peer is asked."""

    async def start(self) -> None:
        self.asked = self.lookups = self.hops = self.timeouts = self.retries = 0

    @abc.abstractmethod
    async def ask(self, peer: str, place: int) -> Holder:
        """Look an identifier up through one peer."""

    @rpc
    async def lookup(self, key: int | str) -> Holder:
        place = place_of(key, self.bits)
        self.asked += 1
        failure: Failure = Unreachable("no peers are known")
        for peer in self.random.sample(self.addresses, min(self.tries, len(self.addresses))):
            try:
                holder = await self.ask(peer, place)
            except Failure as error:
                if isinstance(error, self.final):
                    raise
                failure = error  # looking a key up changes nothing: it may always be asked again
                self.retries += 1
            else:
                self.lookups += 1
                self.hops += holder.hops
                self.timeouts += holder.timeouts
                return holder
        raise failure

    @rpc(timeout=120.0)
    async def tally(self) -> dict[str, float]:
        """``TALLY`` without the upkeep, of all lookups so far.  What nobody did is not there."""
        figures: dict[str, float] = {}
        if self.asked:
            figures["success"] = self.lookups / self.asked
        if n := self.lookups:
            figures.update(hops=self.hops / n, timeouts=self.timeouts / n, retries=self.retries / n)
        told = await self.all_of("standing", (*self.addresses, *self.servers))
        if handled := sum(s.handled for s in told):
            figures["imbalance"] = max(s.handled for s in told) * len(told) / handled
        if told:
            figures["links"] = sum(s.links for s in told) / len(told)
        return figures

    @rpc(timeout=120.0)
    async def census(self) -> Census:
        members = await self.all_of("whoami", self.addresses)
        placed = self.addresses if self.rule == "holders" else ()
        in_order = tuple(sorted(members, key=lambda m: m.id))
        return Census(self.bits, in_order, self.rule, placed, self.copies)

    async def all_of(self, question: str, addresses: Sequence[str]) -> list[Any]:
        """The answers of those participants that answer."""
        answers: list[Any] = []
        for i in range(0, len(addresses), _AT_ONCE):
            asked = (getattr(self.at(a, Participant), question)() for a in addresses[i : i + _AT_ONCE])
            answers += [a for a in await settle(*asked) if not isinstance(a, Failure)]
        return answers


async def figures(x: Any, nodes: int) -> dict[str, float]:
    """``TALLY`` of an overlay of so many nodes, for ``Architecture.observe``: what its client has counted,
    and the messages of a while in which nobody asks (long enough for every node's timers if there are few;
    of many nodes, a second shows as much)."""
    quiet = min(4.0, max(1.0, 10_000 / nodes))
    before = await x.control.traffic()
    await x.sleep(quiet)
    after = await x.control.traffic()
    upkeep = (after.messages - before.messages) / quiet / nodes
    return {**await x.client.tally(), "upkeep": upkeep}
