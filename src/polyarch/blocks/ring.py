"""Arithmetic on a ring of identifiers: 0, 1, …, 2^bits - 1, and then 0 again (Chord, section IV).

Nodes and keys share the ring.  "Clockwise" is the direction of growing identifiers; a key belongs to its
*successor*, the first node that one meets clockwise from the key on, the key's own place included.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Ring", "between", "distance", "identifier", "successor_index", "within"]


def identifier(name: str, bits: int) -> int:
    """The place of a key or an address on the ring: the first ``bits`` bits of its SHA-1 (section IV-B)."""
    if not 1 <= bits <= 160:
        raise ValueError(f"{bits} bits: SHA-1 gives 1 to 160")
    return int.from_bytes(hashlib.sha1(name.encode()).digest(), "big") >> (160 - bits)


def within(key: int, a: int, b: int) -> bool:
    """Whether ``key`` is in (a, b]: met clockwise after ``a`` and no later than ``b``.  (a, a] is the
    whole ring: a node that is alone is responsible for everything."""
    if a < b:
        return a < key <= b
    return key > a or key <= b


def between(key: int, a: int, b: int) -> bool:
    """Whether ``key`` is in (a, b), open at both ends.  (a, a) is everything but ``a``."""
    if a < b:
        return a < key < b
    return key > a or key < b


def distance(a: int, b: int, bits: int) -> int:
    """Steps clockwise from ``a`` to ``b``."""
    return (b - a) & ((1 << bits) - 1)


def successor_index(ring: Sequence[int], key: int) -> int:
    """The index, in a sorted sequence of identifiers, of the successor of ``key``."""
    index = bisect_left(ring, key)
    return index if index < len(ring) else 0


class Ring:
    """Servers on a ring, each in several places so that they get equal shares: who is next to a key?
    (Karger et al., "Consistent hashing and random trees", 1997.)"""

    def __init__(self, servers: Sequence[str], places: int = 16) -> None:
        marks = sorted((identifier(f"{s}/{i}", 64), s) for s in servers for i in range(places))
        self._places = [place for place, _ in marks]
        self._owners = [server for _, server in marks]
        self._known: dict[str, list[str]] = {}

    def walk(self, key: str) -> list[str]:
        """All servers, in the order in which they come clockwise from the key."""
        if key not in self._known:
            at = successor_index(self._places, identifier(key, 64))
            self._known[key] = list(dict.fromkeys(self._owners[at:] + self._owners[:at]))
        return self._known[key]
