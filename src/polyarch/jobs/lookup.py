"""Find out who holds a key."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from polyarch.blocks.popularity import Popularity
from polyarch.blocks.ring import identifier
from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = ["Census", "Directory", "Holder", "Lookup", "Member"]


class Holder(Record):
    """The answer to a lookup, and what finding it took."""

    address: str
    hops: int = 0
    """Nodes that passed the question on."""
    timeouts: int = 0
    """Nodes on the way that were asked and turned out to be dead."""


class Member(Record, array_like=True):
    """One participant, as it says itself."""

    id: int
    address: str
    life: int
    """A number that is another one after each restart: the same life twice means never away between."""


class Census(Record):
    """Who takes part, and by what rule keys belong to members."""

    bits: int
    """Identifiers are of so many bits; a text key's is ``identifier(key, bits)``."""
    members: tuple[Member, ...]
    rule: Literal["successor"] = "successor"
    """``successor``: a key belongs to the first member clockwise from it."""


class Directory(Node):
    """The port: ask who holds a key."""

    timeout = 10.0

    @rpc
    async def lookup(self, key: int | str) -> Holder:
        """The member that is responsible for the key: a text is hashed, an integer is an identifier."""
        raise NotImplementedError

    @rpc(timeout=120.0)
    async def census(self) -> Census:
        """All members there are now (asked before and after the load, not part of it)."""
        raise NotImplementedError


class Lookup(Job):
    """Find out which participant is responsible for a key.

    What is checked.  There are two censuses, before the load and after it.  An answer is *wrong* if some
    member that is in both with the same life (so it was there during the whole operation) is nearer to
    the key than the member answered.  Without joins, crashes and leaves that is exact: every answer is the
    one responsible member.  With them, an answer passes if it was responsible at some time for all that
    the stable members show; an answer that neither census knows is counted as *unverifiable*, not as right.
    """

    port = Directory
    keys: int = parameter(10_000, "different keys that are asked for", least=1)
    skew: float = parameter(0.0, "Zipf exponent of their popularity; 0: uniform", least=0, most=4)

    before: Census | None = None

    async def prepare(self, client: Any) -> None:
        self.before = await client.census()

    def visits(self, random: Random) -> Iterator[Visit]:
        popularity = Popularity(self.keys, self.skew)
        while True:
            yield (Operation("lookup", (f"key-{popularity.draw(random)}",)),)

    async def audit(self, client: Any) -> Census:
        census: Census = await client.census()
        return census

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        after = audit if isinstance(audit, Census) else msgspec.convert(audit, Census)
        before = self.before or after
        stayed = Responsible(before.bits, sorted(set(before.members) & set(after.members), key=_id))
        ids = {m.address: m.id for m in (*before.members, *after.members)}
        answered = right = unverifiable = 0
        wrong = ""
        for done in history:
            if done.name != "lookup" or done.outcome != "ok":
                continue
            answered += 1
            holder = done.value if isinstance(done.value, Holder) else msgspec.convert(done.value, Holder)
            if holder.address not in ids:
                unverifiable += 1
                continue
            nearer = stayed.nearer(done.arguments[0], ids[holder.address])
            right += nearer is None
            if nearer and not wrong:
                question = f"lookup({done.arguments[0]!r}) at {done.start:.3f} s"
                wrong = f"; {question} gave {holder.address}, not {nearer}"
        asked = sum(done.name == "lookup" for done in history)
        share = f"{answered / asked:.2%} of {asked} lookups answered" if asked else "no lookups"
        kinds = {"right": right, "wrong": answered - right - unverifiable, "unverifiable": unverifiable}
        detail = f"{share}; " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        return [Verdict("answers name the responsible member", not wrong, detail + wrong)]


class Responsible:
    """Who is responsible for a key among these members, by the successor rule."""

    def __init__(self, bits: int, members: Sequence[Member]) -> None:
        self.bits = bits
        self.members = sorted(members, key=_id)
        self._ids = [m.id for m in self.members]

    def of(self, key: int | str) -> Member:
        """The responsible member."""
        place = key if isinstance(key, int) else identifier(key, self.bits)
        return self.members[bisect_left(self._ids, place) % len(self.members)]

    def nearer(self, key: int | str, id: int) -> str | None:
        """The address of the member that is nearer to the key than ``id``, if there is one."""
        if not self.members:
            return None
        place = key if isinstance(key, int) else identifier(key, self.bits)
        best, ring = self.of(place), 1 << self.bits
        return best.address if (best.id - place) % ring < (id - place) % ring else None


def _id(member: Member) -> int:
    return member.id
