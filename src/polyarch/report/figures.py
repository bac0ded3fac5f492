"""The figures that comparisons show, and the one way to write, rank and divide them.

Tables, verdicts and plots all read this list, so that they cannot disagree about what is better, what is
equal and how many digits a number deserves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from polyarch.experiment.record import (
    BlastRadius,
    Churned,
    Comparison,
    Cost,
    Latency,
    Measure,
    RunRecord,
    Spread,
    Verdict,
)

__all__ = [
    "CHURN",
    "FIGURES",
    "P99",
    "SATURATION",
    "Figure",
    "best",
    "checks",
    "churn",
    "equal",
    "figures_of",
    "measured",
    "number",
    "recovery",
    "times",
    "write",
]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run: how to find it, its unit, and which direction is better, if any."""

    name: str
    unit: str
    better: Literal["high", "low"] | None
    value: Callable[[RunRecord], float | None]
    """``None`` when it was not measured."""
    spread: Callable[[RunRecord], Spread | None] = lambda _run: None


def _latency(percentile: str) -> Figure:
    def value(run: RunRecord) -> float | None:
        latency: Latency | None = run.latency_ms
        return None if latency is None else getattr(latency, percentile)

    def spread(run: RunRecord) -> Spread | None:
        return (run.latency_rounds_ms or {}).get(percentile)

    return Figure(f"latency {percentile}", "ms", "low", value, spread)


def _cost(part: str, name: str = "") -> Figure:
    def value(run: RunRecord) -> float | None:
        cost: Cost | None = run.cost_per_operation
        return None if cost is None else getattr(cost, part)

    return Figure(f"{name or part} per operation", "", "low", value)


def _present(field: str) -> Callable[[RunRecord], float | None]:
    """Of several churns: of the first."""
    return lambda run: getattr(run.churn[0], field) if run.churn else None


def measured(measure: Measure) -> Figure:
    """A job's own figure."""

    def value(run: RunRecord) -> float | None:
        metric = run.metrics.get(measure.name)
        return measure.factor * metric if isinstance(metric, int | float) else None

    return Figure(measure.name, measure.unit, measure.better, value)


def _saturation(run: RunRecord) -> float | None:
    spread = run.saturation_throughput_per_s
    return None if spread is None else spread.median


SATURATION = Figure(
    "saturation throughput", "/s", "high", _saturation, lambda run: run.saturation_throughput_per_s
)
P99 = _latency("p99")
FIGURES: tuple[Figure, ...] = (
    SATURATION,
    Figure("offered rate", "/s", None, lambda run: run.rate_per_s),
    Figure("throughput", "/s", None, lambda run: run.throughput_per_s),
    _latency("p50"),
    _latency("p90"),
    P99,
    _latency("max"),
    Figure("operations", "", None, lambda run: run.operations.attempted),
    Figure("failed", "", "low", lambda run: run.operations.failed),
    Figure("unknown", "", "low", lambda run: run.operations.unknown),
    _cost("messages"),
    _cost("bytes"),
    _cost("hops", "message delays"),  # "hops" are those of an overlay: peers that pass a lookup on
    Figure("processes", "", "low", lambda run: run.processes),
    Figure("memory", "MB", "low", lambda run: run.memory_mb),
)


CHURN: tuple[Figure, ...] = (
    Figure("there under churn", "peers", None, _present("present_mean")),
    Figure("fewest there", "peers", None, _present("present_least")),
)
"""How many were there while peers came and went: by a Poisson process a few may become none."""


def figures_of(comparison: Comparison) -> tuple[Figure, ...]:
    """The figures of a comparison: its job's own, and those that all jobs have."""
    return (*map(measured, comparison.measures), *CHURN, *FIGURES)


def _decimals(value: float) -> int:
    size = abs(value)
    return 0 if size >= 100 or float(value).is_integer() else 1 if size >= 10 else 2 if size >= 1 else 3


def number(value: float) -> str:
    """About three digits, thousands marked: ``3,950``, ``12.4``, ``0.82``; whole numbers are exact."""
    text = f"{value:,.{_decimals(value)}f}"
    return text.rstrip("0").rstrip(".") if abs(value) < 1 and "." in text else text


def write(figure: Figure, run: RunRecord) -> str:
    """``3,950 ± 120``: the figure with its spread and without its unit; empty when it was not measured.
    A single round has no spread to state."""
    value = figure.value(run)
    if value is None:
        return ""
    spread = figure.spread(run)
    if spread is None or len(spread.runs) < 2:
        return number(value)
    return f"{number(value)} ± {spread.plus_minus:,.{_decimals(value)}f}"


def times(ratio: float) -> str:
    """``2.1x``; with more digits near one, where they matter, and fewer far away."""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x" if ratio >= 1.1 else f"{ratio:.2f}x"


def equal(figure: Figure, one: RunRecord, other: RunRecord) -> bool:
    """Whether two measured figures cannot be told apart: their ranges overlap, or, where there are no
    ranges, they are written the same."""
    spread, others = figure.spread(one), figure.spread(other)
    if spread is not None and others is not None and min(len(spread.runs), len(others.runs)) > 1:
        return spread.overlaps(others)
    return write(figure, one) == write(figure, other)


def best(figure: Figure, runs: Sequence[RunRecord]) -> frozenset[int]:
    """The positions of the best runs by this figure: one, or several that are equal; none when nothing
    distinguishes the runs, or when neither direction is better."""
    measured = [(value, at) for at, run in enumerate(runs) if (value := figure.value(run)) is not None]
    if figure.better is None or len(measured) < 2:
        return frozenset()
    _, top = (max if figure.better == "high" else min)(measured)
    winners = frozenset(at for _, at in measured if at == top or equal(figure, runs[at], runs[top]))
    return winners if len(winners) < len(measured) else frozenset()


def checks(verdicts: Collection[Verdict]) -> str:
    """``5 of 5 hold``, or ``3 of 3 promised`` where something that is not promised does not hold; empty when
    nothing was checked."""
    counted = [verdict for verdict in verdicts if verdict.holds or verdict.promised]
    held = f"{sum(verdict.holds for verdict in counted)} of {len(counted)}"
    return f"{held} {'hold' if len(counted) == len(verdicts) else 'promised'}" if verdicts else ""


def churn(churned: Churned) -> str:
    """``31 came, 29 left, 4 without a word; 57.4 there on average (52 to 61)``"""
    there = [] if churned.present_mean is None else [f"{number(churned.present_mean)} there on average"]
    there.append(f"{churned.present_least} to {churned.present_most} there at a time")
    gone = churned.left + churned.crashed
    done = f"{churned.joined} came, {gone} left ({churned.crashed} of them without a word)"
    if churned.void:
        done += f"; {churned.void} times nobody could"
    return f"{done}; {', '.join(there)}"


def recovery(card: BlastRadius) -> str:
    """``1.2 s``, or that it did not recover and how long was waited for it."""
    if card.recovery_s is not None:
        return f"{number(card.recovery_s)} s"
    return "did not recover" + (f" in {number(card.window_s)} s" if card.window_s is not None else "")
