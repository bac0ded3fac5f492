"""Several architectures, the same job, the same seed, the same load: measured in turn, side by side.

All trials are open at once and take turns in short rounds (A B C D, B C D A, …), so that a machine that is
slower for a while is slower for all.  The visits behind the latencies are decided beforehand: each
architecture is asked for the same ones at the same times.  Then each role of each is killed, under load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from polyarch.core.job import Done
from polyarch.experiment.load import Load, LoadClient, LoadResult
from polyarch.experiment.record import BlastRadius, Comparison, RunRecord, Spread
from polyarch.experiment.run import Question, Trial, latency_of, load_of, record_of
from polyarch.measure.histogram import Histogram
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.kernel import no_collector

__all__ = ["Outage", "Pace", "compare"]

_LONGEST = 30.0
"""Seconds in which something is saturated, on ``sim``, and in which others may take over, at most (about)."""
_MORE = 1.2
"""So many times what the clients of a closed loop get, an open loop does not carry if they saturate."""
_SLOWER = 1.5
"""So many times as long as in an open loop that is no overload, answers take if a closed loop saturates."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long the parts of a comparison take, in seconds."""

    rounds: int = 3
    saturation: float = 1.0
    clients: int = 16
    """Closed-loop clients that saturate."""
    steady: float = 1.0
    """Open loop at the stated rate, per round."""
    before_kill: float = 0.1
    down: float = 0.3
    """From a kill to the restart: what a supervisor needs."""
    window: float = 0.9
    """Watched after a kill."""
    long: float = 0.8
    """Down that long a second time, if operations only waited: did they wait for this process?"""
    kills: bool = True
    """Whether to kill at all."""
    takeover: float = 0.0
    """From a kill until others have taken over, if they ever do: judged is what fails from then on."""
    replicas: int = 1
    """How many processes of a role are killed, one after another; the card is of the costliest."""

    @classmethod
    def of(cls, runtime: str, *, rounds: int, seconds: float, clients: int, kills: bool) -> Pace:
        """``seconds`` of load for each figure.  Virtual time is cheap: there more processes are killed."""
        replicas = 5 if runtime == "sim" else 1
        each = seconds / rounds
        return cls(rounds, each, clients, each, kills=kills, replicas=replicas)

    def for_slow(self, longest: float) -> Pace:
        """The same for a system whose operations take up to ``longest`` seconds: it must be down for longer
        than they wait, or else nothing is learnt from those that succeed."""
        down = 2 * longest
        if down <= self.down:
            return self
        few = min(self.replicas, 2)
        return dataclasses.replace(self, down=down, window=2 * down, long=1.5 * down, replicas=few)

    def for_takeover(self, seconds: float) -> Pace:
        """The same for a system in which others take over after so many seconds."""
        down = 1.2 * seconds + self.down
        if not 0 < seconds <= _LONGEST or down <= self.down:
            return self
        few, long = min(self.replicas, 2), max(self.long, down)
        window = down + self.window
        return dataclasses.replace(self, takeover=seconds, down=down, window=window, long=long, replicas=few)


def compare(questions: Sequence[Question], pace: Pace) -> Comparison:
    """Measure them all.  The questions differ in the architecture only."""
    with no_collector() if questions[0].runtime == "sim" else contextlib.nullcontext():
        return _compare(questions, pace)


