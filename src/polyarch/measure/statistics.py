"""What several runs say together: the middle, the spread, and how sure one can be.

Every figure of Polyarch has its run count and spread, and comparisons interleave their contestants, so
that runs come in pairs that shared the machine's mood (design, section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Spread", "bootstrap_interval", "paired_ratio", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure measured in several runs, in the unit of the figure."""

    runs: int
    median: float
    low: float
    """The smallest run."""
    high: float
    """The largest run."""
    quartile_range: float
    """Third quartile minus first, interpolated linearly; 0 for a single run."""

    def to_dict(self) -> dict[str, float]:
        """For a record."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Median, range and quartile range of a figure's runs.  ValueError when there is no run."""
    if not len(values):
        raise ValueError("no run, no figure")
    first, median, third = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return Spread(len(values), median, float(min(values)), float(max(values)), third - first)


def bootstrap_interval(
    values: Sequence[float],
    rng: np.random.Generator,
    *,
    statistic: Callable[..., np.ndarray] = np.median,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic (Efron 1979; Efron and Tibshirani 1993, chapter 13).

    `statistic` reduces along `axis`, as numpy's median and mean do.  The same generator state gives the
    same interval.  With fewer than about eight runs the interval is too narrow: show the runs instead.
    """
    if not len(values):
        raise ValueError("no run, no interval")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    sample = np.asarray(values, dtype=float)
    estimates = statistic(sample[rng.integers(len(sample), size=(resamples, len(sample)))], axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(estimates, (tail, 100 - tail))
    return float(low), float(high)


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """How many times the baseline each run was, pair by pair, as a spread of ratios.

    Run i of both must have been made next to each other: what slowed the machine then slowed both, and
    cancels.  ValueError when the runs do not pair up or a baseline is zero.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} runs do not pair up with {len(baseline)}")
    if any(base == 0 for base in baseline):
        raise ValueError("a baseline of zero has no ratio")
    return spread([value / base for value, base in zip(values, baseline, strict=True)])
