"""What protocols have in common in which each peer knows a few others, and messages spread along these links:
how peers come and go, and what can be said of all views together."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from math import inf
from statistics import pstdev
from typing import Any

from polyarch.blocks.broadcast import SPREAD, Teller, spread_of
from polyarch.blocks.forming import formed, until_joined
from polyarch.blocks.graphs import clustering, components
from polyarch.blocks.overlay import NotAMember, place_in
from polyarch.core.errors import Failure
from polyarch.core.messages import rpc
from polyarch.core.system import Architecture, Verdict, parameter
from polyarch.core.tasks import settle
from polyarch.jobs.broadcast import Broadcast

__all__ = [
    "COVERAGE", "VIEWS", "ViewKeeper", "ViewsOverlay", "both_ways", "in_degrees", "one_part", "place_in",
    "views_figures", "views_of",
]  # fmt: skip

VIEWS = {
    "links": "links that a peer has to others, mean",
    "in_degree_deviation": "how many peers know a peer: standard deviation; the mean is that of the links",
    "dead_links": "share of the links that lead to nobody who is a member",
    "clustering": "share of the pairs of a peer's neighbours that are neighbours themselves, mean",
    "components": "parts that the overlay has fallen into, by links in either direction",
    "upkeep": "messages for each peer and cycle when nobody publishes",
}
"""What ``views_figures`` measures."""

_AT_ONCE = 256  # peers asked at the same time when all are asked
_TRIES = 8  # to join, until the first peer takes itself for the only one


class ViewKeeper(Teller):
    """The port of a peer that knows some of the others.  A protocol says who its ``neighbours`` are and how
    to ``join_through`` a contact; its ``start`` calls ``begin``, makes its views, and spawns ``enter``."""

    addresses: tuple[str, ...] = ()
    """Where peers may be found, to join through."""
    arrival: float = 0.0
    """Seconds between the first joins of two peers that are neighbours in ``addresses``."""
    cycle: float = 1.0
    """Seconds between two rounds of upkeep that it begins; 0: none, for experiments without it."""

    def begin(self) -> None:
        super().begin()
        self.entered = False
        """Whether it has become a member, and has not left."""

    @abc.abstractmethod
    def neighbours(self) -> Collection[str]:
        """The peers that messages go to.  With the first of them it is a member."""

    @abc.abstractmethod
    async def join_through(self, contact: str) -> None:
        """Ask a member to be made known to others; a ``Failure`` if it cannot."""

    async def enter(self) -> None:
        """Become a member.  The first of ``addresses`` is one; the others join one after another, each
        through one of those before it.  Who has been away joins through anybody; if all have, the first
        begins anew."""
        contacts = len(self.addresses)
        if not self.restarted:
            contacts = place_in(self.addresses, self.address)
            await self.sleep(self.arrival * contacts)
        alone = _TRIES if self.address == self.addresses[0] else inf
        while contacts and not self.neighbours() and alone:
            await self.find(contacts)
            alone -= 1
        self.entered = True
        self.since = self.now

    async def find(self, contacts: int | None = None) -> None:
        """Try to join (again) through one of the first so many of ``addresses``, or of all."""
        contact = self.addresses[self.random.below(contacts or len(self.addresses))]
        if contact != self.address:
            try:
                await self.join_through(contact)
            except Failure:
                pass
        if not self.neighbours():
            await self.sleep(self.random.between(0.1, 0.5))

    def belongs(self) -> bool:
        return self.entered or bool(self.neighbours())

    def must_belong(self) -> None:
        """``NotAMember`` if this peer is none."""
        if not self.belongs():
            raise NotAMember(self.address)

    @rpc
    async def view(self) -> tuple[str, ...]:
        """Its neighbours; ``not-a-member`` if it is no member."""
        self.must_belong()
        return tuple(self.neighbours())

    @rpc
    async def links(self) -> int:
        """How many it has."""
        return len(self.neighbours())

    @rpc(timeout=5.0)
    @abc.abstractmethod
    async def leave(self) -> None:
        """Leave in good order: tell whom it concerns, and forget all neighbours."""


async def views_of(x: Any, addresses: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The neighbours of each member, by its address (``x``: an ``Experimenter``)."""
    views: dict[str, tuple[str, ...]] = {}
    for at in range(0, len(addresses), _AT_ONCE):
        page = addresses[at : at + _AT_ONCE]
        told = await settle(*(x.at(a, ViewKeeper).view() for a in page))
        views |= {a: view for a, view in zip(page, told) if not isinstance(view, Failure)}
    return views


def in_degrees(views: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many members know each member."""
    known = dict.fromkeys(views, 0)
    for view in views.values():
        for neighbour in view:
            if neighbour in known:
                known[neighbour] += 1
    return known


def both_ways(views: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """The graph of ``blocks.graphs`` in which two members are linked if one knows the other."""
    number = {address: i for i, address in enumerate(views)}
    graph: list[dict[int, None]] = [{} for _ in views]
    for i, view in enumerate(views.values()):
        for neighbour in view:
            j = number.get(neighbour)
            if j is not None and j != i:
                graph[i][j] = graph[j][i] = None
    return [list(near) for near in graph]


async def views_figures(x: Any, cycle: float) -> dict[str, float]:
    """``VIEWS``, now (``x``: an ``Experimenter``); the upkeep in the cycles of so many seconds that follow,
    at most 4."""
    views = await views_of(x, list((await x.client.members()).lives))
    if not views:
        return {}
    links = sum(map(len, views.values()))
    known = in_degrees(views)
    graph = both_ways(views)
    figures: dict[str, float] = {
        "links": links / len(views),
        "in_degree_deviation": pstdev(known.values()),
        "clustering": clustering(graph),
        "components": len(components(graph)),
    }
    if links:
        figures["dead_links"] = 1 - sum(known.values()) / links
    if cycle:
        cycles = max(1, min(4, 20_000 // len(views)))
        before = await x.control.traffic()
        await x.sleep(cycles * cycle)
        after = await x.control.traffic()
        figures["upkeep"] = (after.messages - before.messages) / cycles / len(views)
    return figures


def one_part(figures: Mapping[str, float]) -> Verdict:
    """Whether these figures are of an overlay that holds together."""
    parts = figures.get("components", 0)
    return Verdict("the overlay is in one piece", parts == 1, f"{parts:g} parts")


COVERAGE = ("what was published reached all who stayed", "all who stayed delivered the same messages")
"""The verdicts that an overlay disclaims whose coverage is a matter of chance."""


class ViewsOverlay(Architecture):
    """What overlays of ``ViewKeeper``s have in common: when they are ready, and what is seen of them."""

    family = "peer-to-peer"
    jobs = (Broadcast,)
    metrics = SPREAD | VIEWS

    nodes: int = parameter(16, "peers", least=1)
    cycle: float
    """Each has this parameter: the time between two rounds of its upkeep; 0: none."""
    arrival: float
    """And this one: the time between two joins."""

    async def ready(self, x: Any) -> None:
        await formed(x, self.all_are_members, joining=until_joined(self, self.nodes), period=self.cycle)

    async def all_are_members(self, x: Any) -> Verdict:
        """Whether nobody has still to join."""
        members = len((await x.client.members()).lives)
        return Verdict("all peers are members", members >= self.nodes, f"{members} of {self.nodes}")

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        figures = await views_figures(x, self.cycle)
        return await spread_of(x) | figures, [one_part(figures)]
