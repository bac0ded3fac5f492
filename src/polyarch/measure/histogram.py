"""A histogram of durations that merges exactly and keeps a fixed relative error.

Log-linear buckets as in HdrHistogram (Gil Tene): values below 256 have a bucket each; above, every power of
two is cut into 128 equal buckets, so a bucket is at most 1/128 of its value wide.  A percentile is
answered with the middle of its bucket and is off by at most 1/256 (0.4 %); count, sum, minimum and maximum
are exact.  Two histograms merge by adding counts: the merged one is the one that would have recorded
everything itself.  That is why percentiles of several runs or processes come from a merge and never
from averaging percentiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

__all__ = ["RELATIVE_ERROR", "Histogram"]

_BITS = 7  # 2**7 buckets in each power of two
_LINEAR = 2 << _BITS  # below this, every integer has its own bucket

RELATIVE_ERROR = 1 / _LINEAR
"""How far a percentile may be from the recorded value, as a fraction of it (0.4 %)."""


class Histogram:
    """Counts of durations: integers of one unit that the caller chooses (nanoseconds in Polyarch).

    An empty histogram has no percentile, minimum, maximum or mean: they are None, since a figure that
    was not measured is absent and never zero.
    """

    __slots__ = ("_counts", "count", "max", "min", "sum")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: dict[int, int] = {}  # by bucket; a run fills a few hundred of about 7,000
        self.count = 0
        self.sum = 0
        self.min: int | None = None
        self.max: int | None = None
        for value in values:
            self.record(value)

    def record(self, value: int, times: int = 1) -> None:
        """Count a duration `times` times.  ValueError when it is negative."""
        if value < 0:
            raise ValueError(f"a duration is not negative: {value}")
        shift = value.bit_length() - (_BITS + 1)
        index = value if shift <= 0 else (shift << _BITS) + (value >> shift)
        counts = self._counts
        counts[index] = counts.get(index, 0) + times
        self.count += times
        self.sum += value * times
        if self.max is None or value > self.max:
            self.max = value
        if self.min is None or value < self.min:
            self.min = value

    def merge(self, other: Histogram) -> None:
        """Add everything that another histogram of the same unit recorded."""
        counts = self._counts
        for index, count in other._counts.items():
            counts[index] = counts.get(index, 0) + count
        self.count += other.count
        self.sum += other.sum
        if other.min is not None and (self.min is None or other.min < self.min):
            self.min = other.min
        if other.max is not None and (self.max is None or other.max > self.max):
            self.max = other.max

    @property
    def mean(self) -> float | None:
        """The exact mean of all recorded values."""
        return self.sum / self.count if self.count else None

    def percentile(self, percent: float) -> int | None:
        """The smallest value that at least `percent` % of the recorded ones do not exceed (nearest rank).

        Within RELATIVE_ERROR of the exact one; 0 and 100 give the exact minimum and maximum.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile is between 0 and 100, not {percent}")
        if self.min is None or self.max is None:
            return None
        # Exact arithmetic on the decimal that the caller wrote: 99.9 % of 1,000 is rank 999, while in
        # floating point it would round up to 1,000.
        rank = -int(-Fraction(str(percent)) * self.count // 100)
        if rank <= 1:
            return self.min
        if rank >= self.count:
            return self.max
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= rank:
                return min(max(_middle(index), self.min), self.max)
        raise AssertionError("the counts of the buckets add up to the count of the histogram")

    def summary(self, unit: float = 1e6) -> dict[str, float]:
        """Mean, p50, p90, p99 and max, divided by `unit` (1e6: nanoseconds in, milliseconds out); empty when
        nothing was recorded."""
        figures: dict[str, float | None] = {"mean": self.mean}
        figures |= {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        figures["max"] = self.max
        return {name: value / unit for name, value in figures.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and integers, for JSON or MessagePack; `from_dict` restores an equal histogram."""
        buckets = sorted(self._counts.items())
        return {
            "count": self.count,
            "sum": self.sum,
            "min": self.min,
            "max": self.max,
            "buckets": [index for index, _ in buckets],
            "counts": [count for _, count in buckets],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Histogram:
        """The histogram that `to_dict` wrote."""
        histogram = cls()
        histogram._counts = dict(zip(data["buckets"], data["counts"], strict=True))
        histogram.count, histogram.sum = data["count"], data["sum"]
        histogram.min, histogram.max = data["min"], data["max"]
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, min={self.min}, max={self.max})"


def _middle(index: int) -> int:
    """The middle of a bucket: the inverse of the index that `record` computes."""
    if index < _LINEAR:
        return index
    shift = (index >> _BITS) - 1
    lowest = (index - (shift << _BITS)) << shift
    return lowest + (1 << shift >> 1)
