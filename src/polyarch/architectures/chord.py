"""Chord: peers on a ring find who is responsible for a key in about 1/2 log2 N hops.

Stoica, Morris, Liben-Nowell, Karger, Kaashoek, Dabek, Balakrishnan: "Chord: a scalable peer-to-peer lookup
protocol for Internet applications", IEEE/ACM ToN 11(1), 2003 (SIGCOMM 2001).  Figures and sections below
are those of the ToN paper.

Every node has an identifier on a ring of 2^m.  A key belongs to its *successor*: the first node clockwise
from it.  A node knows its predecessor, the next few nodes (its *successor list*), and *fingers*: for each
i < m the successor of its own identifier + 2^i.  A lookup jumps to the finger that most closely precedes
the key, which halves the distance that is left.  Right successors are what correctness needs; fingers only
make it fast, so they may be old.

Values are kept at a key's successor, with copies on the next nodes (``blocks/dht.py``; section IV-E.3 and
DHash).  *Virtual nodes* (section IV-B): a process that stands at several places of the ring has a more even
share of the keys; each place is a node of its own, and they live and die together.

**What is the problem with this?**  Upkeep costs messages even when nobody asks, and when nodes come and go
faster than it repairs, lookups run into dead fingers (laws CH-12, CH-13).  Neighbours on the ring may be far
apart in the network.  Without virtual nodes arcs are uneven (CH-09), and each of those needs upkeep.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal

from polyarch.blocks.dht import DHT, DISCLAIMED, DhtClient, too_many_copies
from polyarch.blocks.forming import formed, until_joined
from polyarch.blocks.joining import Joining
from polyarch.blocks.overlay import TALLY, NotAMember, Peer, figures, ring_of
from polyarch.blocks.ring import between, within
from polyarch.blocks.successors import Neighbours, SuccessorHolding, one_ring
from polyarch.core import (
    Architecture,
    BadArguments,
    Broken,
    Failure,
    Record,
    Refused,
    System,
    Timeout,
    Unreachable,
    Verdict,
    oneway,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import Kv
from polyarch.jobs.lookup import Holder, Lookup

# -- messages --------------------------------------------------------------------------------------------


class Found(Record, array_like=True):
    """The answer to a lookup: the key's successor, and what finding it took."""

    peer: Peer
    hops: int
    """How often the question was passed on."""
    timeouts: int
    """How many nodes were asked on the way and were dead."""


