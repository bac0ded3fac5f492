"""How scalable is this?  The throughput at saturation for each of several sizes, and the law behind it.

At each size a closed loop gets twice as many clients again and again, until that gains less than 5 %: then
the system is saturated, and not its clients.  So many clients measure each round, with a seed and a
deployment of its own.  On ``sim`` virtual time is as long as it takes for the same number of operations,
however fast the system is; on ``local`` all sizes share the processors of one machine.

What came of it is not checked here (a checker of some 100,000 operations takes longer than they do): do that
with ``run`` and ``compare``.  Operations that fail are counted, and are no throughput.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from polyarch.core.records import Record
from polyarch.core.system import Architecture
from polyarch.experiment.load import Load, LoadResult
from polyarch.experiment.record import Cost, Environment, Latency, Spread, environment
from polyarch.experiment.run import Question, Trial, cost_of, latency_of
from polyarch.measure.scalability import Usl, bottleneck, fit
from polyarch.runtimes.base import SessionError
from polyarch.runtimes.sim.kernel import no_collector

__all__ = ["Coefficient", "Effort", "Scale", "ScaleLaw", "ScalePoint", "fitted", "scale", "size_parameter"]

_MAIN = ("nodes", "servers", "shards", "cores")
_LONGEST = 100.0
"""Virtual seconds of a measurement, at most."""
_FEWEST = 4
"""Clients to begin with."""
_GAIN = 1.05
"""Twice the clients bring less than this: it is saturated."""
_MUCH = 1.2
"""Twice the clients bring more than this, and there may be no more of them: it is not saturated."""
_LIKELIER = 3.0
"""A bottleneck explains the measurements better if they are e^3, 20, times likelier with it."""
_EXACT = 1e-3
"""A law that is off by less explains them."""


class Coefficient(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A figure of the fit, with its 95 % interval."""

    value: float
    low: float | None = None
    """Absent if there are no more measurements than coefficients."""
    high: float | None = None
    """Absent too where it has no end."""


