"""Identifiers as digits, on a ring: what routing by prefixes is made of.

Rowstron, Druschel: "Pastry: scalable, decentralized object location and routing for large-scale peer-to-peer
systems", Middleware 2001, section 2.1 (after Plaxton, Rajaraman, Richa, SPAA 1997).  An identifier of
``bits`` bits is a sequence of digits of ``b`` bits, the first one the most significant.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Generic, Protocol, TypeVar

from polyarch.core.randomness import Random

__all__ = [
    "DOWN", "UP", "LeafSet", "Near", "Placed", "RoutingTable", "digit", "gap", "prefix_ranges", "shared",
]  # fmt: skip


class Placed(Protocol):
    """What has a place on the ring."""

    @property
    def id(self) -> int: ...


P = TypeVar("P", bound=Placed)

DOWN, UP = 0, 1
"""The sides of a node on the ring: smaller and larger identifiers."""


def digit(id: int, i: int, bits: int, b: int) -> int:
    """The ``i``-th digit of an identifier."""
    return id >> (bits - (i + 1) * b) & ((1 << b) - 1)


def shared(x: int, y: int, bits: int, b: int) -> int:
    """How many digits the common prefix of two identifiers has: the paper's shl(A, B)."""
    return (bits - (x ^ y).bit_length()) // b


def gap(x: int, y: int, bits: int) -> int:
    """How far apart two identifiers are on the ring, the shorter way round."""
    up = (x - y) & ((1 << bits) - 1)
    return min(up, (1 << bits) - up)


def prefix_ranges(ring: Sequence[P], id: int, bits: int, b: int) -> Iterator[list[int]]:
    """For each row of ``id``'s routing table: where in the sorted ``ring`` those begin that share the row's
    digits with ``id`` and then have the digit 0, 1, …; and, as the last, where they end.  As many rows as
    there is somebody to share digits with."""
    lo, hi = 0, len(ring)
    row = 0
    while hi - lo > 1:
        shift = bits - (row + 1) * b
        base = id >> (shift + b) << b
        bounds = [lo]
        for d in range(1, 1 << b):
            lo = bisect_left(ring, (base + d) << shift, lo, hi, key=_id)
            bounds.append(lo)
        bounds.append(hi)
        yield bounds
        d = digit(id, row, bits, b)
        lo, hi = bounds[d], bounds[d + 1]
        row += 1


def _id(placed: Placed) -> int:
    return placed.id


class LeafSet(Generic[P]):
    """The nodes that are numerically nearest to one: up to ``half`` with smaller and as many with larger
    identifiers, each on the side on which it is nearer, the nearest first.

    If no side is full, these are all nodes: unless a full side has lost a leaf.  Then it is *torn*, and what
    is beyond its last leaf is unknown.
    """

    __slots__ = ("bits", "half", "me", "sides", "torn")

    def __init__(self, me: P, half: int, bits: int) -> None:
        self.me = me
        self.half = half
        self.bits = bits
        self.sides: list[tuple[P, ...]] = [(), ()]
        self.torn = [False, False]

    def build(self, ring: Sequence[P], at: int) -> None:
        """All leaves, from the whole ring in order; the node is the one ``at`` this index."""
        n = len(ring)
        for side, step in ((DOWN, -1), (UP, 1)):
            near = [ring[(at + step * k) % n] for k in range(1, min(self.half, n - 1) + 1)]
            self.sides[side] = tuple(p for p in near if self.away(p.id)[0] == side)

    def away(self, id: int) -> tuple[int, int]:
        """On which side a place is nearer, and how far away."""
        ring = 1 << self.bits
        up = (id - self.me.id) & (ring - 1)
        return (UP, up) if up <= ring - up else (DOWN, ring - up)

    def fits(self, id: int) -> bool:
        """Whether a node with this identifier would be a leaf, and is none."""
        side, distance = self.away(id)
        peers = self.sides[side]
        if len(peers) == self.half and self.away(peers[-1].id)[1] <= distance:
            return False
        return distance > 0 and all(p.id != id for p in peers)

    def add(self, peer: P) -> bool:
        """Make it a leaf if it is near enough; whether it became one."""
        if not self.fits(peer.id):
            return False
        side, distance = self.away(peer.id)
        peers = self.sides[side]
        at = sum(self.away(p.id)[1] < distance for p in peers)
        self.sides[side] = (*peers[:at], peer, *peers[at:])[: self.half]
        if len(self.sides[side]) == self.half:
            self.torn[side] = False
        return True

    def discard(self, peer: P) -> bool:
        """Not a leaf any more; whether it was one."""
        for side, peers in enumerate(self.sides):
            if peer in peers:
                self.torn[side] = self.torn[side] or len(peers) == self.half
                self.sides[side] = tuple(p for p in peers if p != peer)
                return True
        return False

    def __contains__(self, peer: object) -> bool:
        return peer in self.sides[DOWN] or peer in self.sides[UP]

    def __iter__(self) -> Iterator[P]:
        """All leaves, the smaller ones first."""
        yield from self.sides[DOWN]
        yield from self.sides[UP]

    def covers(self, key: int) -> bool:
        """Whether a place is within the range of the leaf set: the nearest node to it is a leaf, or this
        one, or known to one of them."""
        side, distance = self.away(key)
        peers = self.sides[side]
        if not any(self.torn) and all(len(peers) < self.half for peers in self.sides):
            return True
        return distance <= (self.away(peers[-1].id)[1] if peers else 0)

    def closest(self, key: int) -> P:
        """The leaf, or this node, that is numerically closest to a place; of two, the smaller."""
        ring = 1 << self.bits
        best, least = self.me, gap(self.me.id, key, self.bits)
        for peers in self.sides:
            for p in peers:
                distance = (p.id - key) & (ring - 1)
                if distance + distance > ring:
                    distance = ring - distance
                if distance < least or (distance == least and p.id < best.id):
                    best, least = p, distance
        return best

    def nearest(self, key: int) -> list[P]:
        """All leaves, the one closest to a place first."""
        return sorted(self, key=lambda p: (gap(p.id, key, self.bits), p.id))

    def on_side(self, side: int, peers: Iterable[P]) -> list[P]:
        """Those that are on a side, the nearest first."""
        there = [p for p in peers if self.away(p.id)[0] == side]
        return sorted(there, key=lambda p: self.away(p.id)[1])

    def next_up(self) -> P | None:
        """The next node on the ring towards larger identifiers, as far as it is known."""
        down, up = self.sides
        return up[0] if up else down[-1] if down else None


