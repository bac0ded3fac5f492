"""Flooding: ask all neighbours, who ask all theirs.

"The Gnutella Protocol Specification v0.4", Clip2, 2001: a *query* goes to all neighbours and, while its
*time to live* lasts, on to all of theirs.  A peer that has had it already drops it (a *duplicate*), and
nobody sends it back to where it came from.  Who has the key answers with a *hit*, which takes the query's way
back.

With an *expanding ring* (Lv, Cao, Cohen, Li, Shenker: "Search and replication in unstructured peer-to-peer
networks", ICS 2002, section 4.1) a search begins with a small time to live, and asks again with a larger one
while nothing comes back.

What is the problem with this?  A query goes on where others have found the key long since: nobody can call it
back.  On E links among N peers it costs 2E - N + 1 messages to ask everybody once, of which all but N - 1 are
duplicates; and with a time to live that is too small, what is there is not found.
"""

from __future__ import annotations

from collections.abc import Iterator

from polyarch.blocks.overlay import OverlayClient
from polyarch.blocks.unstructured import Unstructured, UnstructuredOverlay
from polyarch.core import Future, System, Timeout, oneway, parameter, rpc
from polyarch.jobs.lookup import Holder, NotFound


class Flooding(Unstructured):
    """One peer; how it keeps its neighbours is in ``blocks/unstructured.py``."""

    ttl: int = 7
    """How many links a query crosses at most."""
    ring: int = 0
    """The first ring's time to live, by which it grows; 0: there is one ring, as large as can be."""
    hop: float = 0.1
    """Seconds that a hop is expected to take at most."""

    async def start(self) -> None:
        # The searches that we wait for, besides what the neighbours' block keeps.
        self.waiting: dict[int, Future[Holder]] = {}
        await super().start()

    # -- searching ----------------------------------------------------------------------------------------

    @rpc(timeout=30.0)
    async def search(self, key: int, ttl: int | None = None) -> Holder:
        """Find a peer that has the key within ``ttl`` hops (unless given, as many as its own settings say);
        ``NotFound`` if no hit has come when all must have."""
        self.check_question(key)
        self.searches += 1
        if self.has(key):
            self.found += 1
            return Holder(self.address)
        for reach in self.rings() if ttl is None else (ttl,):
            try:
                holder = await self.flood(key, reach)
            except Timeout:
                continue
            self.found += 1
            return holder
        raise NotFound(f"no peer within {reach} hops of {self.address} has the key")

    def rings(self) -> Iterator[int]:
        """The times to live to be tried."""
        ttl = self.ring or self.ttl
        while ttl < self.ttl:
            yield ttl
            ttl += self.ring
        yield self.ttl

    async def flood(self, key: int, ttl: int) -> Holder:
        """The first hit; ``Timeout`` when a query and its hits must have come as far as they can."""
        search = self.new_search()
        found: Future[Holder] = self.future()
        self.waiting[search] = found
        for n in self.neighbours:
            self.at(n).query(search, key, self.address, ttl - 1, 1)
        try:
            return await found.within(2 * ttl * self.hop)
        finally:
            del self.waiting[search]

    # -- messages -----------------------------------------------------------------------------------------

    @oneway
    def query(self, search: int, key: int, sender: str, ttl: int, hops: int) -> None:
        """Does anybody have the key?  ``ttl``: how many more links the question may cross."""
        self.handled += 1
        if not self.first_time(search, sender):
            return
        if self.has(key):
            self.at(sender).hit(search, self.address, hops)
        if ttl > 0:
            at, me = self.at, self.address
            for n in self.neighbours:
                if n != sender:
                    at(n).query(search, key, me, ttl - 1, hops + 1)

    @oneway
    def hit(self, search: int, holder: str, hops: int) -> None:
        """Somebody has it: pass it on to where the query came from."""
        self.handled += 1
        found, sender = self.waiting.get(search), self.heard_from(search)
        if found is not None:
            found.set(Holder(holder, hops))
        elif sender:
            self.at(sender).hit(search, holder, hops)


class FloodingClient(OverlayClient):
    """Searches through any peer."""

    patience: float = 3.0

    async def ask(self, peer: str, place: int) -> Holder:
        return await self.at(peer, Flooding, timeout=self.patience).search(place)


class FloodingOverlay(UnstructuredOverlay):
    """Unstructured overlay: a search asks everybody within some hops, and finds what is there."""

    name = "flooding"
    source = "The Gnutella Protocol Specification v0.4, 2001; Lv et al., ICS 2002"

    ttl: int = parameter(7, "time to live: links that a query crosses at most", least=1, most=1000)
    ring: int = parameter(0, "expanding ring: its first time to live, and its growth; 0: none", least=0)
    hop: float = parameter(0.1, "longest time that a hop is expected to take", least=0.001, unit="s")

    def build(self, system: System) -> None:
        peer = Flooding(
            plan=self.plan(system),
            ttl=self.ttl,
            ring=self.ring,
            hop=self.hop,
            memory=2 * self.ttl * self.hop,
            **self.keeping(),
        )
        system.role("peer", peer, count=self.nodes)
        whole = sum(2 * ttl * self.hop for ttl in peer.rings())
        client = FloodingClient(
            addresses=system.addresses(peer), rule="holders", copies=self.copies, patience=whole + 1.0
        )
        system.clients(client)
