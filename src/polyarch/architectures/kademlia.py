"""Kademlia: who asks for a key gets closer to it with each answer, and everybody learns from every message.

Maymounkov, Mazieres: "Kademlia: a peer-to-peer information system based on the XOR metric", IPTPS 2002.
Sections below are those of the paper; where it leaves a choice, BEP 5 ("DHT Protocol") has made one, for
millions of nodes (``MAINLINE``).

Nodes and keys are numbers of b bits; their *distance* is their exclusive or.  A key belongs to the closest
node.  A node knows k others for each number of leading bits that they may share with it
(``blocks/buckets.py``): nearly everybody nearby, few far away, so that somebody it knows is always at least
one bit closer to the key.  The node that wants to know asks all nodes on the way itself, several at a time
(``blocks/shortlist.py``): a dead one costs a timeout, and the search goes on around it.  Distance is
symmetric: who asks a node is of use to that node.  That is nearly all the upkeep there is.

**What is the problem with this?**  It asks much: a lookup stops when the k closest have all answered, so
that each costs k + 2 to 5 questions (22.9 among 10,000 peers, 24.6 among 100,000), where Chord passes one
on 1/2 log2 N times.  What nobody asks, nobody repairs: after a fifth of 100,000 peers had crashed, all of
100,000 lookups were right, but each ran into 6.2 dead ones, and 19.8 % of all contacts were still dead at the
end.  A refresh of all buckets is 340 questions for each of 10,000 peers, and leaves 12.3 % dead, of whom a
lookup meets 1.6.  (Among 250 it leaves 7.5 %; where contacts are pinged for newcomers, ``spares=0``, 0.02 %,
for twice as many messages.)  There are no range queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from polyarch.blocks.buckets import Buckets, converged
from polyarch.blocks.dht import DHT, DISCLAIMED, DhtClient, too_many_copies
from polyarch.blocks.forming import formed, until_joined
from polyarch.blocks.joining import Joining
from polyarch.blocks.overlay import TALLY, NotAMember, Peer, figures, ring_of
from polyarch.blocks.pairs import PairKeeper
from polyarch.blocks.ring import identifier
from polyarch.blocks.shortlist import Shortlist
from polyarch.blocks.storing import Kept
from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Record,
    System,
    Unreachable,
    Verdict,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import Kv
from polyarch.jobs.lookup import Census, Holder, Lookup

MAINLINE = dict[str, Any](k=8, alpha=3, questionable=900, refresh=900, tokens=300, spares=0)
"""BitTorrent's network (BEP 5); but its identifiers are of 160 bits, where integers here end at 64."""


class Found(Record, array_like=True):
    """The answer to a lookup, and what finding it took."""

    peer: Peer
    hops: int
    """How often the question was passed on."""
    timeouts: int
    """How many nodes were asked on the way and did not answer."""
    rpcs: int
    """How many were asked."""


