"""Pastry: messages reach the node that is numerically closest to their key in about log_2^b N hops, on routes
that prefer near nodes.

Rowstron, Druschel: "Pastry: scalable, decentralized object location and routing for large-scale peer-to-peer
systems", Middleware 2001.  Sections and tables below are those of this paper.

Identifiers are sequences of digits of b bits, on a ring.  A node knows the |L| nodes that are numerically
nearest to it (its *leaf set*), |M| nodes that are near in the network (its *neighbourhood set*), and in its
*routing table*, for each prefix of its own identifier, one node for each digit that may come next.  Each hop
shares at least one more digit with the key, until the key is in the range of a leaf set.  Of all nodes that
fit a slot of the routing table, the one is taken to which a round trip is shortest.

**What is the problem with this?**  Each peer pays for upkeep whether anybody asks or not (metric ``upkeep``).
Entries of the dead are found when they are used (``timeouts``), and one failed peer in 5000 costs the others
some 60 to 100 requests for repair [PA-05].  Without the preference for near nodes a route takes about twice
the direct way among 300 peers in ten regions, with it 1.1 times (``stretch``); near ones are found by many
probes.  When |L|/2 adjacent nodes fail at once, keys between them end wrong [PA-06].  No range queries.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, Literal

from polyarch.blocks.dht import DHT, DISCLAIMED, DhtClient, too_many_copies
from polyarch.blocks.forming import formed, until_joined
from polyarch.blocks.joining import Joining
from polyarch.blocks.key_routing import STRETCH, KeyRouting, stretch
from polyarch.blocks.overlay import TALLY, Peer, figures, ring_of
from polyarch.blocks.prefix import LeafSet, Near, RoutingTable, gap, shared
from polyarch.blocks.ring import identifier
from polyarch.blocks.storing import StoringPeer
from polyarch.core import Architecture, Failure, System, Timeout, Verdict, parameter, rpc, settle
from polyarch.jobs.kv import Kv
from polyarch.jobs.lookup import Holder, Lookup


class Pastry(Joining, KeyRouting, StoringPeer):
    """One peer."""

    b: int = 4  # bits of a digit
    leaf_count: int = 16
    """|L|: nodes in the leaf set, half of them on each side."""
    near_count: int = 32
    """|M|: nodes in the neighbourhood set."""
    locality: bool = True
    """Whether near nodes are preferred in the routing table; otherwise who was there first stays."""
    repair: bool = True
    """Whether what is lost with a failed node is replaced."""
    keep_alive_every: float = 1.0
    """Seconds between two exchanges with the next node on the ring; 0: none."""
    maintain_every: float = 10.0
    """Seconds between two rounds of maintenance of the other tables; 0: none."""
    ring: tuple[Peer, ...] = ()
    """All peers in the order of the ring: given to start in the state that joining leads to."""

    timeout = 1.0

    async def start(self) -> None:
        await super().start()
        # The state (section 2.1, figure 1): leaf set, routing table, neighbourhood set.
        self.leaves: LeafSet[Peer] = LeafSet(self.me, self.leaf_count // 2, self.bits)
        self.table: RoutingTable[Peer] = RoutingTable(self.me, self.bits, self.b)
        self.near: Near[Peer] = Near(self.near_count)
        if self.ring and not self.restarted:
            self.converge()
        else:
            self.spawn(self.enter())
        if self.keep_alive_every:
            self.every(self.keep_alive_every, self.keep_alive, jitter=0.1)
        if self.maintain_every:
            self.every(self.maintain_every, self.maintain, jitter=0.1)

    # -- routing (section 2.2, table 1) ----------------------------------------------------------------------

    def next_hop(self, key: int) -> Peer:
        """Where a message goes from here; this node itself if it has arrived."""
        if self.leaves.covers(key):
            return self.leaves.closest(key)
        row, d = self.table.slot(key)
        entry = self.table.entry(row, d)
        if entry is not None:
            return entry
        # The rare case: the closest of all that share as many digits and are closer than this node.
        best, least = self.me, gap(self.me.id, key, self.bits)
        for t in self.known():
            distance = gap(t.id, key, self.bits)
            if distance < least and shared(t.id, key, self.bits, self.b) >= row:
                best, least = t, distance
        return best

    # -- whom a node knows -----------------------------------------------------------------------------------

    def known(self) -> dict[Peer, None]:
        """L, R and M: each node once."""
        return dict.fromkeys((*self.leaves, *self.table, *self.near.peers))

    async def learn(self, peers: Iterable[Peer], compare: bool = False) -> None:
        """Take those nodes, of which others have told, that fit and answer.  ``compare``: also those that may
        be nearer than who is in the routing table."""
        fit = [n for n in dict.fromkeys(peers) if self.wants(n, compare)]
        if wanted := [n for n in fit if n.id == identifier(n.address, self.bits)]:
            for n, distance in zip(wanted, await settle(*map(self.proximity, wanted))):
                if not isinstance(distance, Failure):
                    self.table.put(n, distance, compare=self.locality)
                    self.near.put(n, distance)
                    if self.leaves.add(n):
                        self.neighbours_changed()

    def wants(self, n: Peer, compare: bool) -> bool:
        """Whether a node is worth a message: as a leaf, for an empty slot, or because it may be nearer."""
        if n == self.me or n.id >> self.bits:
            return False
        entry = self.table.entry(*self.table.slot(n.id))
        nearer = compare and self.locality and n != entry and n not in self.near.peers
        return entry is None or nearer or self.leaves.fits(n.id)

    # -- arrival (section 2.4) -------------------------------------------------------------------------------

    def create(self) -> None:
        self.member = True

    async def join(self, a: str) -> None:
        """Arrive through the node at ``a``: have a message routed to our own identifier, and take the
        neighbourhood set of A, where it starts, the leaf set of Z, where it ends, and the i-th row of the
        i-th node on its way.  Then tell everybody whom we know.  (The paper sends our whole state; what
        others find new in it is us.)"""
        if self.locality:
            a = await self.nearby(a)
        found = await self.at(a).lookup(self.me.id, trace=True)
        leaves = await self.at(found.peer).leaf_set()
        rows = [self.at(n).rows(i, max(i, self.table.slot(n.id)[0])) for i, n in enumerate(found.path)]
        state = await settle(self.at(a).neighbourhood_set(), *rows)
        self.leaves = LeafSet(self.me, self.leaf_count // 2, self.bits)
        await self.learn((found.peer, *leaves, *found.path, *all_of(state)), compare=True)
        if not any(self.leaves.sides):
            raise Timeout(f"{found.peer.address} and its leaves do not answer")
        self.member = True
        self.neighbours_changed()
        await settle(*(self.at(n).arrived(self.me) for n in self.known()))
        if self.locality:
            await self.second_stage()

    async def nearby(self, a: str) -> str:
        """Pastry wants A to be near (section 2.5): from any contact go on to the nearest of its neighbourhood
        set, as long as that is nearer."""
        least = inf
        while True:
            around = [n for n in await self.at(a).neighbourhood_set() if n != self.me]
            told = await settle(*map(self.proximity, around))
            measured = [(d, n.address) for d, n in zip(told, around) if not isinstance(d, Failure)]
            if not measured or min(measured)[0] >= least:
                return a
            least, a = min(measured)

    async def second_stage(self) -> None:
        """Ask everybody in routing table and neighbourhood set, and take who is nearer (section 2.5)."""
        rows = [self.at(n).rows(i, i) for i, row in enumerate(self.table.rows) for n in row if n]
        state = await settle(*rows, *(self.at(n).neighbourhood_set() for n in self.near.peers))
        await self.learn(all_of(state), compare=True)

    @rpc
    async def leaf_set(self) -> tuple[Peer, ...]:
        """L."""
        self.place()
        return tuple(self.leaves)

    @rpc
    async def neighbourhood_set(self) -> tuple[Peer, ...]:
        """M."""
        return self.near.peers

    @rpc
    async def rows(self, first: int, last: int) -> tuple[Peer, ...]:
        """The entries of some rows of R."""
        return tuple(n for row in self.table.rows[first : last + 1] for n in row if n)

    @rpc
    async def entry(self, row: int, d: int) -> Peer | None:
        """One entry of R."""
        return self.table.entry(row, d) if row >= 0 <= d < 1 << self.b else None

    @rpc
    async def arrived(self, n: Peer) -> None:
        """There is a new node."""
        await self.learn((n,), compare=True)

    # -- departure and repair (section 2.4) ------------------------------------------------------------------

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Leave in good order: hand over, and tell everybody whom we know who may replace us."""
        await self.hand_over()
        told, leaves = self.known(), tuple(self.leaves)
        self.member = False
        await settle(*(self.at(n).departed(self.me, leaves) for n in told))

    @rpc
    async def departed(self, n: Peer, leaves: tuple[Peer, ...]) -> None:
        """A node has left; these were its leaves."""
        self.lost(n)
        await self.learn(leaves)

    def lost(self, n: Peer) -> None:
        """A node has failed or left: forget it, and find others for the places that it had."""
        self.near.discard(n)
        if self.table.discard(n) and self.repair:
            self.spawn(self.replace_entry(n))
        if self.leaves.discard(n):
            self.neighbours_changed()
            if self.member and not any(self.leaves.sides):
                self.member = False
                self.spawn(self.recover())
            elif self.repair:
                self.spawn(self.replace_leaf(self.leaves.away(n.id)[0]))

    async def replace_leaf(self, side: int) -> None:
        """The live leaf that is farthest on the side of a failed one knows who comes next.  (If there is no
        leaf on this side, the nearest on it of all that we know may be one.)"""
        asked: Peer | None = None
        while self.leaves.torn[side]:
            leaves = self.leaves.sides[side][-1:] or self.leaves.on_side(side, self.known())[:1]
            if not leaves or leaves[0] == asked:
                self.leaves.torn[side] = False  # nobody comes next
                return
            asked = leaves[0]
            try:
                await self.learn((asked, *await self.at(asked).leaf_set()))
            except Failure as failure:
                await self.suspect(asked, failure)

    async def replace_entry(self, n: Peer) -> None:
        """Others in the row of a failed entry may know another node that fits; and if none of them does,
        those in the next row may."""
        i, d = self.table.slot(n.id)
        for other in [m for row in self.table.rows[i : i + 2] for m in row if m]:
            if self.table.entry(i, d) is not None:
                return
            try:
                found = await self.at(other).entry(i, d)
            except Failure as failure:
                await self.suspect(other, failure)
            else:
                await self.learn((found,) if found and found != n else ())

    # -- upkeep (sections 2.1, 2.4 and 2.5) ------------------------------------------------------------------

    async def keep_alive(self) -> None:
        """Exchange leaf sets with the next live node on the ring.  Each of the two hears of who has arrived,
        and of who has failed: that goes on from neighbour to neighbour."""
        while self.member and (n := self.leaves.next_up()):
            try:
                leaves = await self.at(n).exchange(self.me, tuple(self.leaves))
            except Failure as failure:
                await self.suspect(n, failure)
                if n in self.leaves:
                    return  # it was only late
            else:
                return await self.compare_leaves(n, leaves)

    @rpc
    async def exchange(self, n: Peer, leaves: tuple[Peer, ...]) -> tuple[Peer, ...]:
        """Our leaf set for that of ``n``, which has us for its neighbour."""
        self.place()
        mine = tuple(self.leaves)
        self.spawn(self.compare_leaves(n, leaves))
        return mine

    async def compare_leaves(self, n: Peer, leaves: tuple[Peer, ...]) -> None:
        """A neighbour's leaves may be ours.  Of ours it has all that live, except the farthest behind us."""
        mine, there = {m.id for m in self.leaves}, {m.id for m in (n, *leaves)}
        behind = self.leaves.sides[1 - self.leaves.away(n.id)[0]][-1:]
        await self.learn(m for m in (n, *leaves) if m.id not in mine)
        for m in self.leaves:
            if m.id not in there and m not in behind:
                await self.suspect(m, Timeout())

    async def maintain(self) -> None:
        """Compare a row of the routing table with that of somebody in it, and the neighbourhood set with that
        of somebody in it: who is nearer is taken, gaps are filled, and the dead are noticed."""
        rows = [(i, [n for n in row if n]) for i, row in enumerate(self.table.rows) if any(row)]
        if not (self.member and rows and self.near.peers):
            return
        i, row = self.random.choice(rows)
        n, m = self.random.choice(row), self.random.choice(self.near.peers)
        told = await settle(self.at(n).rows(i, i), self.at(m).neighbourhood_set())
        for asked, answer in zip((n, m), told):
            if isinstance(answer, Failure):
                await self.suspect(asked, answer)
        await self.learn(all_of(told), compare=True)

    def converge(self) -> None:
        """Know at once what joining would lead to; but nobody has measured how near others are, so that those
        in routing table and neighbourhood set are random ones of those that fit, until ``maintain``."""
        at = bisect_left(self.ring, self.me)
        self.me = self.leaves.me = self.table.me = self.ring[at]
        self.leaves.build(self.ring, at)
        self.table.build(self.ring, self.random)
        self.near.build(self.ring, at, self.random)
        self.member = True

    # -- what others ask about -------------------------------------------------------------------------------

    def links(self) -> int:
        return len(self.known())

    def responsible(self, place: int) -> bool:
        return self.member and self.leaves.closest(place) is self.me

    def others(self, place: int, count: int) -> tuple[str, ...]:
        return tuple(n.address for n in self.leaves.nearest(place)[:count])

    async def missed(self, address: str, failure: Failure) -> None:
        await self.suspect(Peer(identifier(address, self.bits), address), failure)


