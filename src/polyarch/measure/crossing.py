"""Where one curve overtakes another: the break-even of two series that were measured at the same places.

Between two places the curves are taken as straight: on logarithmic axes if everything is positive (a power
of the parameter is straight there), else on linear ones.  How sure the place is, a bootstrap tells: the runs
at each place are drawn again with replacement, for both series the same ones if they come in pairs (the
same seed, or the same minute on the same machine).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Crossing", "crossings"]

_RESAMPLES = 1000
_TAIL = 2.5  # per cent that lie below the interval, and above it


@dataclass(frozen=True, slots=True)
class Crossing:
    """A place at which the sign of the difference changes."""

    at: float
    low: float | None
    """The 95 % interval; None with one run at each place, which says nothing of how sure it is."""
    high: float | None
    share: float | None
    """The share of the resampled measurements in which there is such a crossing at all."""
    rises: bool
    """Whether the first series is above the other behind it, and below it before."""


def crossings(
    places: Sequence[float],
    one: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    rng: np.random.Generator,
) -> list[Crossing]:
    """Where the mean of the runs of ``one`` crosses that of ``other``, in order.

    ``places``: ascending; ``one[i]`` and ``other[i]``: the runs at ``places[i]``, at least one each.
    ``ValueError`` when they do not fit together.
    """
    n = len(places)
    if not n == len(one) == len(other):
        raise ValueError(f"{n} places, {len(one)} and {len(other)} measurements")
    if any(b <= a for a, b in itertools.pairwise(places)):
        raise ValueError("the places must ascend")
    if not all(map(len, one)) or not all(map(len, other)):
        raise ValueError("no run, no figure")
    along = _scale(places)
    log = all(value > 0 for series in (one, other) for runs in series for value in runs)
    difference = _difference(_means(one), _means(other), log)
    found = _signs(along, difference)
    if not found:
        return []
    several = any(len(runs) > 1 for series in (one, other) for runs in series)
    drawn = _resampled(one, other, log, rng) if several else None
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


def _means(series: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([np.mean(runs) for runs in series])


def _difference(one: np.ndarray, other: np.ndarray, log: bool) -> np.ndarray:
    difference: np.ndarray = np.log(one) - np.log(other) if log else one - other
    return difference


def _resampled(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], log: bool, rng: np.random.Generator
) -> np.ndarray:
    """The differences of ``_RESAMPLES`` measurements (rows) at each place (columns)."""
    columns = []
    for a, b in zip(one, other):
        first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        chosen = rng.integers(len(first), size=(_RESAMPLES, len(first)))
        paired = len(first) == len(second)
        others = chosen if paired else rng.integers(len(second), size=(_RESAMPLES, len(second)))
        columns.append(_difference(first[chosen].mean(axis=1), second[others].mean(axis=1), log))
    return np.stack(columns, axis=1)


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