class RoutingTable(Generic[P]):
    """For each prefix of a node's identifier, one node for each digit that may come next: the nearest of
    those that were measured."""

    __slots__ = ("b", "bits", "distances", "me", "rows")

    def __init__(self, me: P, bits: int, b: int) -> None:
        self.me = me
        self.bits = bits
        self.b = b
        self.rows: list[list[P | None]] = []
        """``rows[l][d]``: a node that shares l digits with this one, and then has the digit d."""
        self.distances: dict[int, float] = {}
        """How far away entries are, by identifier, where it was measured."""

    def build(self, ring: Sequence[P], random: Random) -> None:
        """A table from the whole ring in order; of several that fit, one at random."""
        for i, bounds in enumerate(prefix_ranges(ring, self.me.id, self.bits, self.b)):
            row: list[P | None] = [
                ring[lo + random.below(hi - lo)] if hi > lo else None for lo, hi in pairwise(bounds)
            ]
            row[digit(self.me.id, i, self.bits, self.b)] = None
            self.rows.append(row)

    def slot(self, id: int) -> tuple[int, int]:
        """Row and column of an identifier: the digits that it shares with this node's, and its next one."""
        row = shared(id, self.me.id, self.bits, self.b)
        return row, digit(id, row, self.bits, self.b)

    def entry(self, row: int, d: int) -> P | None:
        """The entry of a slot."""
        return self.rows[row][d] if row < len(self.rows) else None

    def put(self, peer: P, distance: float, *, compare: bool) -> None:
        """Take a node into its slot if that is empty; or, if they are to be compared, if it is nearer than
        the present entry, or that was not measured."""
        row, d = self.slot(peer.id)
        while len(self.rows) <= row:
            self.rows.append([None] * (1 << self.b))
        entry = self.rows[row][d]
        if entry is not None:
            if not compare or distance >= self.distances.get(entry.id, inf):
                return
            self.distances.pop(entry.id, None)
        self.rows[row][d] = peer
        self.distances[peer.id] = distance

    def discard(self, peer: P) -> bool:
        """Empty its slot; whether it was there."""
        row, d = self.slot(peer.id)
        if self.entry(row, d) != peer:
            return False
        self.rows[row][d] = None
        self.distances.pop(peer.id, None)
        return True

    def __iter__(self) -> Iterator[P]:
        """All entries."""
        return (entry for row in self.rows for entry in row if entry is not None)


class Near(Generic[P]):
    """Up to ``most`` nodes: those that are nearest in the network, as far as it was measured."""

    __slots__ = ("distances", "most", "peers")

    def __init__(self, most: int) -> None:
        self.most = most
        self.peers: tuple[P, ...] = ()
        """The nearest first; who was not measured last."""
        self.distances: dict[int, float] = {}

    def build(self, ring: Sequence[P], at: int, random: Random) -> None:
        """Random ones, without the node that is ``at`` this index of the ring."""
        n = len(ring)
        chosen = random.sample(range(1, n), min(self.most, n - 1))
        self.peers = tuple(ring[(at + k) % n] for k in chosen)

    def put(self, peer: P, distance: float) -> None:
        """Take a node, if there is room or it is nearer than one of them."""
        full = len(self.peers) == self.most
        if peer in self.peers or (full and distance >= self.far(self.peers[-1])):
            return
        if full:
            self.distances.pop(self.peers[-1].id, None)
        at = bisect_right(self.peers, distance, key=self.far)
        self.peers = (*self.peers[:at], peer, *self.peers[at : self.most - 1])
        self.distances[peer.id] = distance

    def far(self, peer: P) -> float:
        """How far away one of them is; infinitely, if it was not measured."""
        return self.distances.get(peer.id, inf)

    def discard(self, peer: P) -> bool:
        """Without this one; whether it was there."""
        known = peer in self.peers
        if known:
            self.peers = tuple(p for p in self.peers if p != peer)
            self.distances.pop(peer.id, None)
        return known
