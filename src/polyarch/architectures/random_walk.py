"""Random walks: a few walkers go from peer to peer, and ask each one.

Lv, Cao, Cohen, Li, Shenker: "Search and replication in unstructured peer-to-peer networks", ICS 2002.  A
search sends out k *walkers*.  Each goes on to a random neighbour (not back to where it came from), until it
finds somebody who has the key, or its time to live ends; and every few steps it *checks* with the peer that
began whether another one has found it (section 4.2).  So a search asks about as many peers as are needed:
with r copies among N peers about N / r of them, however many walkers there are; more of them are quicker.

*Replication* makes that fewer (section 5; Cohen and Shenker: "Replication strategies in unstructured peer-to-
peer networks", SIGCOMM 2002).  Here peers keep notes of who has a key: ``owner``: who searched keeps one, as
Gnutella's users do with files; ``path``: all on the walker's way back keep one, as in Freenet.  The number of
notes grows in proportion to how often a key is asked for in the first case, and as the square root of that in
the second, which is the best that there is for the searches that succeed.  A note is confirmed by the holder
before it is believed.

What is the problem with this?  A rare key takes N steps, one after another, or is not found: and nobody can
tell that from a key that is not there.
"""

from __future__ import annotations

from typing import Literal

from polyarch.blocks.overlay import OverlayClient
from polyarch.blocks.unstructured import Unstructured, UnstructuredOverlay
from polyarch.core import Failure, Future, Record, System, Timeout, oneway, parameter, rpc
from polyarch.jobs.lookup import Holder, NotFound

Replication = Literal["none", "owner", "path"]


class Walker(Record, array_like=True):
    """A walker, as it goes from peer to peer."""

    search: int
    key: int
    origin: str
    """The peer that began the search."""
    step: int = 0
    """How many steps it has taken."""


