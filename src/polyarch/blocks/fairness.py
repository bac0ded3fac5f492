"""How fairly something is shared."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["jain"]


def jain(shares: Iterable[float]) -> float:
    """Jain's index of the shares of N: 1 if all have the same, k / N if k have the same and the others
    nothing.  (Jain, Chiu and Hawe, DEC-TR-301, 1984.)  Of nobody, or of nothing, it is 1."""
    some = list(shares)
    squares = sum(share * share for share in some)
    return sum(some) ** 2 / (len(some) * squares) if squares else 1.0
