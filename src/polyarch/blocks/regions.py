"""Places on a line, cut into regions, and a map that says who has which.

Places are texts, in their order.  By range a key's place is the key itself; by hash it is its hash, a number
of fixed length: hash partitioning is range partitioning of the hashes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from polyarch.blocks.ring import identifier
from polyarch.core.records import Record

__all__ = ["By", "Map", "Region", "Span", "evenly", "heavy", "place"]

By = Literal["hash", "range"]

_DIGITS = 8


def place(by: By, key: str) -> str:
    """Where a key is among all keys."""
    return key if by == "range" else f"{identifier(key, 4 * _DIGITS):0{_DIGITS}x}"


class Span(Record, array_like=True):
    """The places from ``low`` on and before ``high`` (None: all that follow)."""

    low: str
    high: str | None = None

    def has(self, where: str) -> bool:
        """Whether a place is in it."""
        return self.low <= where and (self.high is None or where < self.high)

    def without(self, other: Span) -> list[Span]:
        """What is left of it when the places of another are taken away."""
        parts = [Span(self.low, _least(self.high, other.low))]
        if other.high is not None:
            parts.append(Span(max(self.low, other.high), self.high))
        return [part for part in parts if part.high is None or part.low < part.high]

    def meets(self, other: Span) -> bool:
        """Whether they have a place in common."""
        return self.without(other) != [self]

    def without_all(self, others: Iterable[Span]) -> list[Span]:
        """What is left of it when the places of all others are taken away."""
        left = [self]
        for other in others:
            left = [part for span in left for part in span.without(other)]
        return left


def _least(a: str | None, b: str) -> str:
    return b if a is None else min(a, b)


class Region(Record, array_like=True):
    """Where a region begins, and who has it; it ends where the next one begins."""

    low: str
    owner: str


class Map(Record, array_like=True):
    """Who has what."""

    version: int
    regions: tuple[Region, ...]
    """In the order of their places; the first begins with the empty text."""

    def owner(self, where: str) -> str:
        """Who has a place."""
        return self.regions[self._at(where)].owner

    def span(self, where: str) -> Span:
        """The region that a place is in."""
        return self.spans()[self._at(where)][0]

    def _at(self, where: str) -> int:
        return bisect_right(self.regions, where, key=lambda region: region.low) - 1

    def spans(self) -> list[tuple[Span, str]]:
        """All regions, and who has them."""
        ends = [*(region.low for region in self.regions[1:]), None]
        return [(Span(region.low, end), region.owner) for region, end in zip(self.regions, ends)]

    def cut(self, where: str) -> Map:
        """A new map, in which a region begins at this place."""
        at = self._at(where)
        new = Region(where, self.regions[at].owner)
        return Map(self.version + 1, (*self.regions[: at + 1], new, *self.regions[at + 1 :]))

    def moved(self, span: Span, owner: str) -> Map:
        """A new map, in which another one has this region."""
        regions = (Region(r.low, owner) if r.low == span.low else r for r in self.regions)
        return Map(self.version + 1, tuple(regions))


def evenly(owners: Sequence[str], each: int) -> tuple[Region, ...]:
    """The hashes cut into ``each`` slots for each owner, in turn."""
    count = each * len(owners)
    lows = [f"{(i << 4 * _DIGITS) // count:0{_DIGITS}x}" if i else "" for i in range(count)]
    return tuple(Region(low, owners[i % len(owners)]) for i, low in enumerate(lows))


def heavy(
    held: Mapping[str, Sequence[Span]], weights: Mapping[Span, int], active: Sequence[str]
) -> tuple[Span, str, str] | None:
    """The region to be moved, from whom, and to whom: from one who shall have none any more, or from the
    fullest to the emptiest, if that makes them more equal."""
    total = {owner: sum(weights[span] for span in spans) for owner, spans in held.items()}
    emptiest = min(active, key=lambda owner: total[owner])
    leaving = [owner for owner, spans in held.items() if spans and owner not in active]
    if leaving:
        return held[leaving[0]][0], leaving[0], emptiest
    fullest = max(active, key=lambda owner: total[owner])
    most = (total[fullest] - total[emptiest]) // 2
    light = [span for span in held[fullest] if 0 < weights[span] <= most]
    return (max(light, key=lambda span: weights[span]), fullest, emptiest) if light else None
