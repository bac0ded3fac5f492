"""Static peers: they all know each other from the beginning, so that every lookup is one hop.

Full membership tables: Gupta, Liskov and Rodrigues, "Efficient routing for peer-to-peer overlays", NSDI 2004
(one-hop lookups); here without their protocol that keeps the tables up to date: who takes part is fixed.

Every peer has the same table of all peers, in the order of their identifiers.  A key belongs to its
successor, the first peer clockwise from it, as in Chord.  Whoever is asked finds that peer in its table and
passes the question on; if it turns out to be dead, to the next one; and the dead one is left alone for a
while.

What is the problem with this?  Nobody can join.  Each peer holds N - 1 addresses and the system N (N - 1) of
them: a table that had to follow joins and leaves would cost a message to everybody for each.  A dead peer is
found out anew by every other one, at the cost of a lookup that runs into it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from polyarch.blocks.overlay import TALLY, NotAMember, OverlayClient, Participant, Peer, figures, ring_of
from polyarch.blocks.ring import identifier
from polyarch.core import Architecture, BadArguments, Failure, Record, System, Verdict, parameter, rpc
from polyarch.jobs.lookup import Census, Holder, Lookup


class Found(Record, array_like=True):
    """Who is responsible for a key, and what finding out took."""

    peer: Peer
    hops: int
    timeouts: int


class StaticPeer(Participant):
    """One peer."""

    bits: int = 32
    ring: tuple[Peer, ...]
    """All peers, in the order of their identifiers: the same table everywhere."""
    shun: float = 2.0
    """Seconds for which a peer that did not answer is taken for dead."""

    async def start(self) -> None:
        await super().start()
        self.me = Peer(identifier(self.address, self.bits), self.address)
        self.left = False
        self.dead_until: dict[str, float] = {}

    @rpc(timeout=4.0)
    async def find(self, key: int) -> Found:
        """Ask this peer who is responsible for a key."""
        self.handled += 1
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        if self.left:
            raise NotAMember(self.address)
        timeouts = 0
        for peer in self.clockwise(key):
            if peer == self.me:
                break
            if self.dead_until.get(peer.address, 0.0) > self.now:
                continue
            try:
                await self.at(peer).own(key)
                self.dead_until.pop(peer.address, None)
                return Found(peer, 1, timeouts)
            except Failure:
                self.dead_until[peer.address] = self.now + self.shun
                timeouts += 1
        return Found(self.me, 0, timeouts)

    def clockwise(self, key: int) -> Iterator[Peer]:
        """All peers, in the order in which they come clockwise from a key."""
        at, n = bisect_left(self.ring, Peer(key, "")), len(self.ring)
        return (self.ring[(at + i) % n] for i in range(n))

    @rpc(timeout=0.5)
    async def own(self, key: int) -> None:
        """Take a question that is this peer's to answer."""
        self.handled += 1
        if self.left:
            raise NotAMember(self.address)

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        self.left = True  # there is nobody in particular to tell: all would have to know

    def place(self) -> int:
        if self.left:
            raise NotAMember(self.address)
        return self.me.id

    def links(self) -> int:
        return len(self.ring) - 1


class StaticClient(OverlayClient):
    """Looks keys up through any peer."""

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, StaticPeer).find(place)
        return Holder(found.peer.address, found.hops, found.timeouts)


class StaticPeers(Architecture):
    """Peers that all know each other from the beginning: one hop to whoever is responsible for a key."""

    family = "peer-to-peer"
    source = "Gupta, Liskov, Rodrigues, Efficient routing for peer-to-peer overlays, NSDI 2004 (its tables)"
    jobs = (Lookup,)
    claims = ("no single point of failure", "lookups in one hop", "no upkeep")
    metrics = TALLY

    nodes: int = parameter(16, "peers", least=1)
    bits: int = parameter(32, "bits of an identifier", least=1, most=64)
    shun: float = parameter(2.0, "time for which a silent peer is taken for dead", least=0, unit="s")

    @property
    def not_borne(self) -> tuple[str, ...]:
        """Who is not heard is taken for dead, and the next one answers in its place."""
        return ("pause", "partition", "loss", "delay")

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        ring = ring_of(addresses, self.bits)
        system.role("peer", StaticPeer(bits=self.bits, ring=ring, shun=self.shun), count=self.nodes)
        system.clients(StaticClient(addresses=addresses, bits=self.bits))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        measured = await figures(x, self.nodes)
        census: Census = await x.client.census()
        detail = f"{len(census.members)} of {self.nodes}"
        return measured, [Verdict("every peer is a member", len(census.members) == self.nodes, detail)]
