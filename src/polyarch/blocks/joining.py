"""How peers come into an overlay: the first creates it, the others join one after another, and who has been
away joins through anybody."""

from __future__ import annotations

from polyarch.blocks.overlay import NotAMember, Participant, place_in
from polyarch.core.errors import Failure
from polyarch.core.tasks import settle
from polyarch.jobs.lookup import Member

__all__ = ["Joining"]


class Joining(Participant):
    """A peer that knows how to be in the overlay; the protocol says how one joins."""

    addresses: tuple[str, ...] = ()
    """Where other peers may be found, and who creates the overlay: the first of them."""
    arrival: float = 0.0
    """Seconds between the first joins of two peers that are neighbours in ``addresses``."""

    def create(self) -> None:
        """Create a new overlay, with this peer alone in it."""
        raise NotImplementedError

    async def join(self, n: str) -> None:
        """Join the overlay that the peer at ``n`` is in; a ``Failure`` if that does not work."""
        raise NotImplementedError

    def is_member(self) -> bool:
        try:
            self.place()
        except NotAMember:
            return False
        return True

    async def enter(self) -> None:
        """Be in the overlay: spawned when the peer starts."""
        if self.restarted:
            return await self.recover()
        before = place_in(self.addresses, self.address)
        if before:
            await self.sleep(self.arrival * before)
            await self.join_through(before)
        else:
            self.create()

    async def recover(self) -> None:
        """Come back: after a restart, or when all that this peer knew have died at once."""
        tries = min(8, len(self.addresses) - 1)
        while not self.is_member():
            if not await self.join_through(len(self.addresses), tries) and await self.is_first():
                self.create()

    async def join_through(self, first: int, tries: int | None = None) -> bool:
        """Join through any other one of the ``first`` so many of ``addresses``, as soon as one answers; False
        after so many that did not."""
        me = place_in(self.addresses, self.address)
        others = first - (me < first)
        while others and not self.is_member() and tries != 0:
            i = self.random.below(others)
            try:
                await self.join(self.addresses[i + (i >= me)])
            except Failure:
                await self.sleep(self.random.between(0.1, 0.5))
                tries = None if tries is None else tries - 1
        return self.is_member()

    async def is_first(self) -> bool:
        """Whether there is no overlay any more, and nobody before us who would create one."""
        me = place_in(self.addresses, self.address)
        others = [a for a in self.addresses if a != self.address]
        for at in range(0, len(others), 256):
            asked = (self.at(a, Participant).whoami() for a in others[at : at + 256])
            for i, answer in enumerate(await settle(*asked), at):
                if isinstance(answer, Member) or (i < me and isinstance(answer, NotAMember)):
                    return False
        return not self.is_member()
