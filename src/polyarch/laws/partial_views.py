"""Overlays of peers with partial views, for the laws of cyclon, hyparview and scamp.

Peers join one after another, and only then do the cycles begin that are counted: a cycle takes so long that
in the time of all joins hardly any peer has one.  Simulated time costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from statistics import fmean
from typing import Any

from polyarch.blocks.broadcast import BroadcastClient, News, Teller
from polyarch.blocks.graphs import mean_path, with_links
from polyarch.blocks.partial_views import ViewKeeper, views_of
from polyarch.core import Failure, Random, System, settle
from polyarch.jobs.broadcast import Account
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

LATENCY = 0.001
ARRIVAL = 0.02
"""Seconds between two joins: longer than all messages of a join take."""
SPACING = 0.1
"""Seconds between two messages: longer than all copies of one take."""


class Overlay:
    """Peers in a simulation, which join one after another."""

    def __init__(
        self,
        peer: type[ViewKeeper],
        n: int,
        seed: int,
        *,
        arrival: float = ARRIVAL,
        links: bool = False,
        **config: Any,
    ) -> None:
        """``arrival``: seconds between two joins; ``links``: whether messages can be observed; ``config``: of
        each peer."""
        system = System()
        self.addresses = system.addresses("peer", n)
        self.alive: Sequence[str] = self.addresses
        self.arrival = arrival
        self.cycle = 50 * arrival * n
        declared = peer(addresses=self.addresses, arrival=arrival, **{"cycle": self.cycle} | config)
        system.role("peer", declared, count=n)
        system.clients(BroadcastClient(addresses=self.addresses))
        network = Network(latency=Constant(LATENCY))
        self.session = SimSession(system, seed=seed, network=network, detailed=False, links=links)
        self.random = Random(seed).fork("law")
        self.published = 0

    async def form(self, x: Experimenter, cycles: int) -> None:
        """All join; then so many cycles pass."""
        await x.sleep(self.arrival * len(self.addresses) + 10 + cycles * self.cycle)

    async def views(self, x: Experimenter) -> dict[str, tuple[str, ...]]:
        """The neighbours of each living peer."""
        return await views_of(x, self.alive)

    async def fail(self, x: Experimenter, fraction: float) -> None:
        """Crash a fraction of all peers at once."""
        victims = dict.fromkeys(self.random.sample(self.addresses, round(fraction * len(self.addresses))))
        for victim in victims:
            await x.control.crash(victim)
        self.alive = [a for a in self.addresses if a not in victims]

    async def publish(self, x: Experimenter, messages: int) -> tuple[float, float]:
        """One message after another, each by any living peer: the mean share of the living peers that it
        reached, and the mean of its longest way in hops."""
        begun: dict[int, float] = {}
        for _ in range(messages):
            self.published += 1
            begun[self.published] = x.now + LATENCY
            try:
                await x.at(self.random.choice(self.alive), Teller).publish(News(self.published, ""))
            except Failure:
                pass  # reached nobody
            await x.sleep(SPACING)
        reached = dict.fromkeys(begun, 0)
        longest = dict.fromkeys(begun, 0)
        for at in range(0, len(self.alive), 256):
            for account in await settle(*(x.at(a, Teller).account() for a in self.alive[at : at + 256])):
                if isinstance(account, Account):
                    for delivery in account.deliveries:
                        if delivery.message in begun:
                            hops = round((delivery.at - begun[delivery.message]) / LATENCY)
                            reached[delivery.message] += 1
                            longest[delivery.message] = max(longest[delivery.message], hops)
        return fmean(reached.values()) / len(self.alive), fmean(longest.values())

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, Any]]) -> Any:
        """Run an experiment on it."""
        return self.session.perform(experiment)


def links_between(views: Mapping[str, Sequence[str]]) -> float:
    """The clustering coefficient as Leitão et al. seem to count it: links between the neighbours of a peer,
    each direction by itself, over the number of pairs of neighbours."""
    near = {address: frozenset(view) for address, view in views.items()}
    shares = []
    for view in near.values():
        if len(view) > 1:
            inside = sum(len(view & near.get(n, frozenset())) for n in sorted(view))
            shares.append(2 * inside / (len(view) * (len(view) - 1)))
    return fmean(shares)


def sampled_path(graph: Sequence[Sequence[int]], seed: int, sources: int = 40) -> float:
    """The mean shortest path, from so many random peers to all."""
    chosen = Random(seed).sample(range(len(graph)), min(sources, len(graph)))
    return mean_path(graph, chosen)


def random_path(n: int, links: int) -> float:
    """The mean shortest path of a random graph with so many links."""
    return sampled_path(with_links(n, links, Random(1)), 1)


def reach(fanout: float, links: float, failed: float) -> float:
    """The mean share of living peers that a message reaches which each passes on, once, to ``fanout`` of its
    ``links`` neighbours, of whom a fraction has failed: the chance that it takes off, times the share that is
    reached then."""
    lost = 0.0
    for _ in range(10_000):
        lost = (failed + (1 - failed) * lost) ** fanout
    share = 1.0
    for _ in range(10_000):
        share = 1 - math.pow(max(0.0, 1 - share * fanout / links), links * (1 - failed))
    return (1 - lost) * share
