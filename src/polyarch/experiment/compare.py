"""Several architectures, the same job, the same seed, the same load: measured in turn, side by side.

All trials are open at once and take turns in short rounds (A B C D, A B C D, …), so that a machine that is
slower for a while is slower for all.  Then each role of each is killed in turn, under load.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from polyarch.core.job import Done
from polyarch.experiment.load import Load, LoadClient, LoadResult
from polyarch.experiment.record import BlastRadius, Comparison, RunRecord, Spread, environment
from polyarch.experiment.run import (
    Question,
    Trial,
    cost_of,
    failures_of,
    latency_of,
    load_of,
    operations_of,
)
from polyarch.measure.histogram import Histogram
from polyarch.runtimes.base import Experimenter

__all__ = ["Pace", "compare"]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long the parts of a comparison take, in seconds."""

    rounds: int = 3
    saturation: float = 1.0
    clients: int = 16
    """Closed-loop clients that saturate."""
    steady: float = 1.0
    """Open loop at the stated rate, per round."""
    before_kill: float = 0.2
    down: float = 0.5
    """From a kill to the restart: what a supervisor needs."""
    window: float = 1.5
    """Watched after a kill."""
    kills: bool = True
    """Whether to kill at all."""


def compare(questions: Sequence[Question], pace: Pace) -> Comparison:
    """Measure them all.  The questions differ in the architecture only."""
    trials: list[Trial] = []
    job, runtime = questions[0].job, questions[0].runtime
    try:
        for question in questions:
            trials.append(Trial(question))
        saturation: list[list[LoadResult]] = [[] for _ in trials]
        steady: list[list[LoadResult]] = [[] for _ in trials]
        # Code paths, caches and connections are warmed up before anything counts.
        for trial in trials:
            trial.load(Load(duration=pace.saturation / 4, clients=pace.clients, account=0), name="warming up")
        traced = questions[0].trace is not None
        for round_ in range(pace.rounds):
            # Each round begins with another one: nobody is always the first after a change of phase.
            order = [(i + round_) % len(trials) for i in range(len(trials))]
            for i in order:
                load = Load(duration=pace.saturation, clients=pace.clients, account=0)
                saturation[i].append(trials[i].load(load, name=f"saturation, round {round_ + 1}"))
            for i in order:
                load = load_of(dataclasses.replace(questions[i], duration=pace.steady))
                if traced and round_:
                    continue  # a trace's orders can be placed once
                faults = trials[i].faults if round_ == 0 else ()
                steady[i].append(trials[i].load(load, name=f"latency, round {round_ + 1}", faults=faults))
        footprints = [trial.footprint() for trial in trials]
        known = [trial.bytes_are_known() for trial in trials]
        cards: list[BlastRadius] = []
        for trial in trials:
            for role in trial.system.roles.values() if pace.kills else ():
                cards.append(_kill(trial, role.name, role.process_names()[0], pace))
        runs = [
            _record(trial, saturation[i], steady[i], footprints[i], known[i]) for i, trial in enumerate(trials)
        ]
        return Comparison(job=type(job).name, runtime=runtime, runs=tuple(runs), blast_radius=tuple(cards))
    finally:
        for trial in trials:
            trial.close()


