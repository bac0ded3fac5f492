"""What a sweep comes to: the figures at each value, who overtakes whom where, and that in one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from polyarch.core.job import Job
from polyarch.core.system import Architecture
from polyarch.experiment.record import RunRecord, Spread
from polyarch.experiment.sweep import BreakEven, Sweep, SweepPoint
from polyarch.measure.crossing import crossings
from polyarch.report.figures import CHURN, FIGURES, P99, SATURATION, Figure, measured, number
from polyarch.report.table import plain_table

__all__ = ["complete", "figures_of_sweep", "names_of_figures", "sweep_table"]

_SURE = 0.95
"""A break-even that is in less of what might have been measured is not certain."""
_UNCERTAIN = "not certain"
_FIRST = (SATURATION.name, P99.name, "latency p50", "messages per operation")
"""By which figures the answer is given, if nobody says another: the first that has a break-even."""
_OF_NO_INTEREST = ("offered rate", "operations", "throughput")
"""What the load decides: no figures of an architecture."""


def figures_of_sweep(sweep: Sweep) -> list[Figure]:
    """The job's own figures, those that all jobs have, and the architectures' own metrics."""
    of_load = () if sweep.axis.parameter in ("rate", "clients") else _OF_NO_INTEREST
    common = (f for f in (*CHURN, *FIGURES) if f.name not in of_load)
    known = [*map(measured, sweep.measures), *common]
    own = {
        name: None
        for point in sweep.points
        for run in point.runs
        for name, value in run.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    names = {figure.name for figure in known}
    return known + [_own(name) for name in own if name not in names]


def names_of_figures(job: type[Job], kinds: Iterable[type[Architecture]]) -> list[str]:
    """What can be asked for by name, before anything was measured."""
    own = [*(m.name for m in job.measures), *(name for kind in kinds for name in kind.metrics)]
    return list(dict.fromkeys([*own, *(f.name for f in (*CHURN, *FIGURES))]))


def _own(name: str) -> Figure:
    def value(run: RunRecord) -> float | None:
        metric = run.metrics.get(name)
        return metric if isinstance(metric, int | float) else None

    return Figure(name, "", None, value)


def complete(sweep: Sweep, figure: str | None = None) -> Sweep:
    """The sweep with its figures, its break-evens, and its sentences; the first of them by ``figure``.
    ``ValueError`` if there is no figure of that name."""
    figures = figures_of_sweep(sweep)
    points = tuple(
        msgspec.structs.replace(point, figures={f.name: s for f in figures if (s := _spread(f, point))})
        for point in sweep.points
    )
    sweep = msgspec.structs.replace(sweep, points=points)
    there = {name for point in points for name in point.figures}
    if figure is not None and figure not in there:
        raise ValueError(f"--figure: nothing is called {figure!r}; measured were {', '.join(sorted(there))}")
    order = [figure] if figure else [*_FIRST, *(f.name for f in figures)]
    declared = {measure.name for measure in sweep.measures}
    judged = [f for f in figures if f.name not in _OF_NO_INTEREST and (f.better or f.name in declared)]
    chosen = next((f for f in figures if f.name == figure), None)
    if chosen is not None and chosen not in judged:
        judged.append(chosen)
    judged.sort(key=lambda f: order.index(f.name) if f.name in order else len(order))
    found = tuple(b for f in judged for b in _break_evens(sweep, f)) if sweep.axis.places else ()
    sweep = msgspec.structs.replace(sweep, break_even=found)
    return msgspec.structs.replace(sweep, sentences=tuple(_sentences(sweep, judged, chosen)))


def _spread(figure: Figure, point: SweepPoint) -> Spread | None:
    values = [value for run in point.runs if (value := figure.value(run)) is not None]
    return Spread.of(values) if len(values) == len(point.runs) else None


# -- who overtakes whom -----------------------------------------------------------------------------------


def _break_evens(sweep: Sweep, figure: Figure) -> list[BreakEven]:
    """Of each pair, by the values at which both were measured."""
    series = {
        name: {
            place: point.figures[figure.name].runs
            for place, point in zip(sweep.axis.places, sweep.of(name))
            if figure.name in point.figures
        }
        for name in sweep.architectures
    }
    result = []
    for one, other in itertools.combinations(series, 2):
        places = [place for place in series[one] if place in series[other]]
        if len(places) < 2:
            continue
        first, second = ([series[name][place] for place in places] for name in (one, other))
        rng = np.random.default_rng(0)  # the same measurements have the same intervals
        for c in crossings(places, first, second, rng):
            ahead = c.rises == (figure.better != "low")
            result.append(
                BreakEven(
                    figure=figure.name,
                    unit=figure.unit,
                    overtakes=one if ahead else other,
                    overtaken=other if ahead else one,
                    at=_rounded(c.at),
                    low=None if c.low is None else _rounded(c.low),
                    high=None if c.high is None else _rounded(c.high),
                    share=c.share,
                )
            )
    return result


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _leaders(sweep: Sweep, figure: Figure) -> list[list[str]]:
    """Who is best at each value, several if they are equal; nobody where fewer than two were measured."""
    leaders = []
    for value in sweep.axis.values:
        means = {
            p.architecture: float(np.mean(p.figures[figure.name].runs))
            for p in sweep.points
            if p.value == value and figure.name in p.figures
        }
        best = (min if figure.better == "low" else max)(means.values(), default=0.0)
        leaders.append([name for name, mean in means.items() if mean == best] if len(means) > 1 else [])
    return leaders


# -- in words ---------------------------------------------------------------------------------------------


def _sentences(sweep: Sweep, figures: Sequence[Figure], chosen: Figure | None) -> list[str]:
    """One for each figure that has a break-even, those first that are certain; or one that says that there
    is none."""
    said = [(figure, text) for figure in figures if (text := _sentence(sweep, figure))]
    said.sort(key=lambda pair: (pair[0] is not chosen, _UNCERTAIN in pair[1]))
    if chosen is not None and all(figure is not chosen for figure, _ in said):
        said.insert(0, (chosen, _none(sweep, chosen)))
    texts = [text for _, text in said]
    if chosen is None and all(_UNCERTAIN in text for text in texts) and len(sweep.architectures) > 1:
        told = {figure.name for figure, _ in said}
        there = [f for f in figures if any(f.name in point.figures for point in sweep.points)]
        if there and sweep.axis.places and there[0].name not in told:
            texts.insert(0, _none(sweep, there[0]))
    return texts


def _sentence(sweep: Sweep, figure: Figure) -> str:
    """Who is best from where to where, if that changes."""
    found = [b for b in sweep.break_even if b.figure == figure.name]
    if not found:
        return ""
    if figure.better is None:
        return f"{figure.name}: " + "; ".join(
            f"{b.overtakes} has more than {b.overtaken} from {_at(sweep, b)}" for b in found[:3]
        )
    if len(sweep.architectures) == 2:
        return f"{figure.name}: " + ", and ".join(
            f"{b.overtakes} overtakes {b.overtaken} at {_at(sweep, b)}" for b in found
        )
    return _relay(sweep, figure, found)


def _relay(sweep: Sweep, figure: Figure, found: Sequence[BreakEven]) -> str:
    """``latency p99: flooding is best up to nodes = 100, then chord``"""
    words: list[str] = []
    best: list[str] = []
    since = 0.0  # the last value at which they were
    for place, leaders in zip(sweep.axis.places, _leaders(sweep, figure)):
        still = [name for name in best if name in leaders]
        if best and leaders and not still:
            between = [
                b for b in found if b.overtakes in leaders and b.overtaken in best and since <= b.at <= place
            ]
            where = _at(sweep, between[0]) if between else f"between {number(since)} and {number(place)}"
            words.append(f"{_all(best)}{'' if words else _are(best)} up to {where}")
        if leaders:
            best, since = still or leaders, place
    if words:
        return f"{figure.name}: {', then '.join([*words, _all(best)])}"
    behind = [b for b in found if b.overtakes not in best and b.overtaken not in best]
    if not best or not behind:
        return ""
    others = " and ".join(f"{b.overtakes} overtakes {b.overtaken} at {_at(sweep, b)}" for b in behind[:2])
    return f"{figure.name}: {_all(best)}{_are(best)} at each {sweep.axis.parameter}; behind, {others}"


def _all(names: Sequence[str]) -> str:
    return " and ".join(names)


def _are(names: Sequence[str]) -> str:
    return " are best" if len(names) > 1 else " is best"


def _at(sweep: Sweep, b: BreakEven) -> str:
    """``nodes = 128 (110 to 150, 95 % of 5 rounds)``"""
    unit = f" {sweep.axis.unit}" if sweep.axis.unit else ""
    text = f"{sweep.axis.parameter} = {number(b.at)}{unit}"
    if b.low is None or b.high is None:
        return f"{text} (one round: how sure that is was not measured)"
    sure = f"95 %, of {sweep.rounds} rounds"
    if b.share is not None and b.share < _SURE:
        sure = f"{_UNCERTAIN}: with a chance of {100 * b.share:.0f} % only"
    return f"{text} ({number(b.low)} to {number(b.high)}; {sure})"


def _none(sweep: Sweep, figure: Figure) -> str:
    first, last = (number(p) for p in (sweep.axis.places[0], sweep.axis.places[-1]))
    where = f"from {sweep.axis.parameter} = {first} to {last}"
    best = list(sweep.architectures)
    for leaders in _leaders(sweep, figure) if figure.better else [[]]:
        best = [name for name in best if name in leaders]
    if 0 < len(best) < len(sweep.architectures):
        return f"{figure.name}: no break-even {where}, {_all(best)}{_are(best)} at each"
    return f"{figure.name}: no break-even {where}"


# -- tables -----------------------------------------------------------------------------------------------


def sweep_table(sweep: Sweep, only: Sequence[str] = ()) -> RenderableType:
    """Values as columns; of each figure a row for each architecture, the best of a column marked.  ``only``:
    of these figures, by name, in this order, though they be all 0."""
    unit = f" ({sweep.axis.unit})" if sweep.axis.unit else ""
    table: Table = plain_table(
        f"{sweep.job} on {sweep.runtime}: {sweep.axis.parameter}{unit} varied, {sweep.rounds} rounds",
        caption="* best, or equal to the best; ± the farthest round",
    )
    table.add_column("", no_wrap=True)
    labels = _labels(sweep.architectures)
    same = labels[0] not in sweep.architectures
    table.add_column(sweep.architectures[0].partition(":")[0] if same else "architecture", overflow="fold")
    for value in sweep.axis.values:
        table.add_column(escape(value), justify="right")
    figures = figures_of_sweep(sweep)
    if only:
        figures = sorted((f for f in figures if f.name in only), key=lambda f: only.index(f.name))
    for figure in figures:
        rows = {name: sweep.of(name) for name in sweep.architectures}
        rows = {name: row for name, row in rows.items() if any(figure.name in p.figures for p in row)}
        spreads = [s for row in rows.values() for p in row if (s := p.figures.get(figure.name))]
        if not only and not any(s.high for s in spreads):
            continue  # nothing failed, nothing was lost: no line for each thing that did not happen
        winners = [_best(figure, [row[at] for row in rows.values()]) for at in range(len(sweep.axis.values))]
        heading = f"{figure.name} ({figure.unit})" if figure.unit else figure.name
        for line, (name, row) in enumerate(rows.items()):
            cells = [_cell(point.figures.get(figure.name), line in best) for point, best in zip(row, winners)]
            label = labels[sweep.architectures.index(name)]
            table.add_row("" if line else escape(heading), escape(label), *cells)
        table.add_section()
    notes = [
        Text(f"{name} is the same at each {sweep.axis.parameter}", style="dim") for name in sweep.unaffected
    ]
    wrong = dict.fromkeys(
        f"{run.architecture} at {point.value}: DOES NOT HOLD {verdict.name}"
        for point in sweep.points
        for run in point.runs
        for verdict in run.verdicts
        if verdict.broken
    )
    notes += [Text(line, style="bold red") for line in wrong]
    return Group(table, *notes)


def _labels(names: Sequence[str]) -> list[str]:
    """What tells contestants apart: of one architecture only their settings."""
    kinds = {name.partition(":")[0] for name in names}
    return [name.partition(":")[2] or name if len(kinds) == 1 and len(names) > 1 else name for name in names]


def _best(figure: Figure, points: Sequence[SweepPoint]) -> set[int]:
    """Of one column: the places of the best, and of who cannot be told apart from it."""
    spreads = [point.figures.get(figure.name) for point in points]
    there = [(s.median, i) for i, s in enumerate(spreads) if s is not None]
    if figure.better is None or len(there) < 2:
        return set()
    top = spreads[(min if figure.better == "low" else max)(there)[1]]
    assert top is not None
    winners = {i for i, s in enumerate(spreads) if s is not None and s.overlaps(top)}
    return winners if len(winners) < len(there) else set()


def _cell(spread: Spread | None, best: bool) -> Text:
    if spread is None:
        return Text("-  ", style="dim")
    text = number(spread.median)
    if len(spread.runs) > 1 and spread.plus_minus:
        text += f" ± {number(float(f'{spread.plus_minus:.2g}'))}"
    return Text(f"{text} *", style="bold green") if best else Text(f"{text}  ")
