"""The same comparison at several values of one parameter: of the architectures, the job, or the load.

Each round is a comparison of its own at each value, with a seed of its own (the first round's is the one
that was given).  Simulations run on all cores.  Live systems have the machine for themselves: rounds are the
outer loop, and the values are taken upwards and downwards in turn, so that a machine that is slower for a
while is slower for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from polyarch.core.job import Measure
from polyarch.core.records import Record
from polyarch.experiment.compare import Pace, compare
from polyarch.experiment.laws import spread_out
from polyarch.experiment.record import RunRecord, Spread
from polyarch.experiment.run import Question

__all__ = ["Axis", "BreakEven", "Sweep", "SweepPoint", "sweep"]


class Axis(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What is varied."""

    parameter: str
    """``nodes``, ``rate``, ``latency``."""
    values: tuple[str, ...]
    """As they were written."""
    places: tuple[float, ...] = ()
    """The same as numbers, ascending; empty for what is no number, which has no break-even."""
    unit: str = ""
    """Of the numbers."""


class SweepPoint(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One architecture at one value."""

    architecture: str
    value: str
    place: float | None = None
    """The value as a number."""
    figures: dict[str, Spread] = {}
    """By name, in the order of the rounds; what was not measured in each of them is absent."""
    runs: tuple[RunRecord, ...]
    """One for each round."""


class BreakEven(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Where one architecture overtakes another by one figure."""

    figure: str
    unit: str = ""
    overtakes: str
    """Who is better above this place; of a figure of which neither more nor less is better: who has more."""
    overtaken: str
    at: float
    """In the unit of the parameter; between two values that were measured it is interpolated."""
    low: float | None = None
    """The 95 % interval, from how far the rounds lie apart; absent with one round."""
    high: float | None = None
    share: float | None = None
    """How likely it is that there is such a break-even at all, between the first and the last value."""


class Sweep(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Several architectures at several values of one parameter."""

    job: str
    runtime: str
    axis: Axis
    architectures: tuple[str, ...]
    unaffected: tuple[str, ...] = ()
    """Those that do not have the parameter, or have a value of their own: they are the same at each."""
    rounds: int
    points: tuple[SweepPoint, ...]
    """By architecture, then by value."""
    measures: tuple[Measure, ...] = ()
    break_even: tuple[BreakEven, ...] = ()
    sentences: tuple[str, ...] = ()
    """What it comes to; the first one is the answer."""

    @property
    def holds(self) -> bool:
        """Whether every run has kept its promises."""
        return all(run.holds for point in self.points for run in point.runs)

    def of(self, architecture: str) -> list[SweepPoint]:
        """The points of one architecture, in the order of the values."""
        return [point for point in self.points if point.architecture == architecture]


def sweep(
    axis: Axis, asked: Sequence[tuple[Sequence[Question], Pace]], *, unaffected: Sequence[str] = ()
) -> Sweep:
    """Measure.  ``asked``: for each value of the axis the questions, one for each architecture, and the pace,
    whose rounds are as many comparisons."""
    first = asked[0][0]
    rounds = asked[0][1].rounds
    order = range(len(asked))
    jobs = [
        (round_, at) for round_ in range(rounds) for at in (order if round_ % 2 == 0 else reversed(order))
    ]

    def tell(part: float) -> None:
        first[0].progress(f"{round(part * len(jobs))} of {len(jobs)} comparisons", 0.0, None)

    if first[0].runtime == "sim" and len(jobs) > 1:  # they do not disturb each other: all cores
        _asked[:] = asked
        tell(0.0)
        results = spread_out(_in_silence, jobs, tell)
        _asked.clear()
    else:
        results = [_compared(asked[at], round_) for round_, at in jobs]
    runs: dict[tuple[int, int], list[RunRecord]] = {}
    for (_, at), compared in zip(jobs, results):
        for i, run in enumerate(compared):
            runs.setdefault((i, at), []).append(run)
    places = axis.places or (None,) * len(axis.values)
    names = [question.called for question in first]
    return Sweep(
        job=type(first[0].job).name,
        runtime=first[0].runtime,
        axis=axis,
        architectures=tuple(names),
        unaffected=tuple(unaffected),
        rounds=rounds,
        points=tuple(
            SweepPoint(architecture=name, value=axis.values[at], place=places[at], runs=tuple(runs[i, at]))
            for i, name in enumerate(names)
            for at in range(len(asked))
        ),
        measures=type(first[0].job).measures,
    )


def _compared(asked: tuple[Sequence[Question], Pace], round_: int) -> list[RunRecord]:
    """One comparison, with the seed of its round: the records in the order of the questions."""
    questions, pace = asked
    # Nobody is always the first.
    turn = [(i + round_) % len(questions) for i in range(len(questions))]
    seeded = [dataclasses.replace(questions[i], seed=questions[i].seed + round_) for i in turn]
    result = compare(seeded, dataclasses.replace(pace, rounds=1))
    return [run for _, run in sorted(zip(turn, result.runs), key=lambda pair: pair[0])]


_asked: list[tuple[Sequence[Question], Pace]] = []
"""What is asked at each value, for the processes that are forked from this one."""


def _in_silence(job: tuple[int, int]) -> list[RunRecord]:
    """One comparison in a process of its own, which is not to write on the terminal."""
    round_, at = job
    questions, pace = _asked[at]
    quiet = [dataclasses.replace(question, progress=_nobody) for question in questions]
    return _compared((quiet, pace), round_)


def _nobody(phase: str, done: float, total: float | None) -> None:
    """Told, and tells nobody."""
