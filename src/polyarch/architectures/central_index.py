"""A central index: peers keep the content, one server knows who holds what.

Napster (1999); as an architecture: Androutsellis-Theotokis and Spinellis, "A survey of peer-to-peer content
distribution technologies", ACM Computing Surveys 36(4), 2004 (*hybrid decentralised*).

A peer *registers* at the index what it holds.  Who looks for a key asks the index, which names the peers that
have registered it, and goes to one of those: the content never passes through the index.  What the index
knows is *soft state*: a peer refreshes its registration now and then, and is forgotten when it does not.  So
the index needs no disk; when it comes back empty, it is full again after one round of refreshing.

What is the problem with this?  One hop, whatever the number of peers, and nothing is found without the index:
it is a single point of failure (and of attack: that is how Napster ended), it handles a message of every
lookup, and all the upkeep.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.forming import formed
from polyarch.blocks.overlay import TALLY, NotAMember, OverlayClient, Participant, figures
from polyarch.blocks.ring import identifier
from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Record,
    Refused,
    System,
    Verdict,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.lookup import Holder, Lookup, NotFound, holders, place_of

BITS = 32
"""Of a key's place."""


class NoIndex(Refused, code="no-index"):
    """The index does not answer: nothing can be found."""


# -- the index ----------------------------------------------------------------------------------------------


class Index(Participant):
    """Knows who holds what, for as long as they say so."""

    forget_after: float = 3.0
    """Seconds after which a peer that has not been heard of is forgotten."""

    async def start(self) -> None:
        await super().start()
        self.holders: dict[int, dict[str, None]] = {}  # of each key, in the order of registration
        self.held: dict[str, tuple[int, ...]] = {}
        self.heard: dict[str, float] = {}
        self.every(self.forget_after / 3, self.expire)

    @rpc
    async def register(self, peer: str, places: tuple[int, ...]) -> None:
        """A peer holds these keys, and no others."""
        self.forget(peer)
        self.held[peer] = places
        self.heard[peer] = self.now
        for place in places:
            self.holders.setdefault(place, {})[peer] = None

    @rpc
    async def refresh(self, peer: str) -> bool:
        """A peer is still there.  False: it is not known (any more), and must register."""
        if peer in self.heard:
            self.heard[peer] = self.now
        return peer in self.heard

    @rpc
    async def unregister(self, peer: str) -> None:
        """A peer leaves."""
        self.forget(peer)

    @rpc
    async def query(self, place: int) -> tuple[str, ...]:
        """Who holds a key."""
        self.handled += 1
        return tuple(self.holders.get(place, ()))

    def forget(self, peer: str) -> None:
        """A peer holds nothing any more."""
        self.heard.pop(peer, None)
        for place in self.held.pop(peer, ()):
            del self.holders[place][peer]
            if not self.holders[place]:
                del self.holders[place]

    def expire(self) -> None:
        """Forget who has not been heard of."""
        for peer in [p for p, heard in self.heard.items() if heard < self.now - self.forget_after]:
            self.forget(peer)

    def place(self) -> int:
        raise NotAMember(f"{self.address} is the index, and no peer")

    def links(self) -> int:
        return len(self.heard)


# -- the peers ----------------------------------------------------------------------------------------------


class Found(Record, array_like=True):
    """Who holds a key, and what finding out took."""

    holder: str
    hops: int
    timeouts: int


