"""The peer of a distributed hash table (``blocks/dht.py``): it decides about keys, holds copies of others,
and sees to it that keys stay where they belong.

When peers come and go, another one becomes responsible.  Before it decides anything about a key it
*confirms* what it has: it asks the peers nearest to the key for their versions (one of them was responsible
before, unless all holders are gone), takes the newest, and gives it to the holders that lack it.  One that
still thinks itself responsible says so, and the newcomer waits.  Beside that each peer *mends*, from time to
time and when its neighbours have changed: it confirms what it decides about, hands over what others decide
about now, and forgets that of which it is no longer a holder.

**What an overlay fills in** (its peer is a ``StoringPeer``, which is a ``Participant``):

* ``responsible(place)``: whether this peer is, as far as it knows; False while it is no member;
* ``others(place, count)``: addresses of up to ``count`` other peers, best first: the first would be
  responsible if this one were not there.  (Asked only of a peer that is responsible.)
* ``holders(place)``: the ``replicas - 1`` others that hold copies, if they are not the first ``others``;
* ``find(place)``: the address of the responsible peer, by the overlay's lookup;
* ``missed(address, failure)``: a peer did not answer, in case the overlay wants to know;

and it awaits ``super().start()`` first in its ``start``, calls ``self.neighbours_changed()`` whenever the
first two may answer otherwise than before, and awaits ``self.hand_over()`` first in its ``leave``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from polyarch.blocks.once import growing
from polyarch.blocks.overlay import NotAMember, Participant
from polyarch.blocks.ring import identifier
from polyarch.core.errors import Failure, Refused, Timeout, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.records import Record
from polyarch.core.tasks import Future, settle
from polyarch.jobs.kv import Value

__all__ = ["Kept", "NotResponsible", "StoringPeer", "Version"]

T = TypeVar("T")

_PAGE = 500  # entries in a message
_ASKED = 3  # peers that are asked at least for what is newest
_TICKETS = 4096  # requests whose answers a peer remembers


class NotResponsible(Refused, code="not-responsible"):
    """Another peer decides about the key, or will as soon as it knows."""


class NotCopied(Timeout, code="not-copied"):
    """The responsible peer has the value, but some holder may not: it may be lost, or seen."""


class Version(Record, array_like=True, order=True):
    """Which of two values is newer.  (Two deciders at once: the name makes one the newer.)"""

    number: int
    writer: str


NOTHING = Version(0, "")


class Entry(Record, array_like=True):
    """A value of a key."""

    key: str
    value: Value
    version: Version


class Difference(Record, array_like=True):
    """What a peer holds, compared with what another one holds."""

    newer: tuple[Entry, ...] = ()
    older: tuple[str, ...] = ()
    """Keys that it holds in an older version, or not at all."""
    mine: tuple[str, ...] = ()
    """Keys about which it decides itself, as far as it knows."""


class Kept:
    """What a peer knows about one key."""

    __slots__ = ("busy", "confirmed", "entry", "place", "vouched")

    def __init__(self, key: str, place: int) -> None:
        self.place = place
        self.entry = Entry(key, None, NOTHING)
        self.confirmed: tuple[str, ...] | None = None
        """The peers with which it was confirmed that this is the newest; None: it was not."""
        self.vouched = 0.0
        """When who decides last said that we hold a copy."""
        self.busy: Future[None] | None = None
        """Held by who changes or confirms it."""

    def take(self, entry: Entry) -> None:
        """Take it if it is newer."""
        if entry.version > self.entry.version:
            self.entry, self.confirmed = entry, None


_NONE_KEPT: dict[str, Kept] = {}
_NO_TICKETS: dict[int, Future[Any]] = {}


class StoringPeer(Participant):
    """A peer that keeps values."""

    bits: int = 32
    replicas: int = 3
    """Peers that hold a key."""
    mend_every: float = 1.0
    """Seconds between two rounds of mending; 0: only when neighbours change."""
    patience: float = 2.0
    """Seconds for which a write is tried."""

    async def start(self) -> None:
        await super().start()
        # Empty dicts of their own for 100,000 peers that keep nothing would be 13 MB.
        self.kept: dict[str, Kept] = _NONE_KEPT
        self.leaving = False
        self.mending = self.mend_again = False
        self.tickets: dict[int, Future[Any]] = _NO_TICKETS

    # -- what the overlay fills in -----------------------------------------------------------------------

    def responsible(self, place: int) -> bool:
        """Whether this peer is responsible for a place, as far as it knows."""
        raise NotImplementedError

    def others(self, place: int, count: int) -> tuple[str, ...]:
        """Addresses of up to ``count`` others, the one first that would be responsible without this peer."""
        raise NotImplementedError

    def holders(self, place: int) -> tuple[str, ...]:
        """Addresses of those others that are to hold copies."""
        return self.others(place, self.replicas - 1)

    async def find(self, place: int) -> str:
        """The address of the responsible peer."""
        raise NotImplementedError

    async def missed(self, address: str, failure: Failure) -> None:
        """A peer did not answer."""

    # -- deciding -----------------------------------------------------------------------------------------

    @rpc(timeout=4.0)
    async def read(self, key: str) -> Value:
        """Ask the responsible peer for a value."""
        kept = self.kept.get(key)
        if kept is None or kept.busy is not None or not self.is_confirmed(kept):
            kept = await self.acquire(key)
            try:
                await self.make_sure(kept)
            finally:
                self.release(kept)
        return kept.entry.value

    @rpc(timeout=4.0)
    async def write(self, key: str, value: str | int, ticket: int) -> None:
        """Have the responsible peer set a value.  ``ticket``: a number that no other request has."""

        async def execute(kept: Kept) -> None:
            await self.change(kept, value)

        await self.once(key, ticket, execute)

    @rpc(timeout=4.0)
    async def swap(self, key: str, expected: Value, value: str | int, ticket: int) -> bool:
        """Have the responsible peer set a value if it is ``expected`` now."""

        async def execute(kept: Kept) -> bool:
            same = kept.entry.value == expected
            if same:
                await self.change(kept, value)
            return same

        return await self.once(key, ticket, execute)

    async def once(self, key: str, ticket: int, execute: Callable[[Kept], Awaitable[T]]) -> T:
        """Execute a request.  A network may deliver it twice: the second copy gets the same answer."""
        answer = self.tickets.get(ticket)
        if answer is None:
            if self.tickets is _NO_TICKETS:
                self.tickets = {}
            answer = self.tickets[ticket] = self.future()
            if len(self.tickets) > _TICKETS:
                del self.tickets[next(iter(self.tickets))]
            kept = await self.acquire(key)
            try:
                await self.make_sure(kept)
                answer.set(await execute(kept))
            except Failure as failure:
                if failure.definite:  # it was not executed, and may come again
                    self.tickets.pop(ticket, None)
                answer.fail(failure)
            finally:
                self.release(kept)
        result: T = await answer
        return result

    def decides(self, place: int) -> bool:
        return not self.leaving and self.responsible(place)

    def at_hand(self, key: str) -> Kept:
        kept = self.kept.get(key)
        if kept is None:
            if self.kept is _NONE_KEPT:
                self.kept = {}
                if self.mend_every:
                    self.every(self.mend_every, self.mend, True, jitter=0.1)
            kept = self.kept[key] = Kept(key, identifier(key, self.bits))
            kept.vouched = self.now
        return kept

    async def acquire(self, key: str) -> Kept:
        """Wait until nobody else changes or confirms what we know about a key."""
        while (kept := self.at_hand(key)).busy is not None:
            await kept.busy
        kept.busy = self.future()
        return kept

    def release(self, kept: Kept) -> None:
        """Let others change it; a key that nobody has written is not remembered."""
        if kept.entry.version == NOTHING and self.kept.get(kept.entry.key) is kept:
            del self.kept[kept.entry.key]
        busy, kept.busy = kept.busy, None
        if busy is not None:
            busy.set(None)

    def nearest(self, place: int) -> tuple[str, ...]:
        """Those who may have decided about a place before (the first may be newcomers too, so not only
        one), and the holders of copies."""
        asked = self.others(place, max(self.replicas, _ASKED))
        return tuple(dict.fromkeys((*asked, *self.holders(place))))

    def is_confirmed(self, kept: Kept) -> bool:
        return self.decides(kept.place) and kept.confirmed == self.nearest(kept.place)

    async def make_sure(self, kept: Kept) -> None:
        """That we decide about the key, and have what was decided about it before."""
        if not self.is_confirmed(kept):
            await self.catch_up([kept])
            if not self.is_confirmed(kept):
                raise NotResponsible(f"{self.address} does not decide about {kept.entry.key}, or not yet")

    async def catch_up(self, some: list[Kept]) -> None:
        """Learn from the peers nearest to these keys what is newest, and let the holders have it.  The
        caller has acquired the keys."""
        nearest = {kept: self.nearest(kept.place) for kept in some if self.decides(kept.place)}
        asked: dict[str, list[Kept]] = {}
        for kept, peers in nearest.items():
            for peer in peers:
                asked.setdefault(peer, []).append(kept)
        known = {kept: kept.entry.version for kept in nearest}
        told = await settle(
            *(
                self.at(peer, StoringPeer).compare({kept.entry.key: known[kept] for kept in group})
                for peer, group in asked.items()
            )
        )
        doubtful: dict[Kept, None] = {}
        for (peer, group), difference in zip(asked.items(), told):
            if isinstance(difference, Difference):
                for entry in difference.newer:
                    self.at_hand(entry.key).take(entry)
                doubtful |= dict.fromkeys(map(self.at_hand, difference.mine))
            elif not await self.gone(peer, difference):
                doubtful |= dict.fromkeys(group)  # it may know better
        for (peer, group), difference in zip(asked.items(), told):
            if isinstance(difference, Difference):
                older = set(difference.older)
                held = [kept for kept in group if peer in self.holders(kept.place)]
                lacking = [k for k in held if k.entry.key in older or k.entry.version > known[k]]
                if await self.give(peer, [kept.entry for kept in lacking]) is False:
                    doubtful |= dict.fromkeys(lacking)
        for kept, peers in nearest.items():
            if kept not in doubtful:
                kept.confirmed = peers

    async def gone(self, peer: str, failure: Failure) -> bool:
        """A peer did not answer: whether it is not there any more, rather than silent."""
        await self.missed(peer, failure)
        return isinstance(failure, (Unreachable, NotAMember))

    async def give(self, peer: str, entries: list[Entry]) -> bool | None:
        """Copy entries to a holder.  True: it has them; None: it is gone; False: it may know better."""
        for at in range(0, len(entries), _PAGE):
            try:
                await self.at(peer, StoringPeer).keep(tuple(entries[at : at + _PAGE]))
            except Failure as failure:
                return None if await self.gone(peer, failure) else False
        return True

    async def change(self, kept: Kept, value: str | int) -> None:
        """Set a value, here and at the holders."""
        entry = Entry(kept.entry.key, value, Version(kept.entry.version.number + 1, self.address))
        kept.entry = entry
        give_up = self.now + self.patience
        for pause in growing():
            holders = self.holders(kept.place)
            given = await settle(*(self.give(holder, [entry]) for holder in holders))
            if not self.decides(kept.place):
                break
            if False not in given:
                return
            if self.now > give_up:
                break
            await self.sleep(pause)
        kept.confirmed = None
        raise NotCopied(f"{entry.key} at {self.address}")

    # -- holding copies -----------------------------------------------------------------------------------

    @rpc
    async def keep(self, entries: tuple[Entry, ...]) -> None:
        """Hold these copies.  Refused by who decides about any of them itself."""
        self.place()  # not of who is no member
        if self.leaving:
            raise NotAMember(f"{self.address} is leaving")
        for entry in entries:
            if self.decides(identifier(entry.key, self.bits)):
                raise NotResponsible(f"{self.address} decides about {entry.key} itself")
        for entry in entries:
            kept = self.at_hand(entry.key)
            kept.take(entry)
            kept.vouched = self.now

    @rpc
    async def compare(self, versions: dict[str, Version]) -> Difference:
        """What this peer has of these keys, asked by who decides about them; when no write of its own to
        any of them is on the way any more."""
        self.place()
        newer: list[Entry] = []
        older: list[str] = []
        mine: list[str] = []
        for key, version in versions.items():
            kept = self.kept.get(key)
            if self.decides(kept.place if kept else identifier(key, self.bits)):
                mine.append(key)
                continue
            while kept is not None and kept.busy is not None:
                await kept.busy
            held = kept.entry if kept else None
            if kept is not None:
                kept.vouched = self.now
            if held is not None and held.version > version:
                newer.append(held)
            elif version.number and (held is None or held.version < version):
                older.append(key)
        return Difference(tuple(newer), tuple(older), tuple(mine))

    @rpc
    async def adopt(self, entries: tuple[Entry, ...]) -> tuple[str, ...]:
        """Take over what this peer decides about: those keys."""
        taken = []
        for entry in entries:
            if self.decides(identifier(entry.key, self.bits)):
                self.at_hand(entry.key).take(entry)
                taken.append(entry.key)
        if taken:
            self.neighbours_changed()
        return tuple(taken)

    @rpc
    async def holdings(self) -> dict[str, Version]:
        """What this peer holds."""
        return {key: kept.entry.version for key, kept in self.kept.items() if kept.entry.version.number}

    # -- when peers come and go ---------------------------------------------------------------------------

    def neighbours_changed(self) -> None:
        """Others may be responsible, or holders: mend soon."""
        if self.mending:
            self.mend_again = True
        elif self.kept:
            self.after(0.01, self.mend, False)

    async def mend(self, whole: bool) -> None:
        """Bring in order where keys are.  ``whole``: see too whether all copies are still there."""
        if self.mending:
            return
        self.mending = True
        try:
            await self.mend_own(whole)
            await self.mend_foreign()
        finally:
            self.mending = False
        if self.mend_again:
            self.mend_again = False
            self.neighbours_changed()

    async def mend_own(self, whole: bool) -> None:
        """Confirm what we decide about, where the nearest peers are others now."""
        mine = [kept for kept in self.kept.values() if self.decides(kept.place)]
        changed = [kept for kept in mine if not self.is_confirmed(kept)]
        if whole:
            await self.refresh([kept for kept in mine if kept.confirmed is not None])
        for at in range(0, len(changed), _PAGE):
            page = [await self.acquire(kept.entry.key) for kept in changed[at : at + _PAGE]]
            try:
                await self.catch_up(page)
            finally:
                for kept in page:
                    self.release(kept)

    async def refresh(self, some: list[Kept]) -> None:
        """A holder that was away for a moment has lost its copies: give them again."""
        copies: dict[str, list[Entry]] = {}
        for kept in some:
            for holder in self.holders(kept.place):
                copies.setdefault(holder, []).append(kept.entry)
        for holder, entries in copies.items():
            for at in range(0, len(entries), _PAGE):
                page = {entry.key: entry for entry in entries[at : at + _PAGE]}
                versions = {key: entry.version for key, entry in page.items()}
                try:
                    difference = await self.at(holder, StoringPeer).compare(versions)
                except Failure as failure:
                    await self.missed(holder, failure)
                    break
                await self.give(holder, [page[key] for key in difference.older])

    async def mend_foreign(self) -> None:
        """Hand over what we decided about, and what nobody says any more that we are to hold."""
        old = self.now - 3 * (self.mend_every or 1.0)
        foreign = [k for k in self.kept.values() if k.busy is None and not self.decides(k.place)]
        stray = [kept for kept in foreign if kept.confirmed is not None or kept.vouched < old]
        while stray:
            page = stray[:_PAGE]
            try:
                heir = await self.find(page[0].place)
                adopted = await self.at(heir, StoringPeer).adopt(tuple(kept.entry for kept in page))
            except Failure:
                return  # next time
            taken = set(adopted)
            for kept in page:
                if kept.entry.key in taken:
                    if kept.vouched < old and kept.confirmed is None and kept.busy is None:
                        self.kept.pop(kept.entry.key, None)
                    kept.confirmed = None
                    kept.vouched = max(kept.vouched, self.now - self.mend_every)
            # Whose heir says no has another one by now, or will have: next time.
            stray = [kept for kept in stray[1:] if kept.entry.key not in taken]

    async def hand_over(self) -> None:
        """Before we leave: who will decide, and the new holder, get what we decided about."""
        await self.mend_foreign()
        # Confirmed here: we decide about it, or did, and nobody has taken it over yet.
        mine = [k for k in self.kept.values() if k.confirmed is not None or self.decides(k.place)]
        self.leaving = True
        for kept in mine:
            if kept.busy is not None:
                await kept.busy
        heirs: dict[str, list[Kept]] = {}
        for kept in mine:
            if kept.entry.version == NOTHING:
                continue  # it was only asked for
            for peer in self.nearest(kept.place):  # several: the first may be leaving too
                heirs.setdefault(peer, []).append(kept)
        await settle(*(self.give(peer, [kept.entry for kept in some]) for peer, some in heirs.items()))
        self.kept = {}
