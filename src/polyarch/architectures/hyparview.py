"""HyParView: a small view to talk to, and a large one to replace what fails in it.

Leitão, Pereira, Rodrigues: "HyParView: a membership protocol for reliable gossip-based broadcast", DSN 2007,
and technical report DI-FCUL TR-07-13.  Algorithm and sections below are those of the report.

A peer keeps two views.  Its *active view* is small (5) and symmetric: there is an open connection to each
neighbour in it, and who dies is missed at once at the other ends of its connections.  A message is *flooded*
over them, so that it reaches whoever is connected at all.  The *passive view* is larger (30) and holds
addresses only, which shuffles refresh.  When a neighbour fails, one of the passive view takes its place.

A connection is written as two calls, one in each direction, which are answered when it is closed.  When the
other end dies the call fails, as TCP would tell.

What is the problem with this?  The flood carries each message over every connection in at least one
direction, some 4 copies for each peer; and because neighbours are few, paths are more than twice as long as
over Cyclon's views.  A neighbour that is only slow is taken for dead.  And when nearly all peers have died at
once, whoever has nobody alive in either view is on its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf
from typing import Any, Literal

from polyarch.blocks.broadcast import BroadcastClient, News
from polyarch.blocks.graphs import random_regular
from polyarch.blocks.partial_views import COVERAGE, ViewKeeper, ViewsOverlay, place_in, views_of
from polyarch.core import (
    Failure,
    Future,
    Random,
    Refused,
    System,
    Verdict,
    oneway,
    parameter,
    rpc,
)


class NotNeighbours(Refused, code="not-neighbours"):
    """The peer that was told something has no connection to the one that told it."""


class HyParView(ViewKeeper):
    """One peer."""

    active_size: int = 5
    """The fanout of the flood, and the one that a message came from."""
    passive_size: int = 30
    active_walk: int = 6
    """ARWL: steps of the random walks that bring a newcomer into active views, and of shuffles."""
    passive_walk: int = 3
    """PRWL: how far from its end such a walk brings the newcomer into a passive view."""
    active_share: int = 3
    """ka: how many of the active view are in a shuffle."""
    passive_share: int = 4
    """kp: how many of the passive view are."""
    repairs: bool = True
    """Whether a failed neighbour is replaced from the passive view."""
    connections: tuple[tuple[int, ...], ...] = ()
    """Whom each of ``addresses`` is connected to at first, by number, instead of joining."""

    timeout = 0.5

    async def start(self) -> None:
        self.begin()
        # neighbour -> set when this end closes the connection to it
        self.active: dict[str, Future[None]] = {}
        self.passive: list[str] = []
        self.given: list[str] = []  # what the last shuffle has sent away: the first to make room
        self.repairing = False
        if self.connections and not self.restarted:
            self.begin_connected()
        else:
            self.spawn(self.enter())
        if self.cycle:
            self.every(self.cycle, self.begin_shuffle)

    def neighbours(self) -> Collection[str]:
        return self.active

    def begin_connected(self) -> None:
        """Begin as a member, with connections as they are given and random others in the passive view."""
        self.entered = True
        for i in self.connections[place_in(self.addresses, self.address)]:
            self.add_to_active(self.addresses[i])
        enough = min(self.passive_size + len(self.active) + 1, len(self.addresses))
        for peer in self.random.sample(self.addresses, enough):
            if len(self.passive) < self.passive_size:
                self.add_to_passive(peer)

    # -- joining (algorithm 1) -----------------------------------------------------------------------------

    async def join_through(self, contact: str) -> None:
        await self.at(contact).join(self.address)

    @rpc
    async def join(self, newcomer: str) -> None:
        """A newcomer has chosen this peer as its contact."""
        self.must_belong()
        self.add_to_active(newcomer)
        for n in self.active:
            if n != newcomer:
                self.at(n).forward_join(self.address, newcomer, self.active_walk)

    @oneway
    def forward_join(self, sender: str, newcomer: str, ttl: int) -> None:
        """A random walk on a newcomer's behalf: at its end, an active view takes it in."""
        others = [n for n in self.active if n != sender and n != newcomer]
        if ttl == 0 or not others:
            self.add_to_active(newcomer)
            return
        if ttl == self.passive_walk:
            self.add_to_passive(newcomer)
        self.at(self.random.choice(others)).forward_join(self.address, newcomer, ttl - 1)

    def add_to_active(self, peer: str) -> None:
        """Connect to a peer; if the view is full, a random neighbour is disconnected for it."""
        if peer == self.address or peer in self.active:
            return
        if peer in self.passive:
            self.passive.remove(peer)
        if len(self.active) >= self.active_size:
            dropped = self.random.choice(list(self.active))
            self.active.pop(dropped).set(None)
            self.add_to_passive(dropped)
        closed = self.active[peer] = self.future()
        self.spawn(self.connect(peer, closed))

    def add_to_passive(self, peer: str) -> None:
        """Remember a peer; if the view is full, one that was sent in the last shuffle is forgotten, or else
        any (section 4.5)."""
        if peer == self.address or peer in self.active or peer in self.passive:
            return
        if len(self.passive) >= self.passive_size:
            given = next((p for p in self.given if p in self.passive), None)
            self.passive.remove(given or self.random.choice(self.passive))
        self.passive.append(peer)

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Close all connections."""
        active, self.active, self.passive = self.active, {}, []
        self.entered = False
        for closed in active.values():
            closed.set(None)

    # -- connections and failures (sections 4.1 and 4.3) ---------------------------------------------------

    async def connect(self, peer: str, closed: Future[None]) -> None:
        """Be connected to a peer until one of both closes the connection, or the peer fails."""
        try:
            await self.at(peer, timeout=inf).connected(self.address)
        except Failure:
            lives = False
        else:
            lives = True
        if self.active.get(peer) is closed:
            self.lose(peer)
            if lives:
                self.add_to_passive(peer)

    @rpc
    async def connected(self, peer: str) -> None:
        """A peer's end of a connection: answered when this end closes it."""
        self.add_to_active(peer)
        await self.active[peer]

    def lose(self, peer: str) -> None:
        """A neighbour is none any more: replace it."""
        closed = self.active.pop(peer, None)
        if closed is not None:
            closed.set(None)
            if self.repairs:
                self.spawn(self.repair())

    async def repair(self) -> None:
        """Ask one after another of the passive view, in random order, to be neighbours, until the active view
        is full.  Who does not answer is forgotten."""
        if self.repairing:
            return
        self.repairing = True
        for q in self.random.sample(self.passive, len(self.passive)):
            if len(self.active) >= self.active_size:
                break
            if q in self.passive:
                try:
                    if await self.at(q).neighbour(self.address, not self.active):
                        self.add_to_active(q)
                except Failure:
                    if q in self.passive:
                        self.passive.remove(q)
        self.repairing = False

    @rpc
    async def neighbour(self, peer: str, high: bool) -> bool:
        """A peer wants to be neighbours.  With high priority (it has no others) it cannot be refused; with
        low priority it is, if there is no room."""
        self.must_belong()
        if peer not in self.active:
            if len(self.active) >= self.active_size and not high:
                return False
            self.add_to_active(peer)
        return True

    # -- shuffles (section 4.4) ----------------------------------------------------------------------------

    async def begin_shuffle(self) -> None:
        """Once a cycle: send some of both views on a random walk.  The neighbour with which it begins is
        first asked if it lives: not every failure resets connections."""
        if not self.active:
            return await self.find() if self.entered else None
        if len(self.active) < self.active_size and self.repairs:
            self.spawn(self.repair())
        neighbours = list(self.active)
        active = self.random.sample(neighbours, min(self.active_share, len(neighbours)))
        self.given = self.random.sample(self.passive, min(self.passive_share, len(self.passive)))
        n = self.random.choice(neighbours)
        try:
            await self.at(n).keep_alive(self.address)
        except Failure:
            self.lose(n)
        else:
            self.at(n).shuffle(self.address, (self.address, *active, *self.given), self.active_walk - 1)

    @rpc
    async def keep_alive(self, sender: str) -> None:
        """Answers a neighbour if it lives."""
        if sender not in self.active:
            raise NotNeighbours(self.address)

    @oneway
    def shuffle(self, sender: str, peers: tuple[str, ...], ttl: int) -> None:
        """Addresses on a random walk; the first is that of the peer which began it.  Who is at the end takes
        them, and sends that peer as many of its passive view."""
        others = [n for n in self.active if n != sender and n != peers[0]]
        if ttl and others:
            self.at(self.random.choice(others)).shuffle(self.address, peers, ttl - 1)
        elif peers[0] != self.address:
            self.given = self.random.sample(self.passive, min(len(peers), len(self.passive)))
            self.at(peers[0]).shuffle_reply(tuple(self.given))
            self.shuffle_reply(peers)

    @oneway
    def shuffle_reply(self, peers: tuple[str, ...]) -> None:
        """Addresses from the other end of a shuffle."""
        for peer in peers:
            self.add_to_passive(peer)
        self.given = []

    # -- broadcast (section 4.1) ---------------------------------------------------------------------------

    def spread(self, news: News) -> None:
        """Flood a message."""
        self.flood(news, self.address)

    def flood(self, news: News, sender: str) -> None:
        """Pass it on over all connections but the one that it came over."""
        for n in self.active:
            if n != sender:
                self.sent += 1
                self.at(n).tell(self.address, news)

    @oneway
    def tell(self, sender: str, news: News) -> None:
        """A message on its way."""
        if self.belongs() and self.receive(news):
            self.flood(news, sender)