class Kademlia(Joining, PairKeeper):
    """One peer."""

    bits: int = 64
    """b: identifiers are of so many bits."""
    k: int = 20
    """Contacts in a bucket, and nodes that store a pair (section 2.1)."""
    alpha: int = 3
    """Questions of a lookup that are on the way at the same time (section 2.3)."""
    widen: bool = True
    """Whether all k are asked at once when nobody closer turns up (section 2.3)."""
    spares: int = 8
    """Newcomers that wait for a place in each full bucket (section 4.1); 0: see ``probe`` (section 2.2)."""
    questionable: float = 0.0
    """Seconds after which a contact that has been silent is pinged for a newcomer."""
    refresh_every: float = 3600.0
    """Seconds after which a bucket in which nothing was looked up is refreshed (section 2.3); 0: never."""
    everybody: tuple[Peer, ...] = ()
    """All peers in the order of their identifiers: given to start with full buckets, without joins."""
    different: bool = True
    """Whether their contacts are all different, or k independent draws, of which some may be the same."""

    async def start(self) -> None:
        await super().start()
        self.member = False
        self.buckets = self.no_contacts()
        self.looked: dict[int, float] = {}  # buckets in which something was looked up, and when
        self.busy: dict[str, None] = {}  # upkeep that is under way
        if self.everybody and not self.restarted:
            full = converged(self.me, self.everybody, self.bits, self.k, self.random, self.different)
            self.buckets.fill(full)
            self.member = True
        else:
            self.spawn(self.enter())
        if self.refresh_every:
            self.every(self.refresh_every, self.unless_busy, "refresh", self.refresh_buckets, jitter=0.1)

    def no_contacts(self) -> Buckets:
        return Buckets(self.me.id, self.bits, self.k, self.spares, self.questionable)

    # -- the four messages (section 2.3) -----------------------------------------------------------------

    @rpc
    async def ping(self, sender: Peer | None = None) -> None:
        """Is this node there?"""
        self.hear(sender)

    @rpc
    async def find_node(self, sender: Peer | None, key: int) -> tuple[Peer, ...]:
        """The k contacts closest to a key of all that this node has.  (Who is no node says None.)"""
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        closest = tuple(self.buckets.closest(key, self.k))
        self.hear(sender)
        self.handled += 1
        return closest

    def hear(self, sender: Peer | None) -> None:
        """A request has come: every message teaches its receiver about the sender (section 2.2)."""
        if not self.member and not self.buckets.depth:
            raise NotAMember(self.address)
        if sender is not None and self.is_genuine(sender):
            self.learn(sender)

    def learn(self, n: Peer) -> None:
        """``n`` lives.  A bucket that is full keeps those that it has, as long as they live."""
        if self.leaving:
            return
        buckets, before = self.buckets, self.buckets.changes
        head = buckets.heard(n, self.now if self.questionable else 0.0)
        if head is not None:
            self.spawn(self.unless_busy(f"probe {buckets.prefix(n.id)}", self.probe, head, n))
        if buckets.changes != before:
            self.neighbours_changed()

    def is_genuine(self, n: Peer) -> bool:
        """Nobody chooses its own place."""
        return n.id == identifier(n.address, self.bits)

    async def probe(self, head: Peer, newcomer: Peer) -> None:
        """Whoever was heard of least recently is asked if it lives; if not, the newcomer gets its place."""
        try:
            await self.at(head).ping(self.me)
        except Failure:
            self.buckets.failed(head, dead=True)
            self.learn(newcomer)
        else:
            self.learn(head)

    def lost(self, n: Peer, failure: Failure) -> None:
        """``n`` has not answered as it should."""
        before = self.buckets.changes
        self.buckets.failed(n, dead=isinstance(failure, (Unreachable, NotAMember)))
        if self.buckets.changes != before:
            self.neighbours_changed()
        if self.member and not self.buckets.depth:
            self.member = False
            self.spawn(self.recover())

    async def unless_busy(self, what: str, work: Any, *arguments: Any) -> None:
        """Some upkeep, unless it is under way."""
        if what not in self.busy:
            self.busy[what] = None
            try:
                await work(*arguments)
            finally:
                del self.busy[what]

    # -- lookups (section 2.3) ---------------------------------------------------------------------------

    async def node_lookup(self, key: int, text: str = "", *, enough: bool = False) -> Shortlist:
        """Find the k closest nodes to a key, and the value of ``text``, whose key it is; ``enough``: that it
        is found."""
        k = self.k + (key == self.me.id)  # others than this node
        search = Shortlist(self.future(), key, k, self.alpha, self.widen, text, enough)
        search.hear_of((self.me,), answered=True)
        search.hear_of(self.buckets.closest(key, self.k))
        self.looked[self.buckets.prefix(key)] = self.now
        self.advance(search)
        await search.done
        return search

    def advance(self, search: Shortlist) -> None:
        """Ask the closest that were not asked yet.  It is over when the k closest have all answered."""
        while not search.done.done and (n := search.next()) is not None:
            if self.is_genuine(n):
                self.spawn(self.ask(search, n))
            else:
                search.failed(n)
        if not search.open:
            search.done.set(None)

    async def ask(self, search: Shortlist, n: Peer) -> None:
        """Ask one node, and go on from what it says."""
        try:
            if search.text:
                answer = await self.at(n).find_value(self.me, search.text)
                told, search.tokens[n.address] = answer.closest, answer.token
                search.value = answer.value if search.value is None else search.value
                if search.enough and search.value is not None:
                    search.done.set(None)
            else:
                told = await self.at(n).find_node(self.me, search.key)
        except Failure as failure:
            self.lost(n, failure)
            search.failed(n)
        else:
            self.learn(n)
            search.answered(n, told[: self.k])
        self.advance(search)

    @rpc(timeout=10.0)
    async def lookup(self, key: int) -> Found:
        """Who is closest to a key?"""
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        self.place()
        done = await self.node_lookup(key)
        return Found(done.closest[0], done.hops, done.failures, done.asked)

    # -- joining, leaving and upkeep (section 2.3) -------------------------------------------------------

    def create(self) -> None:
        """Create a new network, with this node alone in it."""
        self.member = True

    async def join(self, w: str) -> None:
        """Join the network that the node at ``w`` is in: look oneself up, by which those nearby hear of it;
        then refresh all buckets farther away than the closest neighbour."""
        await self.at(w).ping()
        self.learn(Peer(identifier(w, self.bits), w))
        await self.node_lookup(self.me.id)
        self.member = self.buckets.depth > 0
        for prefix in reversed(range(self.buckets.depth - 1)):
            await self.node_lookup(self.random_in(prefix))

    def random_in(self, prefix: int) -> int:
        """Some identifier that belongs into a bucket."""
        bit = 1 << (self.bits - 1 - prefix)
        return (self.me.id ^ bit) & -bit | self.random.below(bit)

    async def refresh_buckets(self) -> None:
        """See who is near, and look something up in each bucket in which nothing has been for a while."""
        for n in self.buckets.doubted():
            try:
                await self.at(n).ping(self.me)
                self.learn(n)
            except Failure as failure:
                self.lost(n, failure)
        old = self.now - self.refresh_every
        if self.member:
            await self.node_lookup(self.me.id)
        for prefix in range(self.buckets.depth):
            if self.looked.get(prefix, old) <= old:
                await self.node_lookup(self.random_in(prefix))
        self.looked = {prefix: when for prefix, when in self.looked.items() if when > old}

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Hand over what others decide about now, and be silent: nobody is told in Kademlia."""
        await self.hand_over()
        self.member = False
        self.buckets = self.no_contacts()

    # -- for the census, the figures, and the hash table --------------------------------------------------

    def place(self) -> int:
        if not self.member:
            raise NotAMember(self.address)
        return self.me.id

    def links(self) -> int:
        return len(self.buckets)

    @rpc
    async def contacts(self) -> tuple[Peer, ...]:
        """Everybody in this node's buckets."""
        return tuple(self.buckets)

    def responsible(self, place: int) -> bool:
        closest = self.buckets.closest(place, 1)
        return self.member and (not closest or self.me.id ^ place < closest[0].id ^ place)

    def others(self, place: int, count: int) -> tuple[str, ...]:
        closest = self.buckets.closest(place, count)
        return tuple(n.address for n in sorted(closest, key=lambda n: n.id ^ place))

    async def find(self, place: int) -> str:
        return (await self.node_lookup(place)).closest[0].address

    async def missed(self, address: str, failure: Failure) -> None:
        self.lost(Peer(identifier(address, self.bits), address), failure)

    async def make_sure(self, kept: Kept) -> None:
        """Somebody thinks that this node decides.  If not: see if those live who would."""
        if not self.decides(kept.place):
            await self.find(kept.place)
        await super().make_sure(kept)


