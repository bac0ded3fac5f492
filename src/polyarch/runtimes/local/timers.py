"""Timers of a live process: a heap behind one precise timer (timerfd: some 100 us, where loops have 1 ms)."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

from polyarch.measure.pacing import precise_timer

__all__ = ["Timers"]


class Timers:
    """``at(when, function, …)``; times are nanoseconds of ``time.monotonic_ns``."""

    def __init__(self, run: Callable[..., None]) -> None:
        """``run(function, *arguments)`` is how a timer's function is called."""
        self._run = run
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._sequence = itertools.count().__next__
        self._timer = precise_timer(self._wake)
        self._armed = 0

    def at(self, when: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Call at a time, or soon if it has passed."""
        heapq.heappush(self._heap, (when, self._sequence(), function, arguments))
        if self._armed == 0 or when < self._armed:  # (-1 while waking: armed at its end)
            self._armed = when
            self._timer.arm(when)

    def _wake(self) -> None:
        heap = self._heap
        self._armed = -1  # timers made by what runs here are looked at below
        now = time.monotonic_ns()
        while heap and heap[0][0] <= now:
            _, _, function, arguments = heapq.heappop(heap)
            self._run(function, *arguments)
        self._armed = heap[0][0] if heap else 0
        if heap:
            self._timer.arm(self._armed)

    def close(self) -> None:
        """Nothing is called any more."""
        self._heap.clear()
        self._timer.close()
