"""Find out who holds a key."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from polyarch.blocks.popularity import Popularity
from polyarch.blocks.ring import identifier
from polyarch.core.errors import Refused
from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = [
    "Census", "Directory", "Holder", "Lookup", "Member", "NotFound", "Responsible", "Rule", "holders"
]  # fmt: skip

Rule = Literal["successor", "closest", "xor", "holders"]
"""By what keys belong to members.  By a key's place among the members' identifiers:

``successor``: to the first member clockwise from it, its own place included (Chord);
``closest``: to the member whose identifier is numerically closest on the ring; of two that are as close to
the one with the lower identifier (Pastry);
``xor``: to the member whose identifier has the least exclusive or with it (Kademlia).

``holders``: where content was placed, whoever its neighbours are: at some of the members that there were in
the beginning (``holders`` below says which).
"""


class NotFound(Refused, code="nobody-found"):
    """The search has ended, and nobody was found who holds the key."""


class Holder(Record):
    """The answer to a lookup, and what finding it took."""

    address: str
    hops: int = 0
    """Steps from the node that was asked first, as the overlay's paper counts them: to the holder where it is
    asked itself (Pastry, a table of all, an index, flooding, walks), or to the node that knows it as its
    neighbour (the predecessor in Chord and on a ring; a contact's contact in Kademlia)."""
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
    rule: Rule = "successor"
    placed: tuple[str, ...] = ()
    """By the rule ``holders``: the addresses among which content was placed in the beginning."""
    copies: int = 1
    """By the rule ``holders``: how many of them hold each key."""


def holders(place: int, placed: Sequence[str], copies: int) -> list[str]:
    """Who holds a key by the rule ``holders``: a pure function of its place and of who was there in the
    beginning.  ``copies`` different addresses, or all if there are fewer."""
    return [placed[i] for i in _chosen(place, len(placed), copies)]


@functools.lru_cache(maxsize=1 << 16)  # a flooded question is answered by thousands
def _chosen(place: int, among: int, copies: int) -> tuple[int, ...]:
    chosen: dict[int, None] = {}
    draw = 0
    while len(chosen) < min(copies, among):
        chosen[identifier(f"{place}/{draw}", 64) % among] = None
        draw += 1
    return tuple(chosen)


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

    @rpc(timeout=120.0)
    async def publish(self, keys: tuple[str, ...]) -> None:
        """Place content: each key at its ``holders``, by that rule.  Nothing to do where peers know by
        themselves what they hold."""


class Lookup(Job):
    """Find out which participant is responsible for a key.

    What is checked.  There are two censuses, before the load and after it.  An answer is *wrong* if some
    member that is in both with the same life (so it was there during the whole operation) is nearer to
    the key than the member answered.  Without joins, crashes and leaves that is exact: every answer is the
    one responsible member.  With them, an answer passes if it was responsible at some time for all that
    the stable members show; an answer that neither census knows is counted as *unverifiable*, not as right.
    Where content lies where it was placed (rule ``holders``) an answer is wrong if the member answered is
    not one of the key's holders.  That nobody was found (``nobody-found``) is a failure of the lookup.
    """

    port = Directory
    keys: int = parameter(10_000, "different keys that are asked for", least=1)
    skew: float = parameter(0.0, "Zipf exponent of their popularity; 0: uniform", least=0, most=4)

    saturates = False  # asked as fast as it answers, it would be these lookups that the figures are of
    measures = (
        Measure("success", "{} of the lookups found somebody", "%", "high", factor=100.0),
        Measure("hops", "over {} hops", better="low"),
        Measure("timeouts", "{} dead peers met on the way", better="low"),
        Measure("links", "each node knows {} others", better="low"),
        Measure("upkeep", "sends {} messages/s when nobody asks", "messages/s", "low"),
        Measure("imbalance", "the busiest handles {} times the mean", better="low"),
        Measure("neighbours", "{} of neighbouring keys are on the same node", "%", factor=100.0),
    )

    before: Census | None = None

    async def prepare(self, client: Any) -> None:
        self.before = census = await client.census()
        if census.rule == "holders":
            for at in range(0, self.keys, 1000):
                await client.publish(tuple(f"key-{i}" for i in range(at, min(at + 1000, self.keys))))

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
        stayed = sorted(set(before.members) & set(after.members), key=_id)
        truth = Responsible(before.bits, stayed, before.rule)
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
            key = done.arguments[0]
            if before.rule == "holders":
                held = holders(place_of(key, before.bits), before.placed, before.copies)
                better = None if holder.address in held else " or ".join(held)
            else:
                better = truth.nearer(key, ids[holder.address])
            right += better is None
            if better and not wrong:
                wrong = f"; lookup({key!r}) at {done.start:.3f} s gave {holder.address}, not {better}"
        asked = sum(done.name == "lookup" for done in history)
        share = f"{answered / asked:.2%} of {asked} lookups answered" if asked else "no lookups"
        kinds = {"right": right, "wrong": answered - right - unverifiable, "unverifiable": unverifiable}
        detail = f"{share}; " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        return [Verdict("answers name the responsible member", not wrong, detail + wrong)]

    def figures(self, history: Sequence[Done], audit: Any) -> dict[str, Any]:
        """Which share of the keys has its next one (``key-7``, ``key-8``) on the same member: whether a range
        of keys can be had from few.  Where content was placed anywhere, that says nothing."""
        census = audit if isinstance(audit, Census) else msgspec.convert(audit, Census)
        few = min(self.keys, _NEIGHBOURS)
        if census.rule == "holders" or few < 2 or len(census.members) < 2:
            return {}
        truth = Responsible(census.bits, census.members, census.rule)
        at = [truth.of(f"key-{i}").id for i in range(few)]
        return {"neighbours": sum(one == other for one, other in itertools.pairwise(at)) / (few - 1)}


_NEIGHBOURS = 1000  # keys that are looked at


class Responsible:
    """Who is responsible for a key among these members, by a rule about identifiers."""

    def __init__(self, bits: int, members: Sequence[Member], rule: Rule = "successor") -> None:
        self.bits = bits
        self.rule = rule
        self.members = sorted(members, key=_id)
        self._ids = [m.id for m in self.members]

    def of(self, key: int | str) -> Member:
        """The responsible member."""
        place = place_of(key, self.bits)
        if self.rule == "xor":
            return self._closest_by_xor(place)
        at = bisect_left(self._ids, place)
        beside = (self.members[at % len(self.members)], self.members[at - 1])
        return min(beside, key=lambda m: self.distance(place, m.id))

    def distance(self, place: int, id: int) -> tuple[int, int]:
        """How far a key at ``place`` is from a member; the least is responsible."""
        ring = 1 << self.bits
        clockwise = (id - place) % ring
        if self.rule == "xor":
            return id ^ place, 0
        if self.rule == "closest":
            return min(clockwise, ring - clockwise), id
        return clockwise, 0

    def nearer(self, key: int | str, id: int) -> str | None:
        """The address of the member that is nearer to the key than ``id``, if there is one."""
        if not self.members:
            return None
        place = place_of(key, self.bits)
        best = self.of(place)
        return best.address if self.distance(place, best.id) < self.distance(place, id) else None

    def _closest_by_xor(self, place: int) -> Member:
        """Down the tree of identifiers, bit by bit, to the side of ``place`` where somebody is there."""
        low, high, prefix = 0, len(self._ids), 0
        for bit in range(self.bits - 1, -1, -1):
            if high - low == 1:
                break
            middle = bisect_left(self._ids, prefix | 1 << bit, low, high)
            wanted = place >> bit & 1
            if middle == low or (wanted and middle < high):
                low, prefix = middle, prefix | 1 << bit
            else:
                high = middle
        return self.members[low]


def place_of(key: int | str, bits: int) -> int:
    """The place of a key: a text is hashed, an integer is one already."""
    return key if isinstance(key, int) else identifier(key, bits)


def _id(member: Member) -> int:
    return member.id
