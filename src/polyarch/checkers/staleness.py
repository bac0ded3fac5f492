"""What is left when a history is not linearizable: are reads fresh, and do writes last?

* A read is **stale** if a newer write had been answered before it began: with ``w`` the write of the value
  that was read, some write began after ``w`` had been answered, and was answered before the read began.
  (Without stale reads a store is *regular*: Lamport, "On interprocess communication", 1986, for writes that
  may overlap: Shao et al., "Multiwriter consistency conditions", 2011, the weakest of them.)
* A write is **lost** if it was answered, nobody overwrote it, and it is not there when all has healed.

Both need that no two writes of a key write the same value.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from polyarch.checkers.linearizability import Call

__all__ = ["lost_writes", "stale_reads"]


class _Writes:
    """The writes of one key, in a history of ``put`` and ``compare_and_set``."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.latest: list[float] = []
        self.answered: list[Call] = []  # those that certainly happened
        self.of: dict[Any, Call] = {}  # by the value that they write

    def add(self, call: Call) -> None:
        if call.name == "get" or (call.name == "compare_and_set" and call.result is False):
            return
        self.of[call.arguments[-1]] = call
        if call.end != math.inf:
            self.answered.append(call)

    def close(self) -> None:
        self.answered.sort(key=lambda call: call.end)
        self.ends = [call.end for call in self.answered]
        self.latest = list(accumulate((call.start for call in self.answered), max))

    def newer(self, value: Any, before: float) -> bool:
        """Whether a write that began after that of ``value`` had been answered was itself answered
        ``before`` some time."""
        count = bisect_left(self.ends, before)
        if not count:
            return False
        written = self.of.get(value)
        return self.latest[count - 1] > (written.end if written is not None else -math.inf)


def _by_key(calls: Iterable[Call]) -> dict[Hashable, _Writes]:
    keys: dict[Hashable, _Writes] = {}
    for call in calls:
        keys.setdefault(call.key, _Writes()).add(call)
    for writes in keys.values():
        writes.close()
    return keys


def stale_reads(calls: Iterable[Call]) -> list[Call]:
    """The reads that gave a value which had been overwritten before they began."""
    calls = list(calls)
    keys = _by_key(calls)
    reads = [call for call in calls if call.name == "get" and call.end != math.inf]
    return [read for read in reads if keys[read.key].newer(read.result, read.start)]


def lost_writes(calls: Iterable[Call], final: Mapping[str, Any]) -> list[str]:
    """The keys whose last value is not one that may be: ``final`` is what they hold when all is over."""
    keys = _by_key(calls)
    lost = []
    for key, value in final.items():
        writes = keys.get(key, _Writes())
        unknown = value is not None and value not in writes.of
        if unknown or writes.newer(value, math.inf):
            lost.append(key)
    return lost
