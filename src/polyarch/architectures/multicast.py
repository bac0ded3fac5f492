"""Multicast on an overlay: a tree to everybody, made of the routes to one rendezvous.

Castro, Druschel, Kermarrec, Rowstron: "SCRIBE: a large-scale and decentralized application-level multicast
infrastructure", IEEE JSAC 20(8), 2002; here every peer belongs to the group, and the overlay is Chord's or
Pastry's.

The group has an identifier; the peer responsible for it is the *rendezvous*, the root.  Each peer hangs below
the next peer on the overlay's own route to the root (section III-B): all routes together are a tree, and
nobody had to build it.  What is published climbs to the root and comes down from there, once over each edge.

A child tells its parent again and again that it is there (section III-D), and who does not hear from a child
any more forgets it.  When the parent has died, the overlay knows another next peer, and that is the new
parent.  With each sign of life both say which messages they have heard of late, and fetch what they missed
meanwhile (Scribe leaves that to whoever uses it).

To compare: ``spread=flood`` sends the same messages over all links of the same overlay.  Nobody needs a tree
then, a failure is passed by, and nearly all copies are duplicates.

What is the problem with this?  The root and those near it do the work for all (metric ``stress_most``: copies
of one message over the busiest peer's own link); every message makes a detour over the root (``depth``); and
what a parent had not passed on when it died comes late: with the next sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Literal

from polyarch.architectures.chord import Chord
from polyarch.architectures.pastry import Pastry
from polyarch.blocks.broadcast import SPREAD, BroadcastClient, News, Teller, spread_of
from polyarch.blocks.forming import formed
from polyarch.blocks.overlay import NotAMember, Peer, ring_of
from polyarch.blocks.ring import identifier, within
from polyarch.core import (
    Architecture,
    Failure,
    Record,
    Refused,
    System,
    Verdict,
    oneway,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.broadcast import Broadcast

BITS = 32
GROUP = identifier("everybody", BITS)
"""The group's identifier: whoever is responsible for it is the root."""
DEEPEST = 64
"""A message that has climbed for longer goes in a circle: the overlay is being repaired."""


class Astray(Refused, code="astray"):
    """There is no way to the root at this moment."""


class Circling(Refused, code="circling"):
    """The ways of several members lead in a circle at this moment."""


class Position(Record, array_like=True):
    """Where a member is in the tree, and what went through it."""

    parent: str
    """Empty: this is the root, or it has no parent yet."""
    children: int
    hops: int
    """Of all messages delivered here, from their publishers; those that were fetched are not counted."""
    deepest: int
    counted: int
    """Messages that these hops are of."""
    delivered: int
    """All messages that were delivered here: published, fetched or come."""
    fresh: int
    """Copies that told something new."""
    copies_in: int
    copies_out: int


