"""The one path from a question to a result: open a session, load it, break it, check it, record it.

``Trial`` is one architecture that runs; ``run`` makes one record of one trial; ``compare`` (in
``compare.py``) keeps several trials open and measures them in turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.job import Done, Job, Verdict
from polyarch.core.randomness import Random
from polyarch.core.system import Architecture, System
from polyarch.experiment.churn import BadChurn, Churn, Churning
from polyarch.experiment.churn import parse as parse_churn
from polyarch.experiment.load import Load, LoadClient, LoadResult
from polyarch.experiment.record import Cost, Latency, Operations, RunRecord, environment
from polyarch.experiment.sides import sides_of
from polyarch.faults.spec import Fault, doable, inject, lasts, parse, together
from polyarch.measure.histogram import Histogram
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter, Named, Session, SessionError
from polyarch.runtimes.sim.kernel import no_collector

__all__ = ["Question", "Trial", "run", "wrong_combination"]

T = TypeVar("T")

_PAGE = 2000  # operations of the history fetched at a time: far below the largest message
_HEALED = 120.0  # seconds after which a system that is not ready again is looked at as it is
_READY = {"sim": 3600.0, "local": 120.0}  # seconds after which a system that is not ready never will be


@dataclasses.dataclass
class Question:
    """What is asked of one architecture."""

    architecture: Architecture
    job: Job
    runtime: str = "sim"
    seed: int = 0
    duration: float | None = 10.0
    """Seconds of load; None: a trace's own length."""
    rate: float | None = None
    clients: int | None = None
    faults: Sequence[str] = ()
    churn: Sequence[str] = ()
    """Peers that come and go under load; see ``churn.py``."""
    trace: str | None = None
    speedup: float | None = None
    """None: such that the trace takes ``duration`` seconds."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """For the runtime: ``network``, ``per_process``, …"""
    progress: Callable[[str, float, float | None], None] = lambda phase, done, total: None
    """Told the phase; on ``sim`` its virtual seconds so far, and how many there will be if that is known."""
    name: str = ""
    """What the architecture is called, if its own name does not tell it from others (``raft:servers=7``)."""

    @property
    def called(self) -> str:
        """The architecture's name in records."""
        return self.name or type(self.architecture).name

    @functools.cached_property
    def recorded(self) -> float:
        """Seconds from the trace's first visit to its last; reads it to the end, so ``ValueError`` with the
        line number for what cannot be read."""
        assert self.trace is not None
        last = 0.0
        for at, _ in self.job.trace(Path(self.trace)):
            last = at
        return last


def wrong_combination(question: Question) -> str | None:
    """Why the question cannot be asked; None if it can."""
    if question.rate is not None and question.clients is not None:
        return "give --rate (open loop) or --clients (closed loop), not both"
    if question.trace is not None and (question.rate is not None or question.clients is not None):
        return "--trace brings its own arrivals: give neither --rate nor --clients with it"
    why = question.architecture.unfit(type(question.job))
    return f"{type(question.architecture).name}: {why}" if why else None