def _compare(questions: Sequence[Question], pace: Pace) -> Comparison:
    trials: list[Trial] = []
    job, runtime = questions[0].job, questions[0].runtime
    # While peers come and go, figures are to be of the stated load alone.
    saturates = job.saturates and not any(q.churn for q in questions)
    steady_load = [load_of(dataclasses.replace(q, duration=pace.steady)) for q in questions]
    traced = questions[0].trace is not None
    rounds = [msgspec.structs.replace(steady_load[0], name=f"round {r + 1}") for r in range(pace.rounds)]
    # A trace's orders can be placed once.
    rounds = rounds[:1] if traced else rounds
    try:
        for question in questions:
            trials.append(Trial(question, duration=steady_load[0].duration))
        saturation: list[list[LoadResult]] = [[] for _ in trials]
        steady: list[list[LoadResult]] = [[] for _ in trials]
        for trial in trials:
            trial.plan([load for load in rounds if load.rate is not None])
        # Code paths, caches and connections are warmed up before anything counts.
        saturating = [_warmed_up(trial, pace) if saturates else 0.0 for trial in trials]
        for round_ in range(pace.rounds):
            # Each round begins with another one: nobody is always the first after a change of phase.
            order = [(i + round_) % len(trials) for i in range(len(trials))]
            for i in order if saturates else ():
                load = Load(duration=saturating[i], clients=pace.clients, account=0)
                saturation[i].append(trials[i].load(load, phase=f"saturation, round {round_ + 1}"))
            for i in order if round_ < len(rounds) else ():
                faults = trials[i].faults if round_ == 0 else ()
                phase = f"latency, round {round_ + 1}"
                result = trials[i].load(rounds[round_], phase=phase, faults=faults, churn=True)
                steady[i].append(result)
        for trial in trials:
            trial.end_churn()
        footprints = [trial.footprint() for trial in trials]
        measured = [trial.measured() for trial in trials]
        known = [trial.bytes_are_known() for trial in trials]
        cards: list[BlastRadius] = []
        for i, trial in enumerate(trials):
            usual = {name: latency.max * 1e-3 for name, latency in latency_of(steady[i])[1].items()}
            own = pace.for_slow(max(usual.values(), default=0.0))
            own = own.for_takeover(trial.question.architecture.takeover)
            for role in trial.system.roles.values() if pace.kills else ():
                names = role.process_names()[: own.replicas]
                cards.append(max((_kill(trial, role.name, n, own, usual) for n in names), key=_damage))
        runs = [
            _record(trial, rounds[0], saturation[i], steady[i], footprints[i], known[i], measured[i])
            for i, trial in enumerate(trials)
        ]
        return Comparison(
            job=type(job).name,
            runtime=runtime,
            runs=tuple(runs),
            blast_radius=tuple(cards),
            measures=type(job).measures,
        )
    finally:
        for trial in trials:
            trial.close()


def _warmed_up(trial: Trial, pace: Pace) -> float:
    """Warm it up; for how long it is to be saturated.  Where operations take long, so long that each client
    does some ten of them, if time is virtual: what has not ended in time does not count."""
    seconds = pace.saturation
    while True:
        warm = Load(duration=seconds / 4, clients=pace.clients, account=0)
        result = trial.load(warm, phase="warming up")
        few = result.attempted < 3 * pace.clients
        if not few or trial.question.runtime != "sim" or seconds >= _LONGEST:
            return seconds
        seconds *= 2


def _record(
    trial: Trial,
    load: Load,
    saturation: Sequence[LoadResult],
    steady: Sequence[LoadResult],
    footprint: tuple[int | None, float | None],
    bytes_known: bool,
    measured: Mapping[str, Any],
) -> RunRecord:
    record = record_of(trial, load, steady, footprint, bytes_known, measured)
    rounds = [latency_of([r])[0] for r in steady]
    carried = [round(r.in_time / r.seconds, 1) for r in saturation]
    idle = carried and _idle(record.runtime, carried, saturation, steady)
    return msgspec.structs.replace(
        record,
        latency_rounds_ms={
            name: Spread.of(values)
            for name in ("p50", "p90", "p99", "max")
            if (values := [getattr(r, name) for r in rounds if r is not None])
        }
        or None,
        saturation_throughput_per_s=Spread.of(carried) if carried and not idle else None,
    )


def _idle(
    runtime: str, carried: Sequence[float], saturation: Sequence[LoadResult], steady: Sequence[LoadResult]
) -> bool:
    """Whether the clients of the closed loop have evidently not saturated the system: an open loop carries
    more; or, where time is virtual and so exact, they are answered about as fast as ever, so that more of
    them would get more.  Then what it can carry is not known."""
    offered = max((r.attempted / r.seconds for r in steady if r.seconds), default=0.0)
    in_time = max((r.in_time / r.seconds for r in steady if r.seconds), default=0.0)
    if in_time > _MORE * max(carried):
        return True
    closed, usual = _typical(saturation), _typical(steady)
    if runtime != "sim" or not closed or not usual:
        return False
    overload = _MORE * offered > max(carried) and usual > _MORE * closed
    return closed < _SLOWER * usual and not overload


def _typical(results: Sequence[LoadResult]) -> float:
    """The mean latency, ns, without the tenth that took longest (which a fault may have made so); 0: none."""
    merged = Histogram()
    for data in (data for result in results for data in result.latency.values()):
        merged.merge(Histogram.from_dict(data))
    return sum(merged.percentile(percent) or 0 for percent in range(5, 90, 10)) / 9


