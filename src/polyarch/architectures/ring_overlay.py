"""A ring: each peer knows only its neighbours, and a lookup walks from one to the next.

Stoica, Morris, Liben-Nowell, Karger, Kaashoek, Dabek, Balakrishnan: "Chord: a scalable peer-to-peer lookup
protocol for Internet applications", IEEE/ACM ToN 11(1), 2003, section IV-E: its upkeep is that of a ring and
nothing else.  What is missing here are the fingers.

Every peer has an identifier on a ring of 2^bits.  A key belongs to its *successor*, the first peer clockwise
from it.  A peer knows its predecessor and the next few peers clockwise (its *successor list*).  A question is
passed on to the nearest neighbour until it comes to the key: over N/2 peers if only clockwise, over N/4 if
the first one chooses the shorter way round.  The rest of the successor list is for repair: if the neighbour
has died, the next one takes its place.

What is the problem with this?  The way grows like N: twice as many peers, twice as many messages and twice
the time for each lookup; and every peer on the way has the work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal

from polyarch.blocks.overlay import TALLY, NotAMember, OverlayClient, Participant, Peer, figures, ring_of
from polyarch.blocks.ring import between, distance, identifier, within
from polyarch.core import (
    Architecture,
    BadArguments,
    Broken,
    Failure,
    Record,
    System,
    Unreachable,
    Verdict,
    oneway,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.lookup import Census, Holder, Lookup

# -- messages --------------------------------------------------------------------------------------------


class Found(Record, array_like=True):
    """The answer to a lookup: the key's successor, and what finding it took."""

    peer: Peer
    hops: int
    timeouts: int


class Neighbours(Record, array_like=True):
    """A peer's place in the ring."""

    predecessor: Peer | None
    successors: tuple[Peer, ...]