class Trial:
    """One architecture, deployed and filled, until ``close``."""

    def __init__(self, question: Question, *, duration: float | None = None) -> None:
        """``duration``: of the load that the faults are for, unless it is the question's own.  ``BadFault``
        for a fault that does not fit; ``SessionError`` when it cannot start."""
        self.question = q = question
        self.began = time.monotonic()
        self.system = System(per_process=q.options.get("per_process", 1))
        q.architecture.build(self.system)
        self.faults = faults_of(q, self.system, duration)
        random = Random(q.seed).fork("churn")
        self.churn = [Churning(churn, self.system, random) for churn in churn_of(q, self.system)]
        self.glimpsed: dict[str, Any] = {}
        """Metrics from the end of the load, while faults still held."""
        self.sides = sides_of(self.faults, q.runtime)
        """The sides of a partition, each with a client of its own."""
        several: dict[str, Any] = {}
        if self.sides is not None:
            self.faults = self.sides.put_behind(self.faults)
            several["clients"] = 1 + len(self.sides.clients)
        load = LoadClient(job=Named.of(q.job, q.job.values), seed=q.seed)
        self.phase("starting")
        self.session: Session = open_session(
            q.runtime, q.architecture, seed=q.seed, beside_clients=[load], **several, **q.options
        )
        try:
            self.phase("preparing")
            self.perform(self._prepare)
        except BaseException:
            self.close()
            raise

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        """Run an experiment in the session."""
        return self.session.perform(experiment)

    async def _prepare(self, x: Experimenter) -> None:
        q = self.question
        name, limit = q.called, _READY.get(q.runtime, 120.0)
        try:
            missing = await self._missing(x, limit)
            if missing:
                raise SessionError(f"{name} is not ready for work: {missing}")
            await q.job.prepare(x.client)
        except Failure as failure:
            if failure.__cause__ is not None:  # a bug, and no answer of the system
                raise
            raise SessionError(f"{name} cannot be prepared for the load: {failure}") from failure

    async def _missing(self, x: Experimenter, limit: float) -> str | None:
        """What the system lacks to be ready for work within so many seconds; None: it is ready."""
        x.lacking = ""
        ready = x.future()
        task = x.spawn(self.question.architecture.ready(x))
        task.watch(ready.set)
        try:
            await ready.within(limit)
        except Failure:
            task.cancel()
            return f"{x.lacking} (after {limit:g} s)".strip()
        try:
            await task
        except Failure as failure:
            if failure.__cause__ is not None:  # a bug, and no answer of the system
                raise
            return failure.detail
        return None

    def phase(self, name: str, seconds: float | None = None) -> None:
        """Tell whoever watches what comes now, and how long it takes in virtual time."""
        label = f"{self.question.called}: {name}"
        kernel = getattr(getattr(self, "session", None), "kernel", None)
        if kernel is None:
            self.question.progress(label, 0.0, None)
            return
        begin = kernel.now * 1e-9

        def tell(now: float) -> None:
            done = now - begin
            self.question.progress(label, done if seconds is None else min(done, seconds), seconds)

        kernel.progress = tell
        tell(begin)

    # -- loading ----------------------------------------------------------------------------------------

    def load(
        self, load: Load, *, phase: str = "load", faults: Sequence[Fault] = (), churn: bool = False
    ) -> LoadResult:
        """Load the system, and do the faults at their times; with ``churn`` its peers come and go."""
        self.phase(phase, load.duration)
        churning = self.churn if churn else []

        async def experiment(x: Experimenter) -> LoadResult:
            for one in churning:
                await one.begin(x)
            begin, end = x.now, x.now + load.duration
            glance = x.spawn(self._glance(x, end)) if any(lasts(f, load.duration) for f in faults) else None
            injected = [x.spawn(inject(x, fault, begin, end, self.system, glance)) for fault in faults]
            injected += [x.spawn(one.run(x, begin, end)) for one in churning]
            if self.sides is not None and self.sides.fault in faults:
                injected.append(x.spawn(self.sides.watch(x, load, self.question.job)))
            result = await x.at("loadclient", LoadClient).run(load)
            for task in injected:
                await task
            return result

        return self.perform(experiment)

    async def _glance(self, x: Experimenter, end: float) -> None:
        """At the end of the load, while faults that last so long still hold."""
        await x.sleep(end - x.now)
        with contextlib.suppress(Failure):
            self.glimpsed = await self.question.architecture.glance(x)

    def end_churn(self) -> None:
        """Nobody stays away."""

        async def experiment(x: Experimenter) -> None:
            for churning in self.churn:
                await churning.all_back(x)
            if self.churn:
                await self._missing(x, _HEALED)

        self.perform(experiment)

    def plan(self, loads: Sequence[Load]) -> None:
        """Decide now what open loops to come will ask for, whatever is asked before them."""

        async def experiment(x: Experimenter) -> None:
            await x.at("loadclient", LoadClient).plan(list(loads))

        self.perform(experiment)

    def history(self, first: int = 0) -> list[Done]:
        """Every operation so far (from number ``first`` on), as its client saw it."""

        async def fetch(x: Experimenter) -> list[Done]:
            history: list[Done] = []
            while True:
                page = await x.at("loadclient", LoadClient).past(first + len(history), _PAGE)
                history += page
                if len(page) < _PAGE:
                    return history

        return self.perform(fetch)

    # -- the end ----------------------------------------------------------------------------------------

    def verdicts(self, history: Sequence[Done]) -> tuple[list[Verdict], dict[str, Any]]:
        """Heal everything, wait until it is quiet, look at the final state, and judge; with the
        architecture's metrics."""
        self.phase("checking")
        q = self.question
        if self.sides is not None:
            history = sorted([*history, *self.sides.history], key=lambda done: done.end)
        names = [p.name for p in self.system.processes()]

        async def look(x: Experimenter) -> tuple[Any, dict[str, Any], list[Verdict], tuple[str, ...]]:
            await x.control.heal()
            for churning in self.churn:
                await churning.all_back(x)
            if self.faults:
                await together(x.control.resume, names, len(names))
                await together(x.control.restart, names)
            missing = await self._missing(x, _HEALED)
            audit = await _patiently(x, lambda: q.job.audit(x.client))
            metrics, own = await q.architecture.observe(x)
            if missing:
                own = [*own, Verdict("it is ready again when all is healed", False, missing)]
            return audit, metrics, own, (await x.control.traffic()).bugs

        try:
            audit, metrics, own, bugs = self.perform(look)
        except Failure as failure:
            return [Verdict("the system can be looked at when all is healed", False, str(failure))], {}
        verdicts = promised_by(q, [*q.job.check(history, audit), *own])
        deaths = getattr(self.session, "deaths", [])
        raised = f"; first: {bugs[0]}" if bugs else ""
        verdicts.append(Verdict("no node raised an exception", not bugs, f"{len(bugs)} raised{raised}"))
        if deaths:
            verdicts.append(Verdict("no process ended by itself", False, deaths[0]))
        metrics = {**metrics, **self.glimpsed, **q.job.figures(history, audit)}
        if self.sides is not None:
            metrics = {**metrics, **self.sides.metrics()}
        return verdicts, metrics

    def whole_again(self, limit: float = 10.0) -> None:
        """Wait until the system is ready for work, but no longer than so many seconds."""
        architecture = self.question.architecture

        async def wait(x: Experimenter) -> None:
            ready = x.future()
            task = x.spawn(architecture.ready(x))
            task.watch(ready.set)
            try:
                await ready.within(limit)
            except Failure:
                task.cancel()

        self.perform(wait)

    def measured(self) -> dict[str, Any]:
        """The metrics that are the job's ``measures``, of what has happened so far; none if something is too
        broken to tell."""
        names = [measure.name for measure in type(self.question.job).measures]
        if not names:
            return {}
        self.phase("measuring")
        q = self.question

        async def look(x: Experimenter) -> dict[str, Any]:
            with contextlib.suppress(Failure):  # something may be broken: then it is as it is
                await q.job.audit(x.client)  # waits for what is still under way
            with contextlib.suppress(Failure):
                return (await q.architecture.observe(x))[0]
            return {}

        metrics = self.perform(look)
        return {name: metrics[name] for name in names if name in metrics} | self.glimpsed

    def nodes(self) -> dict[str, int]:
        """How many of each role."""
        return {role.name: role.count for role in self.system.roles.values()}

    def footprint(self) -> tuple[int | None, float | None]:
        """Operating-system processes and their memory (10^6 bytes), the clients' not counted."""

        async def ask(x: Experimenter) -> dict[str, dict[str, float]]:
            return await x.control.resources()

        parts = {name: r for name, r in self.perform(ask).items() if name != "client"}
        if not parts or any("memory_mb" not in r for r in parts.values()):
            return None, None
        memory = sum(r["memory_mb"] for r in parts.values()) * 1.048576
        return int(sum(r["processes"] for r in parts.values())), round(memory, 1)

    def bytes_are_known(self) -> bool:
        """Whether every message's size was measured."""

        async def ask(x: Experimenter) -> int:
            return (await x.control.traffic()).unmeasured

        return self.perform(ask) == 0

    @property
    def trace_hash(self) -> str | None:
        """Of everything that has happened, on ``sim``."""
        kernel = getattr(self.session, "kernel", None)
        return None if kernel is None else kernel.trace_hash

    def close(self) -> None:
        """End it; nothing stays behind."""
        self.session.close()


