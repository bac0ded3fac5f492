"""Scalability as a fit: throughput against size, and what limits it.

The Universal Scalability Law (Gunther, "A simple capacity model of massively parallel transaction systems",
CMG 1993; "Guerrilla Capacity Planning", 2007, chapters 4 to 6): of N servers, or processors, or clients,

    X(N) = N X1 / (1 + a (N - 1) + b N (N - 1))

a, *contention*: the part of the work that one does while the others wait (the serial part).  b, *coherence*:
what each pair of them costs, to agree or to keep copies the same.  With b = 0 it is Amdahl's law (1967), and
X tends to X1 / a; with b > 0 it has a peak at N = sqrt((1 - a) / b), and falls behind it.

    N / X(N) = 1/X1 + (a/X1) (N - 1) + (b/X1) N (N - 1)

is linear in its three coefficients: least squares have one solution, found without a search.  Errors are
relative (throughput is as exact at 1,000 as at 10), so each equation is divided by its left-hand side.  No
coefficient is negative: where one would be, it is nothing, and the others are fitted again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LINEAR", "Bottleneck", "Interval", "Usl", "amdahl", "bottleneck", "fit", "usl"]

LINEAR = 0.9
"""Linear, as it is meant here: at least this part of N times what one does."""
_DRAWS = 500


def usl(n: float, contention: float, coherence: float) -> float:
    """How many times what one does N do: C(N)."""
    return n / (1 + contention * (n - 1) + coherence * n * (n - 1))


def amdahl(n: float, serial: float) -> float:
    """The speed-up of N processors when a part of the work is serial."""
    return 1 / (serial + (1 - serial) / n)


@dataclass(frozen=True, slots=True)
class Interval:
    """A coefficient, and where it lies with a confidence of 95 %."""

    value: float
    low: float | None
    """None: as many coefficients as measurements, so that nothing says how sure they are."""
    high: float | None


@dataclass(frozen=True, slots=True)
class Usl:
    """A fitted law."""

    one: Interval
    """X1: throughput of one."""
    contention: Interval
    coherence: Interval
    peak: Interval | None
    """The N of the highest throughput; None: it never falls (no coherence).  The upper end is infinite where
    the measurements bear a law without a peak too."""
    peak_at_least: float
    """The N below which a peak is unlikely (2.5 %), whether there is one or not; infinite: there is none."""
    error: float
    """Root mean square of the relative residuals."""

    def throughput(self, n: float) -> float:
        """What ``n`` would do, in the unit of what was measured."""
        return self.one.value * usl(n, self.contention.value, self.coherence.value)

    def linear_to(self) -> float:
        """The largest N with at least ``LINEAR`` of N times what one does; infinite if it always has."""
        a, b = self.contention.value, self.coherence.value
        room = 1 / LINEAR - 1  # what a (N - 1) + b N (N - 1) may be
        if b == 0:
            return 1 + room / a if a else math.inf
        # b N^2 + (a - b) N - (a + room) = 0
        return (b - a + math.sqrt((a - b) ** 2 + 4 * b * (a + room))) / (2 * b)

    def losses(self, n: float) -> tuple[float, float]:
        """What N lose to contention and to coherence, as parts of what is left: a (N-1) and b N (N-1)."""
        return self.contention.value * (n - 1), self.coherence.value * n * (n - 1)


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Linear until something that all need is busy, and level from there on: min(N X1, cap)."""

    one: float
    cap: float
    error: float
    """Root mean square of the relative residuals."""


def bottleneck(sizes: Sequence[float], throughputs: Sequence[float]) -> Bottleneck | None:
    """The bound of asymptotic analysis (Denning and Buzen 1978) that fits best, with sizes on both sides of
    its knee; None if there is none.  Where requests of different sizes pass each other on their way, the knee
    is sharper than that of the Universal Scalability Law, whose requests wait for each other."""
    n, x = np.asarray(sizes, dtype=float), np.asarray(throughputs, dtype=float)
    best: Bottleneck | None = None
    for last in sorted(set(n.tolist()))[:-1]:
        one, cap = float((x / n)[n <= last].mean()), float(x[n > last].mean())
        predicted = np.minimum(n * one, cap)
        error = float(np.sqrt(np.mean((x / predicted - 1) ** 2)))
        if last * one <= 1.02 * cap and (best is None or error < best.error):
            best = Bottleneck(one, cap, error)
    return best


