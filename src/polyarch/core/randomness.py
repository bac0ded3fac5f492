"""A node's random source: small, seeded, and the same on every machine and Python version.

SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).  One
integer of state, so that 100,000 nodes can each have a stream of their own (``random.Random`` takes
2.5 kB): what one node draws never disturbs another, and a schedule can be shrunk without changing the
rest.  ``random.Random`` promises only ``random()`` across versions; here every method is fixed.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence
from typing import TypeVar
from zlib import crc32

__all__ = ["Random"]

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Random:
    """A deterministic stream of draws from one seed."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = _mix((seed + _GAMMA) & _MASK)

    def fork(self, label: str) -> Random:
        """An independent stream for ``label``; does not advance this one."""
        return Random(_mix(self._state ^ (crc32(label.encode()) * 0x100000001 & _MASK)))

    def bits64(self) -> int:
        """A uniform integer of 64 bits."""
        self._state = state = (self._state + _GAMMA) & _MASK
        return _mix(state)

    def bytes(self, size: int) -> bytes:
        """So many uniform bytes."""
        return b"".join(self.bits64().to_bytes(8, "big") for _ in range(-(-size // 8)))[:size]

    def random(self) -> float:
        """Uniform in [0, 1)."""
        self._state = z = (self._state + _GAMMA) & _MASK  # bits64, written out: simulations draw much
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """A uniform integer in [0, n); n >= 1.  Any size."""
        if n <= 0:
            raise ValueError(f"below({n}): n must be at least 1")
        bits = n.bit_length()
        if bits <= 64:  # the usual case, written out
            mask = (1 << bits) - 1
            state = self._state
            while True:
                state = z = (state + _GAMMA) & _MASK
                z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
                z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
                z = (z ^ (z >> 31)) & mask
                if z < n:
                    self._state = state
                    return z
        while True:  # rejection: exactly uniform
            word = 0
            for _ in range((bits + 63) // 64):
                word = word << 64 | self.bits64()
            word &= (1 << bits) - 1
            if word < n:
                return word

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, uniformly; at least one is needed."""
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Reorder in place, uniformly (Fisher-Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` different positions' items, in random order."""
        if not 0 <= k <= len(items):
            raise ValueError(f"sample of {k} from {len(items)} items")
        moved: dict[int, int] = {}  # a sparse Fisher-Yates: O(k), whatever the length of items
        chosen = []
        for i in range(k):
            j = i + self.below(len(items) - i)
            chosen.append(items[moved.get(j, j)])
            moved[j] = moved.get(i, i)
        return chosen

    def exponential(self, mean: float) -> float:
        """Exponential with this mean: the time between Poisson events."""
        return -mean * math.log(1.0 - self.random())

    def normal(self, mean: float = 0.0, deviation: float = 1.0) -> float:
        """Normal (Box-Muller, one of the pair)."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.random()))
        return mean + deviation * radius * math.cos(2.0 * math.pi * self.random())

    def lognormal(self, median: float, sigma: float) -> float:
        """Log-normal with this median; ``sigma`` is the deviation of the logarithm."""
        return median * math.exp(self.normal(0.0, sigma))