def promised_by(q: Question, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, those that the architecture disclaims marked as not promised."""
    disclaimed = q.architecture.disclaims_under([*q.faults, *q.churn])
    return [msgspec.structs.replace(v, promised=False) if v.name in disclaimed else v for v in verdicts]


async def _patiently(x: Experimenter, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The final state may need a moment: what is healed must find itself again."""
    for _ in range(20):
        try:
            return await ask()
        except Failure:
            await x.sleep(0.25)
    return await ask()


def latency_of(results: Sequence[LoadResult]) -> tuple[Latency | None, dict[str, Latency]]:
    """Percentiles of merged histograms, in ms: of all operations, and of each kind."""
    kinds: dict[str, Histogram] = {}
    for result in results:
        for name, data in result.latency.items():
            kinds.setdefault(name, Histogram()).merge(Histogram.from_dict(data))
    total = Histogram()
    for histogram in kinds.values():
        total.merge(histogram)
    whole = Latency(**total.summary()) if total.count else None
    return whole, {name: Latency(**h.summary()) for name, h in sorted(kinds.items())}


def cost_of(results: Sequence[LoadResult], bytes_known: bool) -> Cost | None:
    """What a successful operation cost on average."""
    n = sum(r.accounted for r in results)
    if not n:
        return None
    return Cost(
        messages=round(sum(r.messages for r in results) / n, 3),
        bytes=round(sum(r.bytes for r in results) / n, 1) if bytes_known else None,
        hops=round(sum(r.hops for r in results) / n, 3),
    )


def operations_of(history: Sequence[Done]) -> Operations:
    """How the operations ended."""
    count = {"ok": 0, "fail": 0, "info": 0}
    for done in history:
        count[done.outcome] += 1
    return Operations(attempted=len(history), ok=count["ok"], failed=count["fail"], unknown=count["info"])


def failures_of(history: Sequence[Done]) -> dict[str, int]:
    """How often each failure came, by its code."""
    codes: dict[str, int] = {}
    for done in history:
        if done.outcome != "ok":
            codes[done.code] = codes.get(done.code, 0) + 1
    return dict(sorted(codes.items()))


def faults_of(q: Question, system: System, duration: float | None = None) -> list[Fault]:
    """The faults that a question asks for; ``BadFault`` for one that does not fit the system."""
    roles = {role.name: role.process_names() for role in system.roles.values()}
    random = Random(q.seed).fork("faults")
    duration = duration if duration is not None or not q.faults else load_of(q).duration
    return [doable(parse(text, roles, random), system, q.runtime, duration or 0.0) for text in q.faults]


def churn_of(q: Question, system: System) -> list[Churn]:
    """The churn that a question asks for; ``BadChurn`` for one that does not fit the system."""
    churn = [parse_churn(text, system.roles) for text in q.churn]
    for i, one in enumerate(churn):
        if one.role in [other.role for other in churn[:i]]:
            raise BadChurn(f"--churn {one.text!r}: {one.role} has a churn already")
    return churn


def load_of(q: Question) -> Load:
    """The load that a question asks for."""
    if q.trace is not None:
        last = q.recorded
        speedup = q.speedup
        if speedup is None:  # the whole trace in the time given
            speedup = last / q.duration if q.duration and last else 1.0
        # Visits begin before the end of a load, and the last one is to be among them.
        whole = last / speedup * 1.0001 + 1e-6
        duration = whole if q.speedup is None or q.duration is None else min(q.duration, whole)
        return Load(duration=duration, trace=str(Path(q.trace).absolute()), speedup=speedup)
    duration = q.duration if q.duration is not None else 10.0
    if q.clients is not None:
        return Load(duration=duration, clients=q.clients)
    return Load(duration=duration, rate=q.rate if q.rate is not None else q.job.rate)


def run(question: Question) -> RunRecord:
    """One architecture, one load, its faults, its verdicts."""
    with no_collector() if question.runtime == "sim" else contextlib.nullcontext():
        return _run(question)


def _run(q: Question) -> RunRecord:
    load = load_of(q)
    trial = Trial(q)
    try:
        result = trial.load(load, faults=trial.faults, churn=True)
        return record_of(trial, load, [result], trial.footprint(), trial.bytes_are_known())
    finally:
        trial.close()


def record_of(
    trial: Trial,
    load: Load,
    results: Sequence[LoadResult],
    footprint: tuple[int | None, float | None],
    bytes_known: bool,
    measured: Mapping[str, Any] | None = None,
) -> RunRecord:
    """The record of a trial that has had its load: ``results`` of the rounds of it.  ``measured``: other
    metrics than the architecture's own."""
    q = trial.question
    history = trial.history()
    verdicts, metrics = trial.verdicts(history)
    metrics = {**metrics, **(measured or {})}
    latency, by_operation = latency_of(results)
    seconds = sum(r.seconds for r in results)
    if codes := failures_of(history):
        metrics = {**metrics, "failures": codes}
    lateness = Histogram()
    for result in results:
        lateness.merge(Histogram.from_dict(result.lateness))
    if lateness.count and q.runtime != "sim":
        metrics = {**metrics, "generator_lateness_ms": lateness.summary()}
    processes, memory = footprint
    return RunRecord(
        architecture=q.called,
        job=type(q.job).name,
        runtime=q.runtime,
        seed=q.seed,
        parameters={**q.architecture.values, **q.job.values},
        nodes=trial.nodes(),
        rate_per_s=load.rate,
        clients=load.clients,
        trace=q.trace,
        speedup=load.speedup if q.trace is not None else None,
        duration_s=round(seconds, 6),
        operations=operations_of(history),
        throughput_per_s=round(sum(r.in_time for r in results) / seconds, 3) if seconds else None,
        latency_ms=latency,
        latency_by_operation_ms=by_operation or None,
        cost_per_operation=cost_of(results, bytes_known),
        processes=processes,
        memory_mb=memory,
        faults=tuple(q.faults),
        churn=tuple(churning.done() for churning in trial.churn),
        verdicts=tuple(verdicts),
        metrics=metrics,
        trace_hash=trial.trace_hash,
        wall_s=round(time.monotonic() - trial.began, 3),
        environment=environment(),
    )