class ScaleLaw(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The Universal Scalability Law X(N) = N X1 / (1 + a (N - 1) + b N (N - 1))."""

    one_per_s: Coefficient
    """X1: what one does, by the law."""
    contention: Coefficient
    """a"""
    coherence: Coefficient
    """b"""
    peak: Coefficient | None = None
    """The size of the highest throughput; absent if it never falls."""
    peak_at_least: float | None = None
    """If it never falls: the least size (2.5 %) at which it might have a peak nevertheless."""
    linear_to: float | None = None
    """Up to which size it has 90 % of so many times what one does; absent if at every size."""
    error: float
    """Root mean square of the relative residuals."""


class ScaleBottleneck(Record, frozen=True, kw_only=True):
    """Linear until something that all need is busy, and level from there on."""

    one_per_s: float
    cap_per_s: float
    error: float
    """Root mean square of the relative residuals."""


class ScalePoint(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One size."""

    size: int
    nodes: dict[str, int]
    """How many nodes each role had."""
    clients: int
    """Of the closed loop that saturated it."""
    saturated: bool = True
    """False: it might do more with more clients than there may be."""
    throughput_per_s: Spread
    """Successful operations, by round."""
    latency_ms: Latency | None = None
    """At saturation: it grows with the clients."""
    cost_per_operation: Cost | None = None
    unsuccessful: float
    """The share of the operations that did not succeed."""


class Scale(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An architecture at several sizes."""

    architecture: str
    job: str
    runtime: str
    parameter: str
    """Which of its parameters is the size."""
    seed: int
    rounds: int
    parameters: dict[str, Any]
    """The others, the job's too."""
    points: tuple[ScalePoint, ...]
    law: ScaleLaw
    bottleneck: ScaleBottleneck | None = None
    """What explains the measurements better than the law, if it does by far."""
    sentence: str = ""
    environment: Environment


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 3
    operations: int = 2000
    """Of each measurement on ``sim``; more with many clients, so that each has some 20; half of it to look
    for saturation."""
    seconds: float = 1.0
    """Of each measurement on other runtimes."""
    clients: int | None = None
    """None: as many as it takes to saturate it."""
    most_clients: int = 4096


def size_parameter(kind: type[Architecture]) -> str | None:
    """The parameter that says how large an architecture is; None if none does."""
    names = (kind.scales,) if kind.scales else _MAIN
    return next((name for name in names if name in kind.parameters), None)


def scale(ask: Callable[[int], Question], sizes: Sequence[int], effort: Effort, *, parameter: str) -> Scale:
    """Measure, and fit.  ``ask``: the question at a size."""
    found: dict[int, tuple[int, float, bool]] = {}
    results: dict[int, list[LoadResult]] = {size: [] for size in sizes}
    nodes: dict[int, dict[str, int]] = {}
    known = True
    for round_ in range(effort.rounds):
        for size in sizes if round_ % 2 == 0 else reversed(sizes):
            question = ask(size)
            question.seed += round_
            with no_collector() if question.runtime == "sim" else contextlib.nullcontext():
                trial = Trial(question)
                try:
                    nodes[size] = trial.nodes()
                    if size not in found:
                        # More of them need no fewer clients.
                        least = max((clients for clients, *_ in found.values()), default=_FEWEST)
                        found[size] = _saturating(trial, effort, min(least, effort.most_clients // 2))
                    clients, guess, _ = found[size]
                    results[size].append(_measured(trial, clients, effort, guess))
                    known = known and trial.bytes_are_known()
                finally:
                    trial.close()
    points = tuple(
        ScalePoint(
            size=size,
            nodes=nodes[size],
            clients=found[size][0],
            saturated=found[size][2],
            throughput_per_s=Spread.of(round(_throughput(r), 3) for r in results[size]),
            latency_ms=latency_of(results[size])[0],
            cost_per_operation=cost_of(results[size], known),
            unsuccessful=round(
                sum(r.failed + r.unknown for r in results[size])
                / max(1, sum(r.attempted for r in results[size])),
                6,
            ),
        )
        for size in sizes
    )
    question = ask(sizes[0])
    values = {**question.architecture.values, **question.job.values}
    return fitted(
        points,
        architecture=type(question.architecture).name,
        job=type(question.job).name,
        runtime=question.runtime,
        parameter=parameter,
        seed=question.seed,
        rounds=effort.rounds,
        parameters={name: value for name, value in values.items() if name != parameter},
    )


def fitted(points: Sequence[ScalePoint], *, parameter: str, **about: Any) -> Scale:
    """What was measured, with the law that fits; ``about``: the other fields of a ``Scale``."""
    runs = [(p.size, x) for p in points for x in p.throughput_per_s.runs]
    if idle := [size for size, x in runs if not x]:
        raise SessionError(f"at {parameter} {idle[0]} nothing succeeded in one of the rounds: nothing to fit")
    law = fit([size for size, _ in runs], [x for _, x in runs], np.random.default_rng(0))
    return Scale(
        parameter=parameter,
        points=tuple(points),
        law=_law(law),
        bottleneck=_bottleneck(runs, law),
        environment=environment(),
        **about,
    )


def _saturating(trial: Trial, effort: Effort, least: int) -> tuple[int, float, bool]:
    """So many clients, at least ``least``, that twice as many gain less than 5 %, and the throughput with
    them; False if there may not be so many, and the last ones have gained a lot."""
    clients = effort.clients or least
    # How fast it is is not known: a first look tells.
    for seconds in (0.05, 1.0):
        look = trial.load(Load(duration=seconds, clients=clients, account=0), phase="a first look")
        if look.in_time:
            break
    if not look.ok and look.attempted > 2 * clients:  # else it is only slow
        raise SessionError(_nothing(trial, look))
    guess = _throughput(look)
    before = _throughput(_measured(trial, clients, effort, guess, probe=True))
    if effort.clients is not None:
        return clients, before, True
    tried, in_vain, gain = clients, 0, 2.0
    # A machine that was busy with something else for half a second must not be taken for saturation.
    while 2 * tried <= effort.most_clients and in_vain < (1 if trial.question.runtime == "sim" else 2):
        tried *= 2
        now = _throughput(_measured(trial, tried, effort, 1.5 * before, probe=True))
        if now >= _GAIN * before:
            clients, before, in_vain, gain = tried, now, 0, now / before
        else:
            in_vain += 1
    return clients, before, in_vain > 0 or gain < _MUCH


def _measured(trial: Trial, clients: int, effort: Effort, guess: float, *, probe: bool = False) -> LoadResult:
    """A closed loop of so many clients for as long as it takes to see what it does; ``guess``: how many
    operations per second that may be."""
    label = f"{clients} clients" + (" (looking for saturation)" if probe else "")
    if trial.question.runtime != "sim":
        seconds = effort.seconds / 2 if probe else effort.seconds
        return trial.load(Load(duration=seconds, clients=clients, account=0 if probe else 1), phase=label)
    wanted = max(effort.operations, 20 * clients) / (2 if probe else 1)
    while True:
        seconds = min(_LONGEST, wanted / guess) if guess else _LONGEST
        result = trial.load(Load(duration=seconds, clients=clients, account=0 if probe else 1), phase=label)
        if result.in_time >= wanted / 2 or seconds >= _LONGEST:
            return result
        guess = min(_throughput(result), guess / 2)


def _nothing(trial: Trial, result: LoadResult) -> str:
    kind = trial.question.architecture
    codes = ", ".join(f"{n} x {code}" for code, n in sorted(result.codes.items()))
    return f"{kind.name}: no operation succeeded ({codes}), so there is no throughput that could scale"


def _throughput(result: LoadResult) -> float:
    return result.in_time / result.seconds if result.seconds else 0.0


def _law(law: Usl) -> ScaleLaw:
    def figure(interval: Any) -> Coefficient:
        value, low, high = (_finite(v) for v in (interval.value, interval.low, interval.high))
        assert value is not None
        return Coefficient(value=value, low=low, high=high)

    return ScaleLaw(
        one_per_s=figure(law.one),
        contention=figure(law.contention),
        coherence=figure(law.coherence),
        peak=None if law.peak is None else figure(law.peak),
        peak_at_least=_finite(law.peak_at_least) if law.peak is None else None,
        linear_to=_finite(law.linear_to()),
        error=float(f"{law.error:.4g}"),
    )


def _bottleneck(runs: Sequence[tuple[int, float]], law: Usl) -> ScaleBottleneck | None:
    """Only where that is far more likely than the law, which has a coefficient more."""
    sizes, throughputs = [size for size, _ in runs], [x for _, x in runs]
    found = bottleneck(sizes, throughputs)
    if found is None or law.error < _EXACT or found.cap > 0.95 * max(sizes) * found.one:
        return None
    # The logarithm of how many times likelier the measurements are, if errors are normal.
    if len(runs) * math.log(law.error / max(found.error, _EXACT)) < _LIKELIER:
        return None
    one, cap, error = (float(f"{value:.6g}") for value in (found.one, found.cap, found.error))
    return ScaleBottleneck(one_per_s=one, cap_per_s=cap, error=error)


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