class KademliaClient(DhtClient):
    """Looks keys up through any peer."""

    async def start(self) -> None:
        await super().start()
        self.rpcs = 0

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, Kademlia, timeout=5.0).lookup(place)
        self.rpcs += found.rpcs
        return Holder(found.peer.address, found.hops, found.timeouts)

    @rpc(timeout=120.0)
    async def tally(self) -> dict[str, float]:
        return {**await super().tally(), **({"rpcs": self.rpcs / self.lookups} if self.lookups else {})}


class KademliaNetwork(Architecture):
    """Structured overlay: who looks a key up asks its way there itself, several peers at a time."""

    name = "kademlia"
    family = "peer-to-peer"
    source = "Maymounkov, Mazieres, Kademlia, IPTPS 2002; BEP 5"
    jobs = (Lookup, Kv)
    claims = ("no single point of failure", "lookups in O(log N) steps, around dead peers")
    metrics = {
        **TALLY,
        **DHT,
        "rpcs": "mean peers that were asked in a lookup",
        "dead": "share of the contacts in the buckets (of up to 256 peers) that are no members",
    }

    nodes: int = parameter(16, "peers", least=1)
    bits: int = parameter(64, "bits of an identifier", least=1, most=64)
    k: int = parameter(20, "contacts in a bucket, and nodes that store a pair", least=1)
    alpha: int = parameter(3, "questions of a lookup that are on the way at the same time", least=1)
    spares: int = parameter(8, "newcomers that wait for a place in a bucket; 0: ping for one", least=0)
    questionable: float = parameter(0, "silence after which there are pings for newcomers", least=0, unit="s")
    refresh: float = parameter(3600, "time until an unused bucket is refreshed; 0: none", least=0, unit="s")
    republish: float = parameter(3600, "time until a pair is stored again; 0: never", least=0, unit="s")
    expire: float = parameter(86_400, "time that a pair lasts after it was published", least=0, unit="s")
    tokens: float = parameter(0, "life of the secret of tokens; 0: storing needs none", least=0, unit="s")
    replicas: int = parameter(3, "peers that hold a key of the key-value store", least=1)
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start stable")
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    not_borne = ("crash", "torn", "pause", "partition", "loss", "delay")  # who is silent is taken for dead

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        return DISCLAIMED if faults else ()

    def unfit(self, job: type) -> str | None:
        return too_many_copies(job, self.replicas, self.k, f"--k {self.k}")

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        everybody = ring_of(addresses, self.bits)
        peer = Kademlia(
            bits=self.bits, k=self.k, alpha=self.alpha, spares=self.spares, questionable=self.questionable,
            refresh_every=self.refresh, republish_every=self.republish, expire_after=self.expire,
            token_every=self.tokens, replicas=self.replicas, addresses=addresses, arrival=self.arrival,
            everybody=everybody if self.formation == "converged" else (),
        )  # fmt: skip
        system.role("peer", peer, count=self.nodes)
        client = KademliaClient(addresses=addresses, bits=self.bits, rule="xor", replicas=self.replicas)
        system.clients(client)

    async def ready(self, x: Any) -> None:
        await formed(x, self.is_connected, joining=until_joined(self, self.nodes))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        found = {**await figures(x, self.nodes), **await x.client.stored()}
        census: Census = await x.client.census()
        members = {m.address for m in census.members}
        some = [m.address for m in census.members[:: max(1, len(members) // 256)]]
        known = await settle(*(x.at(a, Kademlia).contacts() for a in some))
        contacts = [n.address for told in known if not isinstance(told, Failure) for n in told]
        if contacts:
            found["dead"] = sum(a not in members for a in contacts) / len(contacts)
        return found, [await self.is_connected(x)]

    async def is_connected(self, x: Any) -> Verdict:
        """Whether (up to 256) members are found by others."""
        census: Census = await x.client.census()
        some = census.members[:: max(1, len(census.members) // 256)]
        askers = [x.random.choice(census.members).address for _ in some]
        asked = (x.at(a, Kademlia, timeout=5.0).lookup(m.id) for a, m in zip(askers, some))
        wrong = sum(isinstance(f, Failure) or f.peer.id != m.id for m, f in zip(some, await settle(*asked)))
        detail = f"{len(census.members)} of {self.nodes} are members; not found: {wrong} of {len(some)}"
        return Verdict("members find each other", len(census.members) == self.nodes and not wrong, detail)
