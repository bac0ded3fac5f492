"""Cyclon: each peer knows a few others, and exchanges some of them with the one that it has known longest.

Voulgaris, Gavidia, van Steen: "CYCLON: Inexpensive Membership Management for Unstructured P2P Overlays",
Journal of Network and Systems Management 13(2), 2005.  Steps and sections below are those of the paper.

A peer's *view* holds at most c links, each with an age: how many cycles ago the peer that it leads to made
it.  Once a cycle a peer gives its oldest link back: it sends that neighbour a new link to itself and l - 1 of
its other links, and takes l of the neighbour's for them (*enhanced shuffling*).  So nobody has more than c
links, links change hands and are not copied, and the graph of the views comes to look like a random one, only
that all are known about equally well.  A link to a dead peer grows old, is tried, and goes.

What is the problem with this?  Nobody is told of a failure: for about c cycles messages go to the dead too,
and a fanout that was enough is not.  And a message that is passed on to f random neighbours without an
acknowledgement misses a part of about e^-f of all peers even when nothing fails.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from polyarch.blocks.broadcast import BroadcastClient, News
from polyarch.blocks.partial_views import COVERAGE, ViewKeeper, ViewsOverlay
from polyarch.core import Failure, Record, System, oneway, parameter, rpc


class Link(Record, array_like=True):
    """What one peer knows of another."""

    address: str
    age: int
    """Cycles since the peer at ``address`` made it."""


class Cyclon(ViewKeeper):
    """One peer."""

    capacity: int = 20
    """c: how many links its view holds."""
    length: int = 8
    """l: how many links are exchanged at a time."""
    walk: int = 5
    """Steps of the random walks that make a newcomer known: about the average path length."""
    oldest: bool = True
    """Whether a cycle's exchange is with the neighbour of the oldest link (*enhanced* shuffling); if not,
    with any neighbour (*basic* shuffling)."""
    random_views: bool = False
    """Whether it begins as a member, with c neighbours chosen at random, instead of joining."""
    fanout: int = 4
    """How many neighbours a message is passed on to."""
    acknowledged: bool = False
    """Whether those must acknowledge it; instead of one who does not, who is forgotten, another one is told.
    (Leitão et al., DSN 2007, call this CyclonAcked.)"""

    timeout = 0.5

    async def start(self) -> None:
        self.begin()
        # The view: neighbour -> the cycle of ours in which its link was made.  So links age by themselves.
        self.made: dict[str, int] = {}
        self.cycles = 0
        if self.random_views and not self.restarted:
            drawn = self.random.sample(self.addresses, min(self.capacity + 1, len(self.addresses)))
            others = [a for a in drawn if a != self.address][: self.capacity]
            self.made = {a: -self.random.below(self.capacity) for a in others}
            self.entered = True
        else:
            self.spawn(self.enter())
        if self.cycle:
            self.every(self.cycle, self.exchange)

    def neighbours(self) -> Collection[str]:
        return self.made

    # -- shuffling -----------------------------------------------------------------------------------------

    async def exchange(self) -> None:
        """One cycle: steps 1 to 7 of enhanced shuffling."""
        if not self.made:
            return await self.find() if self.entered else None
        # 1. All links are a cycle older.
        self.cycles += 1
        # 2. The neighbour with the oldest link, and l - 1 others.
        q = min(self.made, key=self.made.__getitem__) if self.oldest else self.some(1)[0]
        sent = self.some(self.length - 1, but=q)
        try:
            # 3. - 5. A new link to ourselves takes the place of q's.
            links = await self.at(q).shuffle(self.address, (Link(self.address, 0), *self.links_to(sent)))
        except Failure:
            self.made.pop(q, None)
        else:
            self.merge(links, [*sent, q])

    @rpc
    async def shuffle(self, sender: str, links: tuple[Link, ...]) -> tuple[Link, ...]:
        """Take these links, and give as many."""
        self.must_belong()
        sent = self.some(self.length, but=sender)
        answer = self.links_to(sent)
        self.merge(links, sent)
        return answer

    def merge(self, received: tuple[Link, ...], sent: list[str]) -> None:
        """6. and 7.: leave out links to ourselves and to neighbours; put the others into empty places first,
        and then into those of links that were sent, beginning with the last."""
        made = self.made
        for link in received:
            if link.address != self.address and link.address not in made:
                if len(made) >= self.capacity:
                    while sent and sent[-1] not in made:
                        sent.pop()  # it has changed hands meanwhile
                    if not sent:
                        return
                    del made[sent.pop()]
                made[link.address] = self.cycles - link.age

    def some(self, count: int, but: str = "") -> list[str]:
        """So many random neighbours without that one, or as many as there are."""
        others = [a for a in self.made if a != but]
        return self.random.sample(others, min(count, len(others)))

    def links_to(self, neighbours: Sequence[str]) -> tuple[Link, ...]:
        """Copies of the links to these."""
        made, now = self.made, self.cycles
        return tuple([Link(a, now - made[a]) for a in neighbours])

    # -- joining -------------------------------------------------------------------------------------------

    async def join_through(self, contact: str) -> None:
        await self.at(contact).introduce(self.address)

    @rpc
    async def introduce(self, newcomer: str) -> None:
        """Make a newcomer known: c random walks start here."""
        self.must_belong()
        for _ in range(self.capacity):
            self.wander(newcomer, self.walk)

    @oneway
    def wander(self, newcomer: str, steps: int) -> None:
        """A random walk on a newcomer's behalf.  Who is at its end gives it one of its links, and takes a new
        link to it instead, so that nobody else is known to more or fewer than before."""
        if newcomer == self.address or not self.belongs():
            return
        onward = self.some(1, but=newcomer) if steps else []
        if onward:
            self.at(onward[0]).wander(newcomer, steps - 1)
        else:
            given = Link(self.address, 0)  # while there is room for it, or it is known here from before
            if newcomer not in self.made and len(self.made) >= self.capacity:
                (given,) = self.links_to(self.some(1, but=newcomer))
                del self.made[given.address]
            self.made[newcomer] = self.cycles
            self.at(newcomer).welcome(given)

    @oneway
    def welcome(self, link: Link) -> None:
        """One of this newcomer's random walks has ended."""
        self.merge((link,), [])

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Nobody needs to be told: a link that leads nowhere goes when it is the oldest."""
        self.entered = False
        self.made = {}

    # -- broadcast -----------------------------------------------------------------------------------------

    def spread(self, news: News) -> Any:
        """Pass a message on to some neighbours, once."""
        if self.acknowledged:
            return self.spread_surely(news)
        for neighbour in self.some(self.fanout):
            self.sent += 1
            self.at(neighbour).tell(news)
        return None

    @oneway
    def tell(self, news: News) -> None:
        """A message on its way."""
        if self.belongs() and self.receive(news):
            spreading = self.spread(news)
            if spreading is not None:
                self.spawn(spreading)

    async def spread_surely(self, news: News) -> None:
        """The same, until so many have acknowledged it."""
        told = 0
        for neighbour in self.some(len(self.made)):
            if told == self.fanout:
                return
            self.sent += 1
            try:
                await self.at(neighbour).tell_surely(news)
                told += 1
            except Failure:
                self.made.pop(neighbour, None)

    @rpc
    async def tell_surely(self, news: News) -> None:
        """A message on its way, acknowledged."""
        self.must_belong()
        self.sent += 1
        self.tell(news)


class CyclonOverlay(ViewsOverlay):
    """Partial views, kept random by exchanges with the oldest neighbour; gossip spreads over them."""

    name = "cyclon"
    source = "Voulgaris, Gavidia, van Steen, CYCLON, Journal of Network and Systems Management 13(2), 2005"
    claims = ("no single point of failure", "views of a fixed size whose graph is like a random one")

    view: int = parameter(20, "c: links of a peer", least=1)
    shuffle: int = parameter(8, "l: links exchanged at a time", least=1)
    cycle: float = parameter(1.0, "time between two exchanges of a peer; 0: none", least=0, unit="s")
    oldest: bool = parameter(True, "exchange with the oldest neighbour (enhanced); if not, with any (basic)")
    fanout: int = parameter(6, "neighbours that a message is passed on to", least=1)
    acknowledged: bool = parameter(False, "who does not acknowledge a message is forgotten and replaced")
    walk: int = parameter(5, "steps of the random walks that make a newcomer known", least=0)
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start at random")
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    @property
    def disclaims(self) -> tuple[str, ...]:
        """Coverage is a matter of chance."""
        return COVERAGE

    def build(self, system: System) -> None:
        if self.shuffle > self.view:
            raise ValueError(f"--shuffle {self.shuffle}: a peer has --view {self.view} links to exchange")
        addresses = system.addresses("peer", self.nodes)
        peer = Cyclon(
            addresses=addresses,
            capacity=self.view,
            length=self.shuffle,
            cycle=self.cycle,
            oldest=self.oldest,
            fanout=self.fanout,
            acknowledged=self.acknowledged,
            walk=self.walk,
            random_views=self.formation == "converged",
            arrival=self.arrival,
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses))