class HyParViewOverlay(ViewsOverlay):
    """Few connections to flood messages over, and a larger view from which failed ones are replaced."""

    name = "hyparview"
    source = "Leitão, Pereira, Rodrigues, HyParView, DSN 2007"
    claims = ("no single point of failure", "every message reaches all while nobody fails")

    active: int = parameter(5, "connections of a peer (with 2 they form circles)", least=3)
    passive: int = parameter(30, "other peers that it remembers", least=1)
    active_walk: int = parameter(6, "ARWL: steps of a newcomer's random walks, and of shuffles", least=1)
    passive_walk: int = parameter(
        3, "PRWL: steps before their end at which a passive view is reached", least=0
    )
    cycle: float = parameter(1.0, "time between two shuffles of a peer; 0: none", least=0, unit="s")
    repairs: bool = parameter(True, "replace a failed neighbour from the passive view")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start connected")
    wiring: int = parameter(0, "converged: which random graph of connections; its seed", least=0)
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        """What is under way when peers fail may be lost with them."""
        return (*self.disclaims, *COVERAGE) if faults else self.disclaims

    def build(self, system: System) -> None:
        if self.passive_walk > self.active_walk:
            raise ValueError(f"--passive-walk {self.passive_walk}: a walk has {self.active_walk} steps")
        addresses = system.addresses("peer", self.nodes)
        peer = HyParView(
            addresses=addresses,
            active_size=self.active,
            passive_size=self.passive,
            active_walk=self.active_walk,
            passive_walk=self.passive_walk,
            cycle=self.cycle,
            repairs=self.repairs,
            connections=self.wired() if self.formation == "converged" else (),
            arrival=self.arrival,
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses))

    def wired(self) -> tuple[tuple[int, ...], ...]:
        """A random graph in which all have as many neighbours as an active view holds; or, where all their
        ends do not make pairs or peers are few, one less."""
        degree = min(self.active, self.nodes - 1)
        degree -= self.nodes * degree % 2
        graph = random_regular(self.nodes, degree, Random(self.wiring).fork("connections"))
        return tuple(map(tuple, graph))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        figures, verdicts = await super().observe(x)
        return figures, [*verdicts, await self.is_symmetric(x)]

    async def is_symmetric(self, x: Any) -> Verdict:
        """Whether every connection is open at both ends."""
        for _ in range(10):
            views = await views_of(x, list((await x.client.members()).lives))
            half = [(a, n) for a, view in views.items() for n in view if a not in views.get(n, ())]
            if not half:
                break
            await x.sleep(self.cycle)  # it is being opened or closed, or the next shuffle will find out
        first = "; first: {} of {}".format(*half[0][::-1]) if half else ""
        detail = f"{sum(map(len, views.values()))} ends, {len(half)} without the other one{first}"
        return Verdict("connections are open at both ends", not half, detail)