@dataclasses.dataclass
class Outage:
    """What a kill did to the operations of a load.  Times are those of the history."""

    kill: float
    restart: float
    """When the restart began."""
    hit: list[Done]
    """Operations that ended after the kill, in the order in which they were to begin."""
    answers: frozenset[str]
    """Codes of refusals that are proper answers."""
    usual: dict[str, float]
    """The longest time that each kind of operation took when nothing was broken."""
    takeover: float = 0.0
    """Seconds after the kill in which others were to take over."""

    def succeeded(self, done: Done) -> bool:
        return done.outcome == "ok" or done.code in self.answers

    def stalled(self, done: Done) -> bool:
        """Whether it took more than twice as long as any of its kind before, and a tenth of a second."""
        return done.end - done.intended > max(0.1, 2 * self.usual.get(done.name, 0.0))

    @property
    def bad(self) -> list[Done]:
        """Operations that were lost, or whose outcome is unknown."""
        return [d for d in self.hit if not self.succeeded(d)]

    @property
    def recovery(self) -> float | None:
        """Seconds from the kill to the first success after the last operation that failed or stalled."""
        disturbed = [d.intended for d in self.hit if not self.succeeded(d) or self.stalled(d)]
        if not disturbed:
            return 0.0
        later = [d.end for d in self.hit if d.intended > max(disturbed) and self.succeeded(d)]
        return round(max(0.0, min(later) - self.kill), 3) if later else None

    @property
    def dead(self) -> list[str]:
        """Kinds of operation of which none succeeded before the process was back, after others were to take
        over from it.  One that began so late that it would have ended after that anyway shows nothing."""
        kinds: dict[str, list[bool]] = {}
        for d in self.hit:
            if self.kill + self.takeover <= d.intended < self.restart - self.usual.get(d.name, 0.0):
                kinds.setdefault(d.name, []).append(self.succeeded(d) and d.end <= self.restart)
        return sorted(name for name, succeeded in kinds.items() if not any(succeeded))

    @property
    def undecided(self) -> bool:
        """Whether some kind of operation waited and then succeeded: for this process, or for another that
        took over too late to tell?"""
        failed = {d.name for d in self.bad if d.intended < self.restart}
        return any(name not in failed for name in self.dead)


def _kill(trial: Trial, role: str, process: str, pace: Pace, usual: dict[str, float]) -> BlastRadius:
    """Kill one process under load, restart it, and see what it cost."""
    q = trial.question
    rate = q.rate if q.rate is not None else q.job.rate
    trial.whole_again()  # what the last kill has left behind is not this one's
    outage, up = _outage(trial, process, rate, pace, usual)
    dead = outage.dead
    if outage.undecided:
        longer = dataclasses.replace(pace, down=pace.long, window=pace.long + 0.1)
        dead = _outage(trial, process, rate, longer, usual)[0].dead
    bad = outage.bad
    return BlastRadius(
        architecture=q.called,
        role=role,
        process=process,
        runtime=q.runtime,
        attempted=len(outage.hit),
        lost=sum(d.outcome == "fail" for d in bad),
        unknown=sum(d.outcome == "info" for d in bad),
        recovery_s=outage.recovery,
        single_point_of_failure=bool(dead),
        window_s=pace.window,
        rate_per_s=rate,
        detail=f"down for {pace.down:.2g} s; {_detail(bad, dead, up)}",
    )


def _damage(card: BlastRadius) -> tuple[bool, int, float]:
    recovery = card.recovery_s if card.recovery_s is not None else math.inf
    return card.single_point_of_failure, card.lost + card.unknown, recovery


def _outage(
    trial: Trial, process: str, rate: float, pace: Pace, usual: dict[str, float]
) -> tuple[Outage, float]:
    """Load the system, kill a process, restart it; and how long the restart took."""
    times = {"kill": 0.0, "restart": 0.0, "up": 0.0}
    load = Load(duration=pace.before_kill + pace.window, rate=rate, account=0, name=f"kill {process}")
    trial.phase(f"killing {process}", load.duration)

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
    history = trial.history(result.first)
    hit = sorted((d for d in history if d.end >= times["kill"]), key=lambda d: d.intended)
    answers = trial.question.job.answers
    outage = Outage(times["kill"], times["restart"], hit, answers, usual, pace.takeover)
    return outage, times["up"] - times["restart"]


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