def fit(sizes: Sequence[float], throughputs: Sequence[float], rng: np.random.Generator) -> Usl:
    """The law that fits best.  ``sizes`` and ``throughputs``: one entry for each run, so that a size of
    several runs is there several times.  At least three different sizes; ``ValueError`` otherwise.

    The intervals are those of what might have been measured as well: errors of the residuals' size, which few
    residuals tell as badly as Student's t says, are drawn and fitted again.  So they know of the noise, and
    of what the law does not explain.
    """
    n, x = np.asarray(sizes, dtype=float), np.asarray(throughputs, dtype=float)
    if n.shape != x.shape:
        raise ValueError(f"{n.size} sizes, {x.size} throughputs")
    if len(set(n.tolist())) < 3:
        raise ValueError("the law has three coefficients: at least three different sizes are needed")
    if not (n >= 1).all() or not (x > 0).all() or not np.isfinite(x).all():
        raise ValueError("sizes are at least 1, and throughputs above 0")
    best = _solve(n, x)
    predicted = best[0] * n / (1 + best[1] * (n - 1) + best[2] * n * (n - 1))
    squares = float(np.sum((x / predicted - 1) ** 2))
    error = math.sqrt(squares / n.size)
    free = n.size - 3  # degrees of freedom
    if not free:
        rows = None
    else:
        size = np.sqrt(squares / rng.chisquare(free, size=(_DRAWS, 1)))
        drawn = np.maximum(1 + size * rng.standard_normal((_DRAWS, n.size)), 0.01)
        rows = np.array([_solve(n, predicted / row) for row in drawn])

    def interval(value: float, column: np.ndarray | None) -> Interval:
        if column is None:
            return Interval(value, None, None)
        # Not interpolated: a peak may be at infinity.
        low, high = np.percentile(column, (2.5, 97.5), method="nearest")
        return Interval(value, float(low), float(high))

    peaks = None if rows is None else np.array([_peak(a, b) for _, a, b in rows])
    at = _peak(best[1], best[2])
    one, contention, coherence = (interval(best[i], None if rows is None else rows[:, i]) for i in range(3))
    peak = interval(at, peaks)
    least = at if peak.low is None else peak.low
    return Usl(
        one, contention, coherence, peak if math.isfinite(at) else None, peak_at_least=least, error=error
    )


def _peak(a: float, b: float) -> float:
    """The N of the highest throughput; at least 1."""
    return math.inf if b <= 0 else max(1.0, math.sqrt(max(0.0, 1 - a) / b))


def _solve(n: np.ndarray, x: np.ndarray) -> tuple[float, float, float]:
    """X1, a and b by least squares of relative errors, none of them negative."""
    left = n / x
    columns = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) / left[:, None]
    best, least = None, math.inf
    # Three unknowns: the best of all ways to leave some out is found by trying them.
    for kept in itertools.chain([(0, 1, 2)], [(0, 1), (0, 2)], [(0,)]):
        solved, *_ = np.linalg.lstsq(columns[:, kept], np.ones_like(n), rcond=None)
        if (solved < 0).any() or solved[0] <= 0:
            continue
        wrong = float(np.sum((columns[:, kept] @ solved - 1) ** 2))
        if wrong < least:
            least, best = wrong, dict(zip(kept, solved.tolist()))
    assert best is not None  # with the first one alone there is always a solution
    one, most = 1 / best[0], float(n.max())
    a, b = best.get(1, 0.0) * one, best.get(2, 0.0) * one
    return one, _unless_nothing(a, most), _unless_nothing(b, most**2)


def _unless_nothing(coefficient: float, times: float) -> float:
    """Of a coefficient that costs less than a millionth only the rounding is known."""
    return coefficient if coefficient * times >= 1e-6 else 0.0