def _record(
    trial: Trial,
    saturation: Sequence[LoadResult],
    steady: Sequence[LoadResult],
    footprint: tuple[int | None, float | None],
    bytes_known: bool,
) -> RunRecord:
    q = trial.question
    history = trial.history()
    verdicts, metrics = trial.verdicts(history)
    latency, by_operation = latency_of(steady)
    rounds = [latency_of([r])[0] for r in steady]
    seconds = sum(r.seconds for r in steady)
    codes = failures_of(history)
    if codes:
        metrics = {**metrics, "failures": codes}
    lateness = Histogram()
    for result in steady:
        lateness.merge(Histogram.from_dict(result.lateness))
    if lateness.count and q.runtime != "sim":
        metrics = {**metrics, "generator_lateness_ms": lateness.summary()}
    processes, memory = footprint
    load = load_of(dataclasses.replace(q, duration=1.0))
    return RunRecord(
        architecture=type(q.architecture).name,
        job=type(q.job).name,
        runtime=q.runtime,
        seed=q.seed,
        parameters={**q.architecture.values, **q.job.values},
        nodes=trial.nodes(),
        rate_per_s=load.rate,
        clients=load.clients,
        duration_s=round(seconds, 6),
        operations=operations_of(history),
        throughput_per_s=round(sum(r.in_time for r in steady) / seconds, 3) if seconds else None,
        latency_ms=latency,
        latency_by_operation_ms=by_operation or None,
        latency_rounds_ms={
            name: Spread.of(values)
            for name in ("p50", "p90", "p99", "max")
            if (values := [getattr(r, name) for r in rounds if r is not None])
        }
        or None,
        cost_per_operation=cost_of(steady, bytes_known),
        saturation_throughput_per_s=Spread.of(round(r.in_time / r.seconds, 1) for r in saturation),
        processes=processes,
        memory_mb=memory,
        faults=tuple(q.faults),
        verdicts=tuple(verdicts),
        metrics=metrics,
        trace_hash=trial.trace_hash,
        wall_s=round(time.monotonic() - trial.began, 3),
        environment=environment(),
    )


def _kill(trial: Trial, role: str, process: str, pace: Pace) -> BlastRadius:
    """Kill one process under load, restart it, and see what it cost."""
    q = trial.question
    rate = q.rate if q.rate is not None else q.job.rate
    times = {"kill": 0.0, "restart": 0.0, "up": 0.0}
    load = Load(duration=pace.before_kill + pace.window, rate=rate, account=0)
    trial._phase(f"killing {process}")

    async def experiment(x: Experimenter) -> LoadResult:
        task = x.spawn(x.at("loadclient", LoadClient).run(load))
        await x.sleep(pace.before_kill)
        times["kill"] = x.now
        await x.control.crash(process)
        await x.sleep(pace.down)
        times["restart"] = x.now
        await x.control.restart(process)
        times["up"] = x.now
        result: LoadResult = await task
        return result

    result = trial.perform(experiment)
    history = trial.history()[result.first :]
    hit = sorted((d for d in history if d.end >= times["kill"]), key=lambda d: d.intended)
    answers = q.job.answers
    bad = [d for d in hit if d.outcome != "ok" and d.code not in answers]
    lost = sum(d.outcome == "fail" for d in bad)
    unknown = sum(d.outcome == "info" for d in bad)
    recovery = _recovery(hit, bad, times["kill"])
    down = [d for d in hit if times["kill"] <= d.intended < times["restart"]]
    dead = _dead_kinds(down, answers)
    return BlastRadius(
        architecture=type(q.architecture).name,
        role=role,
        process=process,
        runtime=q.runtime,
        attempted=len(hit),
        lost=lost,
        unknown=unknown,
        recovery_s=recovery,
        single_point_of_failure=bool(dead),
        window_s=pace.window,
        rate_per_s=rate,
        detail=_detail(bad, dead, times["up"] - times["restart"]),
    )


def _recovery(hit: Sequence[Done], bad: Sequence[Done], kill: float) -> float | None:
    """Seconds from the kill until operations succeeded, and went on to: 0 if none failed, None if the
    last ones still did."""
    if not bad:
        return 0.0
    last = max(d.intended for d in bad)
    later = [d.end for d in hit if d.intended > last and d.outcome == "ok"]
    return round(max(0.0, min(later) - kill), 3) if later else None


def _dead_kinds(down: Sequence[Done], answers: frozenset[str]) -> list[str]:
    """Kinds of operation of which none succeeded while the process was down."""
    kinds: dict[str, list[bool]] = {}
    for done in down:
        kinds.setdefault(done.name, []).append(done.outcome == "ok" or done.code in answers)
    return sorted(name for name, succeeded in kinds.items() if not any(succeeded))


def _detail(bad: Sequence[Done], dead: Sequence[str], restart: float) -> str:
    parts = []
    if dead:
        parts.append(f"while it was down no {', '.join(dead)} succeeded")
    codes: dict[str, int] = {}
    for done in bad:
        codes[done.code] = codes.get(done.code, 0) + 1
    if codes:
        parts.append("; ".join(f"{n} x {code}" for code, n in sorted(codes.items())))
    parts.append(f"its restart took {restart:.2f} s")
    return "; ".join(parts)
