"""A ring: each peer knows only its neighbours, and a lookup walks from one to the next.

Stoica, Morris, Liben-Nowell, Karger, Kaashoek, Dabek, Balakrishnan: "Chord: a scalable peer-to-peer lookup
protocol for Internet applications", IEEE/ACM ToN 11(1), 2003, section IV-E: its upkeep is that of a ring and
nothing else.  A peer here is one of ``chord.py`` without fingers: joining, leaving and repair are the same.

Every peer has an identifier on a ring of 2^bits.  A key belongs to its *successor*, the first peer clockwise
from it.  A peer knows its predecessor and the next few peers clockwise (its *successor list*).  A question is
passed on to the nearest neighbour until it comes to the key: over N/2 peers if only clockwise, over N/4 if
the first one chooses the shorter way round.  The rest of the successor list is for repair: if the neighbour
has died, the next one takes its place.

What is the problem with this?  The way grows like N: twice as many peers, twice as many messages and twice
the time for each lookup; and every peer on the way has the work.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.architectures.chord import Chord, ChordRing, Found
from polyarch.blocks.forming import formed, until_joined
from polyarch.blocks.overlay import TALLY, NotAMember, OverlayClient, Peer, figures, ring_of
from polyarch.blocks.ring import distance, within
from polyarch.core import Architecture, BadArguments, Failure, System, Verdict, parameter, rpc, settle
from polyarch.jobs.lookup import Census, Holder, Lookup


class RingPeer(Chord):
    """One peer."""

    length: int = 4
    """How many peers the successor list holds."""
    both_ways: bool = True
    """Whether a question may go counterclockwise too."""

    timeout = 1.0

    @rpc(timeout=10.0)
    async def find_successor(
        self, key: int, hops: int = 0, timeouts: int = 0, back: bool | None = None
    ) -> Found:
        """Ask this peer who is responsible for a key.  ``back``: which way the question goes round; the
        first peer decides."""
        self.handled += 1
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        if back is None:
            back = self.both_ways and distance(self.me.id, key, self.bits) > 1 << (self.bits - 1)
        while self.successors:
            before, behind = self.predecessor, self.successors[0]
            if before is not None and within(key, before.id, self.me.id):
                return Found(self.me, hops, timeouts)
            arrived = within(key, self.me.id, behind.id)
            # If nobody is known on the way back, the long way round remains.
            back = back and before is not None and not arrived
            n = before if back and before is not None else behind
            try:
                if arrived:
                    if n != self.me:
                        await self.at(n).ping()
                    return Found(n, hops, timeouts)
                return await self.at(n).find_successor(key, hops + 1, timeouts, back)
            except Failure as failure:
                await self.suspect(n, failure)
                timeouts += 1
        raise NotAMember(self.address)

    def forget(self, n: Peer) -> None:
        """A neighbour has died: the next in the list takes its place."""
        if self.predecessor == n:
            self.predecessor = None
        super().forget(n)

    async def fix_fingers(self) -> bool:
        """There are none."""
        return False


class RingClient(OverlayClient):
    """Looks keys up through any peer."""

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, RingPeer).find_successor(place)
        return Holder(found.peer.address, found.hops, found.timeouts)


class RingOverlay(Architecture):
    """Each peer knows only its neighbours on a ring: little to keep up, and a long way to every key."""

    family = "peer-to-peer"
    source = "Stoica et al., Chord, IEEE/ACM ToN 11(1), 2003, section IV-E, without fingers"
    jobs = (Lookup,)
    claims = ("no single point of failure",)
    metrics = TALLY

    nodes: int = parameter(16, "peers", least=1)
    bits: int = parameter(32, "bits of an identifier", least=1, most=64)
    neighbours: int = parameter(4, "length of the successor list", least=1)
    ways: Literal["one", "both"] = parameter("both", "round the ring one way, or both")
    stabilize: float = parameter(0.5, "time between two rounds of upkeep; 0: none", least=0, unit="s")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start stable")
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    not_borne = ChordRing.not_borne

    def build(self, system: System) -> None:
        if not self.stabilize and self.formation == "joined" and self.nodes > 1:
            raise ValueError("--stabilize 0: joining needs it; --formation converged needs none")
        addresses = system.addresses("peer", self.nodes)
        ring = ring_of(addresses, self.bits)
        peer = RingPeer(
            bits=self.bits,
            length=self.neighbours,
            both_ways=self.ways == "both",
            stabilize_every=self.stabilize,
            addresses=addresses,
            arrival=self.arrival,
            ring=ring if self.formation == "converged" else (),
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(RingClient(addresses=addresses, bits=self.bits))

    async def ready(self, x: Any) -> None:
        if self.stabilize:
            await formed(x, self.is_ring, joining=until_joined(self, self.nodes), period=self.stabilize)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, self.nodes), [await self.is_ring(x)]

    async def is_ring(self, x: Any) -> Verdict:
        """Whether every member's neighbours are those next to it."""
        census: Census = await x.client.census()
        ring = [m.address for m in census.members]
        views = []
        for at in range(0, len(ring), 256):
            views += await settle(*(x.at(a, RingPeer).neighbours() for a in ring[at : at + 256]))
        wrong = sum(
            isinstance(view, Failure)
            or view.successors[0].address != ring[(i + 1) % len(ring)]
            or (len(ring) > 1 and (view.predecessor is None or view.predecessor.address != ring[i - 1]))
            for i, view in enumerate(views)
        )
        detail = f"{len(ring)} of {self.nodes} peers are members, {wrong} with a wrong neighbour"
        return Verdict("the peers form one ring", len(ring) == self.nodes and not wrong, detail)