class Chord(Joining, SuccessorHolding):
    """One peer (with virtual nodes: one of several in a process)."""

    bits: int = 32
    """m: identifiers are of m bits."""
    stabilize_every: float = 0.5
    """Seconds between two rounds of upkeep; 0: none, for experiments without it."""
    jitter: float = 0.1
    """Each time between two rounds is varied by up to this part."""
    random_fingers: bool = False
    """Whether upkeep fixes any finger (SIGCOMM 2001, figure 7), or one after another (ToN, figure 6)."""
    replace_fingers: bool = True
    """Whether a lookup that finds a finger dead replaces it, or leaves it to ``fix_fingers``."""
    confirm: bool = True
    """Whether a successor is asked if it lives before it is given as an answer."""
    ring: tuple[Peer, ...] = ()
    """All peers in the order of the ring: given to build a converged ring directly, without joins."""

    patient = 1.0
    """Seconds that this node waits for who was asked to go on with a lookup.  (Nodes have it of their own
    only where messages are slow: there may be 100,000.)"""

    async def start(self) -> None:
        await super().start()
        # Beside me, predecessor and successors: farthest first, fingers[i] is the successor of
        # me + 2^(m-1-i); the list ends where that is the successor itself: about log2 N, whatever m is.
        self.fingers: list[Peer] = []
        self.next_finger = 0
        self.unsure = False  # whether somebody may be between here and the successor whom we do not know
        if self.ring and not self.restarted:
            self.converge()
        else:
            self.spawn(self.enter())
        if self.stabilize_every:
            for upkeep in (self.stabilize, self.fix_a_finger, self.check_predecessor):
                self.every(self.stabilize_every, upkeep, jitter=self.jitter)

    # -- lookups (figure 5) ------------------------------------------------------------------------------

    @rpc(timeout=2.0)
    async def find_successor(self, key: int, hops: int = 0, timeouts: int = 0) -> Found:
        """Ask this node to find the successor of an identifier."""
        self.handled += 1
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        dead: tuple[Peer, ...] = ()
        while self.successors:
            n = self.successors[0]
            try:
                if within(key, self.me.id, n.id):
                    if self.unsure:
                        raise Refused(f"{self.address} has lost its successors, and looks for the next")
                    if self.confirm and n is not self.me:
                        await self.at(n).ping()
                    return Found(n, hops, timeouts)
                n = self.closest_preceding_node(key, dead)
                return await self.at(n, timeout=self.patient).find_successor(key, hops + 1, timeouts)
            except Failure as failure:
                # Go on through the next best node (section IV-E.3).
                await self.suspect(n, failure)
                dead += (n,)
                timeouts += 1
        raise NotAMember(self.address)

    def closest_preceding_node(self, key: int, dead: Sequence[Peer] = ()) -> Peer:
        """The highest predecessor of ``key`` that this node knows and has not found dead: among its fingers,
        and in the successor list (section IV-E.3)."""
        me, mask = self.me.id, (1 << self.bits) - 1
        whole = (key - me) & mask or mask + 1
        # Those before this one are farther than the key: each is at least 2^(m-1-i) away.
        for i in range(max(0, self.bits - whole.bit_length()), len(self.fingers)):
            finger = self.fingers[i]
            reached = (finger.id - me) & mask
            if reached < whole and finger not in dead:
                break
        else:
            finger, reached = self.me, 0
        if reached <= (self.successors[-1].id - me) & mask:
            for successor in reversed(self.successors):
                if reached < (successor.id - me) & mask < whole:
                    return successor
        return finger

    @rpc(timeout=0.5)
    async def ping(self) -> None:
        """Answers if it lives (and is in the ring)."""
        if not self.successors:
            raise NotAMember(self.address)

    async def suspect(self, n: Peer, failure: Failure) -> None:
        """A node did not answer as it should.  If it is dead, forget it, so that the next best is tried.
        If it lives, the delay is behind it, and whoever waits for us has given up as well: messages may be
        slow here, so from now on we wait for longer."""
        if type(failure) is Timeout:
            try:
                await self.at(n).ping()
            except Failure:
                pass
            else:
                self.patient = min(2.0, 1.25 * self.patient)
                raise failure
        elif not isinstance(failure, (Unreachable, NotAMember, Broken)):
            raise failure  # a question that nobody will answer
        self.forget(n)

    def forget(self, n: Peer) -> None:
        """A dead node leaves the successor list; as a finger, the next closer one takes its place until
        it is fixed."""
        if n in self.successors:
            self.successors = tuple(s for s in self.successors if s != n) or self.beyond(n)
            self.neighbours_changed()
        if self.replace_fingers and n in self.fingers:
            closer = self.successors[0] if self.successors else self.me
            for i in range(len(self.fingers) - 1, -1, -1):
                if self.fingers[i] == n:
                    self.fingers[i] = closer
                closer = self.fingers[i]

    def beyond(self, n: Peer) -> tuple[Peer, ...]:
        """The whole list has died, ``n`` the last of it (the paper does not say what then).  The nearest
        finger behind it takes its place, and ``stabilize`` comes back from there by the predecessors."""
        self.unsure = True
        for finger in reversed(self.fingers):
            if between(finger.id, n.id, self.me.id):
                return (finger,)
        self.spawn(self.recover())
        return ()

    # -- joining, leaving and upkeep (figure 6) ----------------------------------------------------------

    def create(self) -> None:
        """Create a new ring, with this node alone in it."""
        self.predecessor, self.successors, self.unsure = None, (self.me,), False

    async def join(self, n: str) -> None:
        """Join the ring that the node at ``n`` is in.  (We ask for the successor of the place behind our
        own: somebody may still remember us from before a crash.)"""
        found = await self.at(n).find_successor((self.me.id + 1) % (1 << self.bits))
        self.predecessor, self.unsure = None, False
        self.follow((found.peer,))
        await self.stabilize()
        while await self.fix_fingers():
            pass

    async def stabilize(self) -> None:
        """Learn about new nodes from the successor, and tell it about this one; at once again while there
        is somebody new between."""
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
                self.unsure = self.unsure and x != self.me
                self.follow((successor, *known.successors))
                self.at(successor).notify(self.me)
                return

    @rpc
    async def neighbours(self) -> Neighbours:
        """What ``stabilize`` asks its successor for."""
        if not self.successors:
            raise NotAMember(self.address)
        return Neighbours(self.predecessor, self.successors)

    @oneway
    def notify(self, n: Peer) -> None:
        """``n`` thinks that it might be our predecessor."""
        if n != self.me and (self.predecessor is None or between(n.id, self.predecessor.id, self.me.id)):
            self.predecessor = n
            self.neighbours_changed()

    async def fix_a_finger(self) -> None:
        if self.random_fingers:
            self.next_finger = self.random.below(len(self.fingers) + 1)
        await self.fix_fingers()

    async def fix_fingers(self) -> bool:
        """Refresh the next finger, from the farthest to the successor and over again; False when it has
        come round.  (The paper's ``next`` counts up; the fingers below the successor are left out.)"""
        if not self.successors:
            return False
        i = self.next_finger
        start = (self.me.id + (1 << self.bits >> i + 1)) & ((1 << self.bits) - 1)
        if i == self.bits or within(start, self.me.id, self.successors[0].id):
            del self.fingers[i:]
            self.next_finger = 0
            return False
        try:
            found = await self.find_successor(start)
        except Failure:
            return False
        self.fingers[i : i + 1] = [found.peer]
        self.next_finger = i + 1
        return True

    async def check_predecessor(self) -> None:
        """Notice that the predecessor has failed."""
        n = self.predecessor
        if n is not None:
            try:
                await self.at(n).ping()
            except Failure:
                if self.predecessor == n:
                    self.predecessor = None

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Leave in good order: hand over the keys, tell the successor its new predecessor, and the
        predecessor the successor list (section IV-E.4)."""
        await self.hand_over()
        successors, predecessor = self.successors, self.predecessor
        self.successors, self.predecessor, self.fingers = (), None, []
        if successors and successors[0] != self.me:
            told = [n for n in (successors[0], predecessor) if n]
            await settle(*(self.at(n).departed(self.me, predecessor, successors) for n in told))

    @rpc
    async def departed(self, n: Peer, predecessor: Peer | None, successors: tuple[Peer, ...]) -> None:
        """A neighbour leaves, and hands over what it knew."""
        if self.predecessor == n:
            self.predecessor = None if predecessor == self.me else predecessor
            self.neighbours_changed()
        if self.successors[:1] == (n,):
            self.follow(successors)
        self.forget(n)

    async def find(self, place: int) -> str:
        """For the hash table."""
        return (await self.find_successor(place)).peer.address

    # -- a converged ring --------------------------------------------------------------------------------

    def converge(self) -> None:
        """Know at once what stabilisation would lead to: the definitions of table I, from the whole ring."""
        ring, n, at = self.ring, len(self.ring), bisect_left(self.ring, self.me)
        self.me = me = ring[at]
        self.predecessor = ring[at - 1] if n > 1 else None
        self.follow(tuple(ring[(at + k) % n] for k in range(1, min(self.length, n) + 1)))
        for i in range(self.bits):
            start = (me.id + (1 << self.bits >> i + 1)) & ((1 << self.bits) - 1)
            if within(start, me.id, self.successors[0].id):
                break
            self.fingers.append(ring[bisect_left(ring, Peer(start, "")) % n])
        self.fingers = self.fingers[:]  # without the room that a list keeps to grow: there may be 100,000

    def links(self) -> int:
        return len({*self.successors, *self.fingers, self.predecessor} - {self.me, None})


class ChordClient(DhtClient):
    """Looks keys up through any peer."""

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, Chord).find_successor(place)
        return Holder(found.peer.address, found.hops, found.timeouts)


class ChordRing(Architecture):
    """Structured overlay: each peer knows about log2 N others, and finds any key's holder through them."""

    name = "chord"
    family = "peer-to-peer"
    source = "Stoica et al., Chord, IEEE/ACM Transactions on Networking 11(1), 2003"
    jobs = (Lookup, Kv)
    claims = (
        "no single point of failure",
        "lookups in O(log N) hops",
        "values: linearizable while membership is stable",
    )
    metrics = {**TALLY, **DHT}
    peer, client = Chord, ChordClient

    nodes: int = parameter(16, "peers", least=1)
    bits: int = parameter(32, "bits of an identifier", least=1, most=64)
    successors: int = parameter(8, "length of the successor list", least=1)
    replicas: int = parameter(3, "peers that hold a key's value", least=1)
    virtual: int = parameter(1, "virtual nodes: places on the ring of each peer", least=1)
    stabilize: float = parameter(0.5, "time between two rounds of upkeep; 0: none", least=0, unit="s")
    confirm: bool = parameter(True, "ask a successor if it lives before giving it as an answer")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start stable")
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    # Who is not heard is taken for dead, and a ring that is split stays split (section IV-E.3).
    not_borne = ("crash", "torn", "pause", "partition", "loss", "delay")

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        return DISCLAIMED if faults else ()

    def unfit(self, job: type) -> str | None:
        return too_many_copies(job, self.replicas, self.successors + 1, f"--successors {self.successors}")

    def build(self, system: System) -> None:
        if not self.stabilize and self.formation == "joined" and self.nodes > 1:
            raise ValueError("--stabilize 0: joining needs it; --formation converged needs none")
        addresses = system.addresses("peer", self.places)
        ring = ring_of(addresses, self.bits)
        common: dict[str, Any] = {"bits": self.bits, "replicas": self.replicas, "addresses": addresses}
        peer = self.peer(
            **common,
            length=self.successors,
            stabilize_every=self.stabilize,
            confirm=self.confirm,
            together=self.virtual,
            arrival=self.arrival,
            ring=ring if self.formation == "converged" else (),
        )
        system.role("peer", peer, count=self.places, together=self.virtual)
        system.clients(self.client(**common))

    @property
    def places(self) -> int:
        """Nodes on the ring."""
        return self.nodes * self.virtual

    async def ready(self, x: Any) -> None:
        if self.stabilize:
            await formed(x, self.is_ring, joining=until_joined(self, self.places), period=self.stabilize)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        metrics = {**await figures(x, self.places), **await x.client.stored()}
        return metrics, [await self.is_ring(x)]

    async def is_ring(self, x: Any) -> Verdict:
        return await one_ring(x, Chord, self.places)
