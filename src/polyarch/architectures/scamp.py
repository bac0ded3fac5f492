"""Scamp: views that grow with the logarithm of the number of peers, which nobody knows.

Ganesh, Kermarrec, Massoulié: "Peer-to-Peer Membership Management for Gossip-Based Protocols", IEEE
Transactions on Computers 52(2), 2003.  The words for the mechanisms are those of the paper.

A peer's *partial view* are those to whom it sends messages, its *in-view* those who send to it.  A newcomer
*subscribes* with one member, its contact, and has that one in its partial view.  The contact forwards the
subscription to all of its own partial view, and c additional copies to random ones of it.  Who receives a
forwarded subscription keeps it with probability 1 / (1 + length of its partial view), or else forwards it to
one random neighbour, and so on, until somebody keeps it.  So the n-th newcomer adds as many links as a view
has on average, and c + 1 more, and the views' mean length comes to (c + 1) ln n: with that many targets a
message reaches everybody with a probability that c decides.

What is the problem with this?  A subscription makes as many random walks as views are long, each about as
long: (c + 1)^2 ln^2 n messages a newcomer, and the same for each lease.  The newest peers know the fewest, at
first only their contact, and the graph is clustered.  Only who leaves says so: links to the dead stay until
their leases end, and walks that meet the dead are lost, subscriptions with them.  And nothing holds the
number of links where it is, once all have subscribed again: without indirection, views of 500 peers grew from
11 to 21 links in 12 leases.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from polyarch.blocks.broadcast import BroadcastClient, News
from polyarch.blocks.partial_views import COVERAGE, ViewKeeper, ViewsOverlay
from polyarch.core import Failure, Future, System, oneway, parameter, rpc

_CHANCES = 10.0
"""A forwarded subscription that should have been kept so many times (by the sum of the probabilities) and was
not has met only those who know the subscriber, and is dropped.  (The paper: after ten times at one peer.)"""
_SHORTEST = 0.5
"""Seconds that a lease lasts at least: a subscription has to find its places in it."""
_SILENCE = 5
"""After so many cycles without a heartbeat a peer takes itself for isolated."""


class Scamp(ViewKeeper):
    """One peer."""

    additional: int = 1
    """c: additional copies of a subscription."""
    lease: float = 0.0
    """Seconds for which a subscription is valid; 0: for ever."""
    indirection: float = 1.0
    """How far from its contact a newcomer's subscription begins: steps over links per peer; 0: there."""
    contacts: int = 0
    """How many of the first peers newcomers know as contacts; 0: all."""
    fanout: int = 0
    """How many neighbours a message is passed on to; 0: all."""

    timeout = 0.5

    async def start(self) -> None:
        self.begin()
        # Neighbour -> when its subscription, or in the in-view our own, ends; the earliest first.
        self.partial: dict[str, float] = {}
        self.inview: dict[str, float] = {}
        self.welcomed: Future[None] = self.future()
        self.beat = self.now  # when the last heartbeat came
        self.spawn(self.take_part())
        if self.cycle:
            self.every(self.cycle, self.heartbeats)

    def neighbours(self) -> Collection[str]:
        return self.partial

    # -- subscription --------------------------------------------------------------------------------------

    async def find(self, contacts: int | None = None) -> None:
        known = contacts or len(self.addresses)
        await super().find(min(known, self.contacts or known))

    async def join_through(self, contact: str) -> None:
        self.welcomed = self.future()
        await self.at(contact).subscribe(self.address, self.indirection)
        await self.welcomed.within(5.0)

    @rpc
    async def subscribe(self, newcomer: str, further: float) -> None:
        """A newcomer has chosen this peer as its contact."""
        self.must_belong()
        self.direct(newcomer, further, True)

    @oneway
    def direct(self, subscriber: str, further: float, new: bool) -> None:
        """Indirection: a random walk over links in both directions finds a random peer to be the contact
        instead, wherever subscriptions come in.  A walk is at a peer in proportion to how many links it has;
        so each takes the inverse of that from what is left of the walk, and it ends anywhere with the same
        probability.  (The paper weights links for this; here as in Massoulié et al., PODC 2006.)"""
        self.forget_expired()
        near = [*self.partial, *self.inview]
        if further > 0 and near:
            further -= self.random.exponential(1.0) / len(near)
        if further > 0 and near:
            self.at(self.random.choice(near)).direct(subscriber, further, new)
        elif subscriber != self.address:
            self.accept(subscriber, new)

    def accept(self, subscriber: str, new: bool) -> None:
        """Be the contact.  Only who is new gets the copies, and this peer as a neighbour: for those who only
        subscribe again views would be c longer after each lease."""
        view = list(self.partial)
        if not view:
            self.keep(subscriber)
        for neighbour in view:
            self.at(neighbour).forward(subscriber, _CHANCES)
        if new:
            for _ in range(self.additional if view else 0):
                self.at(self.random.choice(view)).forward(subscriber, _CHANCES)
            self.at(subscriber).welcome(self.address)

    @oneway
    def forward(self, subscriber: str, chances: float) -> None:
        """A forwarded subscription: keep it or pass it on."""
        if self.lease:
            self.forget_expired()
        view = self.partial
        probability = 1 / (1 + len(view))
        new = subscriber not in view and subscriber != self.address
        if new and self.random.chance(probability):
            self.keep(subscriber)
        elif view and chances > 0:
            self.at(self.random.choice(list(view))).forward(subscriber, chances - probability)

    def keep(self, subscriber: str) -> None:
        """Have it in the partial view, and tell it."""
        self.partial.pop(subscriber, None)
        self.partial[subscriber] = self.lease_end()
        self.at(subscriber).kept(self.address)

    @oneway
    def kept(self, by: str) -> None:
        """Our subscription is kept there."""
        self.inview.pop(by, None)
        self.inview[by] = self.lease_end()
        self.beat = self.now

    @oneway
    def welcome(self, contact: str) -> None:
        """The contact of this newcomer."""
        if contact != self.address:
            self.keep(contact)
        self.welcomed.set(None)

    # -- unsubscription ------------------------------------------------------------------------------------

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Unsubscribe: all but c + 1 of those who know us get one of those whom we know instead, so that
        views are as long as if this peer had never come."""
        self.forget_expired()
        known, knowing = list(self.partial), list(self.inview)
        self.entered = False
        self.partial, self.inview = {}, {}
        for neighbour in known:
            self.at(neighbour).unsubscribed(self.address)
        for i, j in enumerate(knowing):
            replaced = known and i < len(knowing) - self.additional - 1
            self.at(j).replace(self.address, known[i % len(known)] if replaced else "")

    @oneway
    def replace(self, leaving: str, by: str) -> None:
        """Who leaves says whom to know instead; "": nobody."""
        if self.partial.pop(leaving, None) and by and by != self.address and by not in self.partial:
            self.keep(by)

    @oneway
    def unsubscribed(self, leaving: str) -> None:
        """Who leaves sends us nothing any more."""
        self.inview.pop(leaving, None)

    # -- leases and isolation ------------------------------------------------------------------------------

    def lease_end(self) -> float:
        """When what is kept now is forgotten."""
        return self.now + self.lease if self.lease else inf

    def forget_expired(self) -> None:
        """Links end with their leases."""
        for view in (self.partial, self.inview):
            while view and next(iter(view.values())) <= self.now:
                del view[next(iter(view))]

    async def take_part(self) -> None:
        """Subscribe, and again whenever the lease ends."""
        await self.enter()
        while self.lease:
            await self.sleep(self.lease)
            if self.entered:
                await self.subscribe_again()

    async def subscribe_again(self) -> None:
        """Through any neighbour; who does not answer is forgotten.  The own partial view stays."""
        while self.partial:
            contact = self.random.choice(list(self.partial))
            try:
                return await self.at(contact).resubscribe(self.address, self.indirection)
            except Failure:
                self.partial.pop(contact, None)

    @rpc
    async def resubscribe(self, subscriber: str, further: float) -> None:
        """A member's lease has ended."""
        self.must_belong()
        self.direct(subscriber, further, False)

    async def heartbeats(self) -> None:
        """Once a cycle: tell neighbours that this peer sends to them.  Who hears of nobody for long is in
        nobody's view any more, and subscribes again."""
        self.forget_expired()
        for neighbour in self.partial:
            self.at(neighbour).heartbeat(self.address)
        if self.entered and len(self.addresses) > 1:
            if self.now - self.beat > _SILENCE * self.cycle:
                self.beat = self.now
                await self.subscribe_again()
            if not self.partial:
                await self.find()

    @oneway
    def heartbeat(self, sender: str) -> None:
        """Somebody sends to us."""
        self.beat = self.now
        if sender not in self.inview:
            self.inview[sender] = self.lease_end()

    # -- broadcast -----------------------------------------------------------------------------------------

    def spread(self, news: News) -> None:
        """Pass a message on to the partial view, or so many of it, once."""
        view = list(self.partial)
        for neighbour in self.random.sample(view, min(self.fanout, len(view))) if self.fanout else view:
            self.sent += 1
            self.at(neighbour).tell(news)

    @oneway
    def tell(self, news: News) -> None:
        """A message on its way."""
        if self.belongs() and self.receive(news):
            self.spread(news)