def all_of(told: Iterable[Sequence[Peer] | Failure]) -> list[Peer]:
    """The nodes in all answers."""
    return [n for nodes in told if not isinstance(nodes, Failure) for n in nodes]


class PastryClient(DhtClient):
    """Looks keys up through any peer."""

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, Pastry).lookup(place)
        return Holder(found.peer.address, found.hops, found.timeouts)


class PastryOverlay(Architecture):
    """Structured overlay: routing by prefix to the numerically closest peer, through near ones."""

    name = "pastry"
    family = "peer-to-peer"
    source = "Rowstron and Druschel, Pastry, Middleware 2001"
    jobs = (Lookup, Kv)
    claims = ("no single point of failure", "O(log N) hops", "linearizable while membership is stable")
    metrics = {**TALLY, **DHT, **STRETCH}

    nodes: int = parameter(16, "peers", least=1)
    bits: int = parameter(32, "bits of an identifier", least=1, most=64)
    b: int = parameter(4, "bits of a digit", least=1, most=8)
    leaves: int = parameter(16, "|L|: size of the leaf set", least=2)
    neighbours: int = parameter(32, "|M|: size of the neighbourhood set", least=1)
    replicas: int = parameter(3, "peers that hold a key's value", least=1)
    locality: bool = parameter(True, "prefer near peers in the routing table")
    keep_alive: float = parameter(1.0, "time between two exchanges of leaf sets; 0: none", least=0, unit="s")
    maintain: float = parameter(10.0, "time between two looks at the tables; 0: none", least=0, unit="s")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start stable")
    arrival: float = parameter(0.05, "time between two joins", least=0, unit="s")

    not_borne = ("crash", "torn", "pause", "partition", "loss", "delay")  # who is silent is taken for dead

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        return DISCLAIMED if faults else ()

    def unfit(self, job: type) -> str | None:
        return too_many_copies(job, self.replicas, self.leaves // 2 + 1, f"--leaves {self.leaves}")

    def build(self, system: System) -> None:
        if not self.keep_alive and self.formation == "joined" and self.nodes > 1:
            raise ValueError("--keep-alive 0: joining needs it; --formation converged needs none")
        if self.bits % self.b:
            raise ValueError(f"--bits {self.bits}: it must be a multiple of --b {self.b}")
        if self.leaves % 2:
            raise ValueError(f"--leaves {self.leaves}: it must be even, half of them on each side")
        addresses = system.addresses("peer", self.nodes)
        ring = ring_of(addresses, self.bits)
        common: dict[str, Any] = {"bits": self.bits, "replicas": self.replicas, "addresses": addresses}
        peer = Pastry(
            **common, b=self.b, leaf_count=self.leaves, near_count=self.neighbours, locality=self.locality,
            keep_alive_every=self.keep_alive, maintain_every=self.maintain, arrival=self.arrival,
            ring=ring if self.formation == "converged" else (),
        )  # fmt: skip
        system.role("peer", peer, count=self.nodes)
        system.clients(PastryClient(**common, rule="closest"))

    async def ready(self, x: Any) -> None:
        if self.keep_alive:
            await formed(x, self.is_right, joining=until_joined(self, self.nodes), period=self.keep_alive)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        metrics = {**await figures(x, self.nodes), **await x.client.stored()}
        return {**metrics, **await stretch(x, self.nodes, self.bits)}, [await self.is_right(x)]

    async def is_right(self, x: Any) -> Verdict:
        """Whether all are members, and the leaf set of each holds the right ones."""
        census = await x.client.census()
        ring = [Peer(m.id, m.address) for m in census.members]
        wrong = 0
        for at in range(0, len(ring), 256):
            told = await settle(*(x.at(n, Pastry).leaf_set() for n in ring[at : at + 256]))
            for i, leaves in enumerate(told, at):
                right = LeafSet(ring[i], self.leaves // 2, self.bits)
                right.build(ring, i)
                wrong += isinstance(leaves, Failure) or tuple(leaves) != tuple(right)
        detail = f"{len(ring)} of {self.nodes} nodes are members, {wrong} with a wrong leaf set"
        return Verdict("leaf sets hold the nearest members", len(ring) == self.nodes and not wrong, detail)