class Member(Teller):
    """A member of the group; what it needs of its overlay is said first."""

    flood: bool = False
    refresh_every: float = 0.5
    """Seconds between two signs of life to the parent."""
    remember: int = 64
    """How many of the last messages parent and child tell each other of."""

    def toward(self, key: int) -> Peer | None:
        """The next peer on the way to who is responsible for a key; None if that is this one."""
        raise NotImplementedError

    async def doubt(self, n: Peer, failure: Failure) -> None:
        """A peer did not answer: the overlay looks whether it lives."""
        raise NotImplementedError

    def neighbours_all(self) -> Iterable[Peer]:
        """All other peers that this one knows, in an order that is the same in each run."""
        raise NotImplementedError

    def begin(self) -> None:
        super().begin()
        self.parent = ""
        self.children: dict[str, float] = {}  # until when each is believed in
        self.passed: dict[int, None] = {}  # messages that were passed on
        self.hops = self.deepest = self.counted = self.fresh = self.copies_out = 0
        if not self.flood:
            self.every(self.refresh_every, self.keep_parent, jitter=0.1)

    # -- the tree -----------------------------------------------------------------------------------------

    async def keep_parent(self) -> None:
        """Hang below the next peer on the way to the root, and tell it so."""
        for _ in range(8):
            if not self.belongs():
                return
            n = self.toward(GROUP)
            if n is None:
                return self.hang_below("")
            try:
                heard = await self.at(n, Member).take_child(self.address, self.recent())
                self.hang_below(n.address)
                return await self.fetch_missed(n.address, heard)
            except Failure as failure:
                await self.doubt(n, failure)

    def hang_below(self, parent: str) -> None:
        """Have this parent from now on."""
        if self.parent not in ("", parent):
            self.at(self.parent, Member).lose_child(self.address)
        self.parent = parent

    @rpc
    async def take_child(self, child: str, heard: tuple[int, ...]) -> tuple[int, ...]:
        """A child is there, and has heard these messages of late; we answer with those that we have."""
        self.belongs_or_refuse()
        self.children[child] = self.now + 3 * self.refresh_every
        self.spawn(self.fetch_missed(child, heard))
        return self.recent()

    @oneway
    def lose_child(self, child: str) -> None:
        """A child has another parent now."""
        self.children.pop(child, None)

    def recent(self) -> tuple[int, ...]:
        """The last messages that were delivered here."""
        return tuple(islice(reversed(self.store), self.remember))

    async def fetch_missed(self, other: str, heard: tuple[int, ...]) -> None:
        """Fetch what another one has heard and we have not."""
        missed = tuple(m for m in heard if m not in self.store)
        if not missed:
            return
        self.sent += 1
        for news in await self.at(other, Member).fetch(missed):
            if self.receive(news):
                self.pass_on(news, 0, other)

    @rpc
    async def fetch(self, messages: tuple[int, ...]) -> tuple[News, ...]:
        """The texts of these messages, as far as they are here."""
        self.sent += 1
        found = tuple(self.store[m] for m in messages if m in self.store)
        self.copies_out += len(found)
        return found

    # -- messages -----------------------------------------------------------------------------------------

    async def spread(self, news: News) -> None:
        """Publish: up to the root, or to everybody at once."""
        if self.flood:
            return self.pass_on(news, 0, "")
        for _ in range(16):
            try:
                return await self.climb(news, 0)
            except Circling:
                await self.sleep(0.1)
        raise Astray(self.address)

    @rpc(timeout=4.0)
    async def climb(self, news: News, hops: int) -> None:
        """Carry a message up to the root, from which it comes down; answered when it is there."""
        if hops > DEEPEST:
            raise Circling(f"after {hops} hops at {self.address}")
        self.sent += hops > 0  # the answer
        for _ in range(8):
            self.belongs_or_refuse()  # it may have lost all whom it knew
            n = self.toward(GROUP)
            if n is None:
                if hops:
                    self.arrive(news, hops)
                return self.pass_on(news, hops, "")
            try:
                self.sent += 1
                self.copies_out += 1
                return await self.at(n, Member).climb(news, hops + 1)
            except Circling:
                raise  # if everybody in the circle tried again, that would not end
            except Failure as failure:
                await self.doubt(n, failure)
        raise Astray(self.address)

    @oneway
    def tell(self, news: News, hops: int, sender: str) -> None:
        """A message that comes down, or is flooded."""
        self.arrive(news, hops)
        self.pass_on(news, hops, sender)

    def receive(self, news: News) -> bool:
        new = super().receive(news)
        self.fresh += new
        return new

    def arrive(self, news: News, hops: int) -> None:
        if self.receive(news):
            self.hops += hops
            self.counted += 1
            self.deepest = max(self.deepest, hops)

    def pass_on(self, news: News, hops: int, sender: str) -> None:
        """Give a message to all children (or neighbours), once."""
        if news.message in self.passed:
            return
        self.passed[news.message] = None
        for target in self.below():
            if target not in (sender, self.address):
                self.sent += 1
                self.copies_out += 1
                self.at(target, Member).tell(news, hops + 1, self.address)

    def below(self) -> list[str]:
        """To whom a message is passed on from here."""
        if self.flood:
            return [n.address for n in self.neighbours_all()]
        self.children = {c: until for c, until in self.children.items() if until > self.now}
        return list(self.children)

    # -- for figures --------------------------------------------------------------------------------------

    def belongs_or_refuse(self) -> None:
        if not self.belongs():
            raise NotAMember(self.address)

    @rpc
    async def position(self) -> Position:
        """Where this member is, and what went through it."""
        self.belongs_or_refuse()
        children = 0 if self.flood else len(self.below())
        return Position(
            self.parent, children, self.hops, self.deepest, self.counted, len(self.log), self.fresh,
            self.copies, self.copies_out,
        )  # fmt: skip


class ChordMember(Chord, Member):
    """On Chord's ring: over its fingers."""

    async def start(self) -> None:
        self.begin()
        await super().start()

    def belongs(self) -> bool:
        return self.is_member()

    def toward(self, key: int) -> Peer | None:
        before, behind = self.predecessor, self.successors[0]
        if behind == self.me or (before is not None and within(key, before.id, self.me.id)):
            return None
        return behind if within(key, self.me.id, behind.id) else self.closest_preceding_node(key)

    async def doubt(self, n: Peer, failure: Failure) -> None:
        await settle(self.suspect(n, failure))

    def neighbours_all(self) -> Iterable[Peer]:
        return dict.fromkeys((*self.successors, *self.fingers, *filter(None, [self.predecessor])))


