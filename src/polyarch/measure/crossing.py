"""Where one curve overtakes another: the break-even of two series that were measured at the same places.

Between two places the curves are taken as straight: on logarithmic axes if everything is positive (a power
of the parameter is straight there), else on linear ones.

How sure the place is, follows from how far the runs lie apart.  Run *r* is one round: the same seed, or the
same minutes on the same machine, for both series at all places.  So the runs' differences are vectors, one
for each round, and their mean is as uncertain as a multivariate Student's t says, with their own covariance
(for three rounds that is far more than a bootstrap of the rounds admits: it covers the truth in 71 % of all
cases instead of 95 %).  Differences that might as well have been measured are drawn from it, and searched
for crossings as the measured one was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Crossing", "crossings"]

_DRAWS = 2000
_TAIL = 2.5  # per cent that lie below the interval, and above it


@dataclass(frozen=True, slots=True)
class Crossing:
    """A place at which the sign of the difference changes."""

    at: float
    low: float | None
    """The 95 % interval; None with one run at each place, which says nothing of how sure it is."""
    high: float | None
    share: float | None
    """The share of what might have been measured in which there is such a crossing at all."""
    rises: bool
    """Whether the first series is above the other behind it, and below it before."""


def crossings(
    places: Sequence[float],
    one: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    rng: np.random.Generator,
) -> list[Crossing]:
    """Where the mean of the runs of ``one`` crosses that of ``other``, in order.

    ``places``: ascending; ``one[i]`` and ``other[i]``: the runs at ``places[i]``, as many everywhere, and in
    the order of the rounds.  ``ValueError`` when they do not fit together.
    """
    n = len(places)
    if not n == len(one) == len(other):
        raise ValueError(f"{n} places, {len(one)} and {len(other)} measurements")
    if any(b <= a for a, b in itertools.pairwise(places)):
        raise ValueError("the places must ascend")
    rounds = {len(runs) for series in (one, other) for runs in series}
    if len(rounds) > 1 or 0 in rounds:
        raise ValueError("a round is a run of both at each place, and at least one is needed")
    along = _scale(places)
    first, second = (np.array(series, dtype=float).T for series in (one, other))  # rounds by places
    log = bool((first > 0).all() and (second > 0).all())
    difference = _difference(first.mean(axis=0), second.mean(axis=0), log)
    found = _signs(along, difference)
    if not found:
        return []
    several = len(first) > 1
    drawn = _drawn(difference, _difference(first, second, log), rng) if several else None
    result = []
    for u, rises in found:
        at = _back(u, places)
        if drawn is None:
            result.append(Crossing(at, None, None, None, rises))
            continue
        near = [
            min(same, key=lambda v: abs(v - u))
            for row in drawn
            if (same := [v for v, up in _signs(along, row) if up == rises])
        ]
        low, high = np.percentile(near, (_TAIL, 100 - _TAIL)) if near else (u, u)
        ends = _back(float(low), places), _back(float(high), places)
        result.append(Crossing(at, *ends, len(near) / len(drawn), rises))
    return result


def _is_log(places: Sequence[float]) -> bool:
    return places[0] > 0 and places[-1] >= 4 * places[0]


def _scale(places: Sequence[float]) -> list[float]:
    """The places on the axis on which the curves are straight."""
    return [math.log(p) for p in places] if _is_log(places) else list(places)


def _back(u: float, places: Sequence[float]) -> float:
    return math.exp(u) if _is_log(places) else u


def _difference(one: np.ndarray, other: np.ndarray, log: bool) -> np.ndarray:
    difference: np.ndarray = np.log(one) - np.log(other) if log else one - other
    return difference


def _drawn(difference: np.ndarray, rounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences (rows) at each place (columns) that might have been measured as well: about the measured
    one, with the covariance of the rounds (rows of ``rounds``), by Student's t."""
    k = len(rounds)
    apart = (rounds - rounds.mean(axis=0)) / np.sqrt(k * (k - 1))
    scale = np.sqrt((k - 1) / rng.chisquare(k - 1, size=(_DRAWS, 1)))
    drawn: np.ndarray = difference + scale * (rng.standard_normal((_DRAWS, k)) @ apart)
    return drawn


def _signs(along: Sequence[float], difference: Sequence[float] | np.ndarray) -> list[tuple[float, bool]]:
    """Where the difference changes its sign, and whether to positive.  Where it is nothing for a while, in
    the middle of that."""
    found = []
    last: int | None = None
    for i, d in enumerate(difference):
        if d == 0:
            continue
        if last is not None and (d > 0) != (difference[last] > 0):
            if i == last + 1:
                part = difference[last] / (difference[last] - d)
                u = along[last] + part * (along[i] - along[last])
            else:
                u = (along[last + 1] + along[i - 1]) / 2
            found.append((float(u), bool(d > 0)))
        last = i
    return found