class RingPeer(Participant):
    """One peer."""

    bits: int = 32
    length: int = 4
    """How many peers the successor list holds."""
    both_ways: bool = True
    """Whether a question may go counterclockwise too."""
    stabilize_every: float = 0.5
    """Seconds between two rounds of upkeep; 0: none."""
    addresses: tuple[str, ...] = ()
    """Where other peers may be found: needed to join."""
    arrival: float = 0.0
    """Seconds between the joins of two peers that are neighbours in ``addresses``."""
    ring: tuple[Peer, ...] = ()
    """All peers in their order: given to build the ring directly, without joins."""

    timeout = 1.0

    async def start(self) -> None:
        await super().start()
        self.me = Peer(identifier(self.address, self.bits), self.address)
        self.predecessor: Peer | None = None
        # The nearest first.  Empty: not a member.
        self.successors: tuple[Peer, ...] = ()
        if self.ring:
            self.converge()
        else:
            self.spawn(self.enter())
        if self.stabilize_every:
            self.every(self.stabilize_every, self.stabilize, jitter=0.1)
            self.every(self.stabilize_every, self.check_predecessor, jitter=0.1)

    # -- lookups -----------------------------------------------------------------------------------------

    @rpc(timeout=10.0)
    async def find(self, key: int, hops: int = 0, timeouts: int = 0, back: bool | None = None) -> Found:
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
                return await self.at(n).find(key, hops + 1, timeouts, back)
            except (Unreachable, NotAMember, Broken):
                self.forget(n)
                timeouts += 1
        raise NotAMember(self.address)

    @rpc(timeout=0.5)
    async def ping(self) -> None:
        """Answers if it lives (and is in the ring)."""
        if not self.successors:
            raise NotAMember(self.address)

    def forget(self, n: Peer) -> None:
        """A neighbour has died: the next in the list takes its place."""
        if self.predecessor == n:
            self.predecessor = None
        if n in self.successors:
            self.successors = tuple(s for s in self.successors if s != n)
            if not self.successors:
                self.spawn(self.join_through([a for a in self.addresses if a != self.address]))

    # -- joining, leaving and upkeep ---------------------------------------------------------------------

    async def enter(self) -> None:
        """Be in the ring: the first of ``addresses`` creates it, the others join one after another.
        Who has been in it before joins through anybody."""
        if self.restarted:
            return await self.join_through([a for a in self.addresses if a != self.address])
        before = self.addresses[: self.addresses.index(self.address)]
        if before:
            await self.sleep(self.arrival * len(before))
            await self.join_through(before)
        else:
            self.successors = (self.me,)

    async def join_through(self, others: Sequence[str]) -> None:
        """Join through any of these, as soon as one answers."""
        while others and not self.successors:
            try:
                # The place behind our own: somebody may still remember us from before a crash.
                behind = (self.me.id + 1) % (1 << self.bits)
                found = await self.at(self.random.choice(others)).find(behind)
            except Failure:
                await self.sleep(self.random.between(0.1, 0.5))
            else:
                self.predecessor = None
                self.follow((found.peer,))
                await self.stabilize()

    async def stabilize(self) -> None:
        """Learn about a newcomer from the successor, and tell it about this peer."""
        dead: set[Peer] = set()
        while self.successors:
            successor = self.successors[0]
            try:
                known = await self.at(successor).neighbours()
            except Failure:
                self.forget(successor)
                dead.add(successor)
                continue
            if self.successors[:1] != (successor,):
                continue  # it has changed meanwhile
            x = known.predecessor
            if x is not None and x not in dead and between(x.id, self.me.id, successor.id):
                self.follow((x, successor, *known.successors))
            else:
                self.follow((successor, *known.successors))
                self.at(successor).notify(self.me)
                return

    @rpc
    async def neighbours(self) -> Neighbours:
        """What ``stabilize`` asks the successor for."""
        if not self.successors:
            raise NotAMember(self.address)
        return Neighbours(self.predecessor, self.successors)

    @oneway
    def notify(self, n: Peer) -> None:
        """``n`` thinks that it might be our predecessor."""
        if n != self.me and (self.predecessor is None or between(n.id, self.predecessor.id, self.me.id)):
            self.predecessor = n

    def follow(self, list_: tuple[Peer, ...]) -> None:
        """Take a new successor list, cut to its length, and before it comes round to this peer."""
        if self.me in list_:
            list_ = list_[: list_.index(self.me)] or (self.me,)
        self.successors = tuple(dict.fromkeys(list_))[: self.length]

    async def check_predecessor(self) -> None:
        """Notice that the predecessor has died."""
        n = self.predecessor
        if n is not None:
            try:
                await self.at(n).ping()
            except Failure:
                if self.predecessor == n:
                    self.predecessor = None

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Tell both neighbours of each other."""
        successors, predecessor = self.successors, self.predecessor
        self.successors, self.predecessor = (), None
        if successors and successors[0] != self.me:
            told = [n for n in (successors[0], predecessor) if n]
            await settle(*(self.at(n).departed(self.me, predecessor, successors) for n in told))

    @rpc
    async def departed(self, n: Peer, predecessor: Peer | None, successors: tuple[Peer, ...]) -> None:
        """A neighbour leaves, and hands over what it knew."""
        if self.predecessor == n:
            self.predecessor = None if predecessor == self.me else predecessor
        if self.successors[:1] == (n,):
            self.follow(successors)
        self.forget(n)

    # -- a converged ring --------------------------------------------------------------------------------

    def converge(self) -> None:
        """Know at once what the upkeep would lead to."""
        ring, n = self.ring, len(self.ring)
        at = bisect_left(ring, self.me)
        self.me = ring[at]
        self.predecessor = ring[at - 1] if n > 1 else None
        self.follow(tuple(ring[(at + k) % n] for k in range(1, min(self.length, n) + 1)))

    def place(self) -> int:
        if not self.successors:
            raise NotAMember(self.address)
        return self.me.id

    def links(self) -> int:
        return len({*self.successors, self.predecessor} - {self.me, None})


class RingClient(OverlayClient):
    """Looks keys up through any peer."""

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, RingPeer).find(place)
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

    @property
    def not_borne(self) -> tuple[str, ...]:
        """Who is not heard is taken for dead, and a ring that is split stays split."""
        return ("crash", "torn", "pause", "partition", "loss", "delay")

    def build(self, system: System) -> None:
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
        while self.formation == "joined" and not (await self.is_ring(x)).holds:
            await x.sleep(0.5)

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
