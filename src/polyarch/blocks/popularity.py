"""Which of N things is asked for: uniformly, or a few of them most of the time (Zipf's law)."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from polyarch.core.randomness import Random

__all__ = ["Popularity"]


class Popularity:
    """Draws from 0 … n - 1, where the thing of rank r is drawn with a probability proportional to
    1 / (r + 1)^exponent.  An exponent of 0 is uniform; the web's is near 1."""

    def __init__(self, n: int, exponent: float = 0.0) -> None:
        if n < 1 or exponent < 0:
            raise ValueError(f"Popularity({n}, {exponent}): at least one thing, no negative exponent")
        self.n = n
        self._sums = list(accumulate((r + 1) ** -exponent for r in range(n))) if exponent else None

    def draw(self, random: Random) -> int:
        """One of them."""
        if self._sums is None:
            return random.below(self.n)
        return bisect_left(self._sums, random.random() * self._sums[-1])
