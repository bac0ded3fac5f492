"""The same comparison at several values of one parameter: of the architectures, the job, or the load.

Each round is a comparison of its own at each value, with a seed of its own (the first round's is the one
that was given).  Rounds are the outer loop, and the values are taken upwards and downwards in turn, so that a
machine that is slower for a while is slower for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from polyarch.core.job import Measure
from polyarch.core.records import Record
from polyarch.experiment.compare import Pace, compare
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
    """The 95 % interval of a bootstrap over the rounds; absent with one round."""
    high: float | None = None
    share: float | None = None
    """The share of the resampled measurements in which there is such a break-even at all."""


class Sweep(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Several architectures at several values of one parameter."""

    job: str
    runtime: str
    axis: Axis
    architectures: tuple[str, ...]
    unaffected: tuple[str, ...] = ()
    """Those that do not have the parameter: they are the same at each value."""
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
    runs: dict[tuple[int, int], list[RunRecord]] = {}
    for round_ in range(rounds):
        order = range(len(asked))
        for at in order if round_ % 2 == 0 else reversed(order):
            questions, pace = asked[at]
            # Nobody is always the first.
            turn = [(i + round_) % len(questions) for i in range(len(questions))]
            seeded = [dataclasses.replace(questions[i], seed=questions[i].seed + round_) for i in turn]
            result = compare(seeded, dataclasses.replace(pace, rounds=1))
            for i, run in zip(turn, result.runs):
                runs.setdefault((i, at), []).append(run)
    places = axis.places or (None,) * len(axis.values)
    names = [type(question.architecture).name for question in first]
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
