"""Making a schedule that fails smaller, for as long as it fails in the same way.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): leave out
larger parts first, then smaller ones.  A candidate counts if the same thing is violated, whatever the detail.
Bounded by a number of runs, not by time: the same schedule shrinks to the same one everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from polyarch.core.job import Job
from polyarch.core.system import Architecture
from polyarch.experiment.mischief import ONCE_ANOTHER_LEADS, ONCE_LED
from polyarch.experiment.performance import Result, perform
from polyarch.experiment.schedule import Schedule
from polyarch.faults.spec import Fault

__all__ = ["shrink"]


def shrink(
    found: Result,
    made: tuple[Architecture, Job],
    *,
    budget: int = 1500,
    progress: Callable[[int, Schedule], None] = lambda runs, smallest: None,
) -> Result:
    """The smallest result that was found with the same violation.  ``budget``: runs."""
    return _Shrinking(found, made, budget, progress).best


_LUCK = 3  # seeds of the nodes' and the links' randomness that are tried with each candidate


class _Exhausted(Exception):
    pass


class _Shrinking:
    def __init__(
        self,
        found: Result,
        made: tuple[Architecture, Job],
        budget: int,
        progress: Callable[[int, Schedule], None],
    ) -> None:
        self.kind = found.violations[0].kind
        self.made = made
        self.best = self._exact(found) or dataclasses.replace(found, schedule=found.given)
        self.left = budget
        self.runs = 0
        self.progress = progress
        try:
            while self._round():
                pass
        except _Exhausted:
            pass

    def _round(self) -> bool:
        """Try everything once; whether it helped."""
        before = _size(self.best.schedule)
        self._end_early()
        self._leave_out("faults")
        self._begin_early()
        self._certain_faults()
        self._fewer_clients()
        self._leave_out("visits")
        self._leave_out("faults")
        self._milder_faults()
        self._begin_early()
        return _size(self.best.schedule) < before

    def _fails(self, **changes: Any) -> bool:
        """Whether the best schedule still fails with these changes; then it is the best."""
        schedule = msgspec.structs.replace(self.best.schedule, **changes)
        for luck in range(_LUCK):
            if self.left <= 0:
                raise _Exhausted
            self.left -= 1
            self.runs += 1
            # With fewer messages other ones are lost and delayed: what is smaller may need other luck.
            tried = msgspec.structs.replace(schedule, seed=schedule.seed + luck)
            result = perform(tried, made=self.made)
            failed = bool(result.violations) and result.violations[0].kind == self.kind
            self.progress(self.runs, self.best.schedule)
            exact = self._exact(result) if failed else None
            if exact is not None:
                self.best = exact
                return True
        return False

    def _exact(self, result: Result) -> Result | None:
        """The result with the faults as they were done, so that it can be replayed event for event: if one
        waited for somebody to lead, it comes at that time now, and nobody waits."""
        if not any(fault.text.startswith((ONCE_LED, ONCE_ANOTHER_LEADS)) for fault in result.given.faults):
            return result
        again = perform(result.schedule, made=self.made)
        same = again.violations and again.violations[0].kind == self.kind
        return again if same else None

    def _end_early(self) -> None:
        """Nothing happens after the violation; a shorter load that shows it is found by halving."""
        at = self.best.violations[0].at
        if at < self.best.schedule.duration:
            self._fails(**self._until(at + 0.001))
        low, high = 0.0, self.best.schedule.duration
        while high - low > 0.1:
            middle = round((low + high) / 2, 3)
            if self._fails(**self._until(middle)):
                high = middle
            else:
                low = middle

    def _begin_early(self) -> None:
        """Nothing happens for a while at first: skip that."""
        schedule = self.best.schedule
        starts = [v.at for v in schedule.visits] + [f.start for f in schedule.faults]
        idle = round(min(starts, default=0.0) - 0.01, 3)
        if idle > 0.05:
            self._fails(
                duration=round(schedule.duration - idle, 3),
                visits=tuple(msgspec.structs.replace(v, at=round(v.at - idle, 6)) for v in schedule.visits),
                faults=tuple(
                    msgspec.structs.replace(
                        f,
                        start=round(f.start - idle, 6),
                        end=None if f.end is None else round(f.end - idle, 6),
                    )
                    for f in schedule.faults
                ),
            )

    def _until(self, end: float) -> dict[str, Any]:
        schedule = self.best.schedule
        return {
            "duration": end,
            "visits": tuple(v for v in schedule.visits if v.at < end),
            "faults": tuple(f for f in schedule.faults if f.start < end),
        }

    def _fewer_clients(self) -> None:
        """All that one client does, at once."""
        for client in range(self.best.schedule.clients):
            visits = self.best.schedule.visits
            rest = tuple(v for v in visits if v.client != client)
            if rest and len(rest) < len(visits):
                self._fails(visits=rest)

    def _leave_out(self, field: str) -> None:
        """ddmin: chunks of half, a quarter, … of the faults or the visits."""
        size = len(getattr(self.best.schedule, field))
        if field == "faults" and size and self._fails(faults=()):
            return
        chunk = -(-size // 2)
        while chunk:
            at = 0
            while at < len(items := getattr(self.best.schedule, field)):
                if len(items) == 1 or not self._fails(**{field: items[:at] + items[at + chunk :]}):
                    at += chunk
            chunk = chunk // 2 if chunk > 1 else 0

    def _certain_faults(self) -> None:
        """What happened to some messages happens to all: no luck is needed then."""
        for i, fault in enumerate(self.best.schedule.faults):
            if fault.kind in ("duplicate", "reorder") and fault.amount < 1:
                faults = self.best.schedule.faults
                certain = msgspec.structs.replace(fault, amount=1.0)
                self._fails(faults=(*faults[:i], certain, *faults[i + 1 :]))

    def _milder_faults(self) -> None:
        """Fewer processes in each fault, and shorter faults; a torn disk becomes a crash."""
        for i in range(len(self.best.schedule.faults)):

            def present(i: int = i) -> Fault:
                return self.best.schedule.faults[i]

            for milder in _milder(present(), present):
                faults = self.best.schedule.faults
                self._fails(faults=(*faults[:i], milder, *faults[i + 1 :]))


def _milder(fault: Fault, present: Callable[[], Fault]) -> Iterator[Fault]:
    """Each from what the fault is by then: the last candidate may have been accepted."""
    if fault.kind == "crash" and fault.amount:
        yield msgspec.structs.replace(fault, amount=0.0)
    for side in ("sources", "targets"):
        for name in getattr(fault, side):
            rest = tuple(n for n in getattr(present(), side) if n != name)
            if rest:
                yield msgspec.structs.replace(present(), **{side: rest})
    if fault.both_ways:
        for sources, targets in ((fault.sources, fault.targets), (fault.targets, fault.sources)):
            if present().both_ways and present().sources == sources:
                yield msgspec.structs.replace(present(), targets=targets, both_ways=False)
    for _ in range(3):
        now = present()
        if now.end is not None and now.end - now.start > 0.05:
            yield msgspec.structs.replace(now, end=round((now.start + now.end) / 2, 6))


def _size(schedule: Schedule) -> tuple[int, int, float]:
    names = sum(len(f.sources) + len(f.targets) + f.both_ways for f in schedule.faults)
    return len(schedule.visits) + len(schedule.faults), names, round(schedule.duration, 2)