class RandomWalk(Unstructured):
    """One peer; how it keeps its neighbours is in ``blocks/unstructured.py``."""

    walkers: int = 16
    """k: how many walkers a search sends out."""
    ttl: int = 1024
    """How many steps each takes at most."""
    check: int = 4
    """A walker asks after so many steps whether it is still needed; 0: never."""
    wait: float = 5.0
    """Seconds after which a search gives up; walkers may be lost."""
    replication: Replication = "none"
    room: int = 20
    """How many notes a peer keeps."""

    async def start(self) -> None:
        # The searches that we wait for, and how many walkers each one has on the way.
        self.waiting: dict[int, Future[Holder]] = {}
        self.walking: dict[int, int] = {}
        self.notes: dict[int, str] = {}
        """Who has a key, as far as this peer was told."""
        await super().start()

    # -- searching ----------------------------------------------------------------------------------------

    @rpc(timeout=30.0)
    async def search(self, key: int) -> Holder:
        """Find a peer that has the key; ``NotFound`` when all walkers have come to their end without, or are
        lost."""
        self.check_question(key)
        self.searches += 1
        here = await self.holder(key)
        if here:
            self.found += 1
            return Holder(here)
        search = self.new_search()
        self.walking[search] = self.walkers
        found: Future[Holder] = self.future()
        self.waiting[search] = found
        for _ in range(self.walkers):
            self.spawn(self.send_on(Walker(search, key, self.address), ""))
        try:
            holder = await found.within(self.wait)
        except Timeout:
            raise NotFound(f"the walkers of {self.address} did not find the key") from None
        finally:
            del self.waiting[search], self.walking[search]
        self.found += 1
        if self.replication != "none":
            self.note(key, holder.address)
        return holder

    async def holder(self, key: int) -> str | None:
        """Who has the key, if this peer can tell: itself, or another one that confirms it."""
        if self.has(key):
            return self.address
        noted = self.notes.get(key)
        if noted:
            try:
                await self.at(noted).confirm(key)
            except Failure:
                self.notes.pop(key, None)
            else:
                return noted
        return None

    # -- walking ------------------------------------------------------------------------------------------

    @rpc
    async def walk(self, walker: Walker, sender: str) -> None:
        """A walker comes.  The answer says only that it has arrived: a walker that goes to a dead peer would
        be lost without."""
        self.handled += 1
        self.first_time(walker.search, sender)
        self.spawn(self.host(walker, sender))

    async def host(self, walker: Walker, sender: str) -> None:
        """What a walker does at a peer."""
        holder = await self.holder(walker.key)
        if holder:
            self.at(walker.origin).hit(walker.search, holder, walker.step)
            if self.replication == "path":
                self.at(sender).way_back(walker.search, walker.key, holder)
        elif await self.is_needed(walker):
            await self.send_on(walker, sender)

    async def is_needed(self, walker: Walker) -> bool:
        """Check with the origin, if it is time to."""
        if not self.check or walker.step % self.check:
            return True
        try:
            return await self.at(walker.origin).is_searching(walker.search)
        except Failure:
            return False

    async def send_on(self, walker: Walker, sender: str) -> None:
        """On to a random neighbour; to another one if that is dead; back only if there is no other."""
        if walker.step < self.ttl:
            further = Walker(walker.search, walker.key, walker.origin, walker.step + 1)
            while self.neighbours:
                n = self.random.choice(self.neighbours)
                while n == sender and len(self.neighbours) > 1:
                    n = self.random.choice(self.neighbours)
                try:
                    return await self.at(n).walk(further, self.address)
                except Failure:
                    self.lose(n)
        self.at(walker.origin).ended(walker.search)

    # -- what walkers tell and ask ------------------------------------------------------------------------

    @oneway
    def hit(self, search: int, holder: str, hops: int) -> None:
        """A walker has found somebody who has the key."""
        self.handled += 1
        if search in self.waiting:
            self.waiting[search].set(Holder(holder, hops))

    @oneway
    def ended(self, search: int) -> None:
        """A walker has come to its end, and has not found anybody."""
        self.handled += 1
        if search in self.walking:
            self.walking[search] -= 1
            if not self.walking[search]:
                self.waiting[search].fail(Timeout("all walkers have ended"))

    @rpc
    async def is_searching(self, search: int) -> bool:
        """Whether a search still goes on."""
        self.handled += 1
        return search in self.waiting and not self.waiting[search].done

    # -- replication --------------------------------------------------------------------------------------

    @rpc
    async def confirm(self, key: int) -> None:
        """Do you have the key?"""
        self.handled += 1
        if not self.has(key):
            raise NotFound(f"{self.address} does not have the key")

    @oneway
    def way_back(self, search: int, key: int, holder: str) -> None:
        """All peers on the walker's way keep a note of who has the key."""
        self.handled += 1
        sender = self.heard_from(search)
        if sender:
            self.note(key, holder)
            self.at(sender).way_back(search, key, holder)

    def note(self, key: int, holder: str) -> None:
        """Keep a note; when there is no room, a random one goes: which one must not depend on how often
        keys are asked for (section 5.2)."""
        if holder != self.address and self.room:
            if len(self.notes) >= self.room and key not in self.notes:
                del self.notes[self.random.choice([*self.notes])]
            self.notes[key] = holder


class WalkingClient(OverlayClient):
    """Searches through any peer."""

    patience: float = 6.0

    async def ask(self, peer: str, place: int) -> Holder:
        return await self.at(peer, RandomWalk, timeout=self.patience).search(place)


class RandomWalks(UnstructuredOverlay):
    """Unstructured overlay: a search sends walkers from peer to peer, and asks as many as it takes."""

    name = "random_walk"
    source = "Lv, Cao, Cohen, Li, Shenker, Search and replication in unstructured networks, ICS 2002"

    walkers: int = parameter(16, "walkers of a search", least=1, most=1000)
    ttl: int = parameter(1024, "steps that a walker takes at most", least=1)
    check: int = parameter(4, "steps after which a walker asks if it is still needed; 0: never", least=0)
    wait: float = parameter(5.0, "time after which a search gives up", least=0.01, unit="s")
    replication: Replication = parameter("none", "who keeps a note of a key that was found")
    room: int = parameter(20, "notes that a peer keeps", least=0)

    def build(self, system: System) -> None:
        peer = RandomWalk(
            plan=self.plan(system),
            walkers=self.walkers,
            ttl=self.ttl,
            check=self.check,
            wait=self.wait,
            replication=self.replication,
            room=self.room,
            memory=self.wait,
            **self.keeping(),
        )
        system.role("peer", peer, count=self.nodes)
        client = WalkingClient(
            addresses=system.addresses(peer),
            rule="holders",
            copies=self.copies,
            patience=self.wait + 1.0,
        )
        system.clients(client)