class ScampOverlay(ViewsOverlay):
    """Partial views whose length follows the number of peers by itself; gossip goes to all of a view."""

    name = "scamp"
    source = "Ganesh, Kermarrec, Massoulié, IEEE Transactions on Computers 52(2), 2003"
    claims = ("no single point of failure", "views of (c + 1) ln n without knowing n")

    additional: int = parameter(1, "c: additional copies of a subscription", least=0)
    lease: float = parameter(30.0, "a subscription is valid for so long; 0: for ever", least=0, unit="s")
    cycle: float = parameter(1.0, "time between two heartbeats of a peer; 0: none", least=0, unit="s")
    indirection: float = parameter(1.0, "random walk to another contact: steps per link; 0: none", least=0)
    contacts: int = parameter(0, "how many of the first peers are known as contacts; 0: all", least=0)
    fanout: int = parameter(0, "neighbours that a message is passed on to; 0: all", least=0)
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    @property
    def disclaims(self) -> tuple[str, ...]:
        """Coverage is a matter of chance."""
        return COVERAGE

    def build(self, system: System) -> None:
        if 0 < self.lease < _SHORTEST:
            raise ValueError(f"--lease {self.lease:g}: subscribing takes up to {_SHORTEST} s; 0: for ever")
        addresses = system.addresses("peer", self.nodes)
        peer = Scamp(
            addresses=addresses,
            additional=self.additional,
            lease=self.lease,
            cycle=self.cycle,
            indirection=self.indirection,
            contacts=self.contacts,
            fanout=self.fanout,
            arrival=self.arrival,
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses))