class Peer(Participant):
    """Holds content, and looks for more."""

    index: Index
    refresh_every: float = 1.0
    """Seconds between two signs of life to the index."""

    async def start(self) -> None:
        await super().start()
        self.places: set[int] = set(self.disk.get("places", tuple[int, ...], ()))
        self.member = False
        self.spawn(self.enter())
        self.every(self.refresh_every, self.refresh, jitter=0.1)

    async def enter(self) -> None:
        """Tell the index what is here; it may not be up yet."""
        while not await self.register():
            await self.sleep(0.2)

    async def register(self) -> bool:
        """Whether the index knows now what is here."""
        try:
            await self.index.register(self.address, tuple(sorted(self.places)))
        except Failure:
            return False
        self.member = True
        return True

    async def refresh(self) -> None:
        """Give a sign of life."""
        if self.member and not await self.index.refresh(self.address):
            await self.register()

    @rpc
    async def hold(self, places: tuple[int, ...]) -> None:
        """Keep the content of these keys too."""
        self.places.update(places)
        self.disk.put("places", tuple(sorted(self.places)))
        await self.disk.sync()
        await self.register()

    @rpc(timeout=3.0)
    async def search(self, place: int) -> Found:
        """Find a peer that holds a key."""
        self.handled += 1
        if place >> BITS:
            raise BadArguments(f"the key {place} is not of {BITS} bits")
        if not self.member:
            raise NotAMember(self.address)
        try:
            named = list(await self.index.query(place))
        except Failure as failure:
            raise NoIndex(str(failure)) from failure
        self.random.shuffle(named)  # so that all copies are used
        for timeouts, peer in enumerate(named):
            try:
                if await self.at(peer, timeout=0.5).holds(place):
                    return Found(peer, 1, timeouts)
            except Failure:
                pass  # it has died, and the index does not know yet
        raise NotFound(f"{len(named)} peers were named, and none of them has it")

    @rpc
    async def holds(self, place: int) -> bool:
        """Whether the content of a key is here."""
        return self.member and place in self.places

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        self.member = False
        await self.index.unregister(self.address)

    def place(self) -> int:
        if not self.member:
            raise NotAMember(self.address)
        return identifier(self.address, BITS)

    def links(self) -> int:
        return 1


class IndexClient(OverlayClient):
    """Looks for keys through any peer; and gives peers content to hold."""

    final = (*OverlayClient.final, NoIndex)  # the others have no other index

    async def ask(self, peer: str, place: int) -> Holder:
        found = await self.at(peer, Peer).search(place)
        return Holder(found.holder, found.hops, found.timeouts)

    @rpc(timeout=120.0)
    async def publish(self, keys: tuple[str, ...]) -> None:
        shares: dict[str, list[int]] = {}
        for key in keys:
            place = place_of(key, self.bits)
            for peer in holders(place, self.addresses, self.copies):
                shares.setdefault(peer, []).append(place)
        for told in await settle(*(self.at(p, Peer).hold(tuple(s)) for p, s in shares.items())):
            if isinstance(told, Failure):
                raise told


# -- the architecture ---------------------------------------------------------------------------------------


class CentralIndex(Architecture):
    """Peers hold the content, and one server knows who holds what: found in one hop, or not at all."""

    family = "peer-to-peer"
    source = "Napster, 1999; Androutsellis-Theotokis and Spinellis, ACM Computing Surveys 36(4), 2004"
    jobs = (Lookup,)
    claims = ("lookups in one hop, however many peers there are",)
    metrics = TALLY

    nodes: int = parameter(16, "peers", least=1)
    copies: int = parameter(3, "peers that hold the content of a key", least=1)
    refresh: float = parameter(1.0, "time between two signs of life of a peer", least=0.01, unit="s")

    def build(self, system: System) -> None:
        index = Index(forget_after=3 * self.refresh)
        system.role("index", index)
        system.role("peer", Peer(index=index, refresh_every=self.refresh), count=self.nodes)
        system.clients(
            IndexClient(
                addresses=system.addresses("peer", self.nodes),
                servers=system.addresses(index),
                bits=BITS,
                rule="holders",
                copies=self.copies,
            )
        )

    async def ready(self, x: Any) -> None:
        await formed(x, self.is_known, period=self.refresh)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, self.nodes + 1), [await self.is_known(x)]

    async def is_known(self, x: Any) -> Verdict:
        """Whether the index knows all peers."""
        told = await settle(x.at("index-0", Index).standing())
        known = 0 if isinstance(told[0], Failure) else told[0].links
        return Verdict("the index knows every peer", known == self.nodes, f"{known} of {self.nodes}")