class PastryMember(Pastry, Member):
    """On Pastry's tables: over near nodes first."""

    async def start(self) -> None:
        self.begin()
        await super().start()

    def belongs(self) -> bool:
        return self.is_member()

    def toward(self, key: int) -> Peer | None:
        n = self.next_hop(key)
        return None if n is self.me else n

    async def doubt(self, n: Peer, failure: Failure) -> None:
        await self.suspect(n, failure)

    def neighbours_all(self) -> Iterable[Peer]:
        return self.known()


REACHED = "what was published reached all who stayed"
AGREED = "all who stayed delivered the same messages"

TREE = {
    "depth": "mean hops from a message's publisher to a delivery",
    "depth_most": "most such hops",
    "duplicates": "share of the copies that told nothing new",
    "stress": "copies of a message over a peer's own link, in and out: mean of the peers",
    "stress_most": "the same of the busiest peer",
    "fanout_most": "most children of a peer",
    "upkeep": "messages per second and peer when nothing is published",
}


class Multicast(Architecture):
    """A tree over an overlay: all routes to one rendezvous; each message once to everybody."""

    family = "peer-to-peer"
    source = "Castro, Druschel, Kermarrec, Rowstron, SCRIBE, IEEE JSAC 20(8), 2002"
    jobs = (Broadcast,)
    claims = ("no single point of failure", "one copy of a message for each peer, while nobody fails")
    metrics = {**SPREAD, **TREE}

    nodes: int = parameter(16, "peers", least=1)
    overlay: Literal["chord", "pastry"] = parameter("chord", "whose routes make the tree")
    spread: Literal["tree", "flood"] = parameter("tree", "over the tree, or over all links")
    refresh: float = parameter(0.5, "time between two signs of life to the parent", least=0.01, unit="s")
    remember: int = parameter(64, "last messages that parent and child tell of; 0: none", least=0)
    formation: Literal["joined", "converged"] = parameter("converged", "join one by one, or start stable")

    @property
    def not_borne(self) -> tuple[str, ...]:
        """What the overlays do not bear."""
        return ("crash", "torn", "pause", "partition", "loss", "delay")

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        """Plain Scribe loses what a parent had not passed on when it died."""
        plain = faults and not self.remember and self.spread == "tree"
        return (REACHED, AGREED) if plain else ()

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        common: dict[str, Any] = {
            "bits": BITS, "addresses": addresses, "arrival": 0.02,
            "ring": ring_of(addresses, BITS) if self.formation == "converged" else (),
            "flood": self.spread == "flood", "refresh_every": self.refresh, "remember": self.remember,
        }  # fmt: skip
        peer = ChordMember(**common) if self.overlay == "chord" else PastryMember(**common)
        system.role("peer", peer, count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses))

    async def ready(self, x: Any) -> None:
        await formed(x, self.is_tree)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        found = await spread_of(x)
        told = list((await self.positions(x)).values())
        messages = max((p.delivered for p in told), default=0)
        if messages:
            each = [(p.copies_in + p.copies_out) / messages for p in told]
            if counted := sum(p.counted for p in told):
                found["depth"] = sum(p.hops for p in told) / counted
                found["depth_most"] = max(p.deepest for p in told)
            if copies := sum(p.copies_in for p in told):
                found["duplicates"] = 1 - sum(p.fresh for p in told) / copies
            found["stress"], found["stress_most"] = sum(each) / len(each), max(each)
        if self.spread == "tree" and told:
            found["fanout_most"] = max(p.children for p in told)
        before = await x.control.traffic()
        await x.sleep(4.0)
        after = await x.control.traffic()
        found["upkeep"] = (after.messages - before.messages) / 4.0 / self.nodes
        return found, [await self.is_tree(x)]

    async def positions(self, x: Any) -> dict[str, Position]:
        """Where the members are that answer."""
        told: dict[str, Position] = {}
        for at in range(0, self.nodes, 256):
            page = [f"peer-{i}" for i in range(at, min(at + 256, self.nodes))]
            answers = await settle(*(x.at(a, Member).position() for a in page))
            told |= {a: p for a, p in zip(page, answers) if isinstance(p, Position)}
        return told

    async def is_tree(self, x: Any) -> Verdict:
        """Whether everybody is a member, and all parents lead to one root."""
        parent = {a: p.parent for a, p in (await self.positions(x)).items()}
        if self.spread == "flood":
            return Verdict("every peer is a member", len(parent) == self.nodes, f"{len(parent)} peers")
        level = {a: 0 for a, above in parent.items() if not above}
        roots, reached = len(level), 0
        while reached != len(level):
            reached = len(level)
            level |= {a: level[above] + 1 for a, above in parent.items() if above in level and a not in level}
        deep = max(level.values(), default=0)
        detail = f"{reached} of {self.nodes} peers below {roots} root(s), {deep} levels deep"
        return Verdict("the parents form one tree", roots == 1 and reached == self.nodes, detail)
