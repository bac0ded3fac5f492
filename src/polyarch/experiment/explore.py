"""Exploring: schedules from many seeds, on all cores, until one violates something.

Workers are forks that take seeds in order.  When one fails, no later seed is begun, and those before it are
finished: the answer is the first seed that fails, however many workers there are.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from polyarch.core.records import Record
from polyarch.experiment.performance import Result, Violation, perform
from polyarch.experiment.schedule import Schedule, Setting, draw, typed
from polyarch.experiment.shrink import shrink

__all__ = ["CheckRecord", "Example", "Found", "check", "explore", "load", "replay", "save"]

_CHUNK = 4  # seeds that a worker takes at a time


class Found(Record):
    """The violation of a check's record."""

    seed: int
    kind: str
    detail: str
    events: int
    """Operations and faults of the schedule in which it was found."""
    shrunk_events: int
    """Operations and faults of the smallest one."""
    file: str | None


class CheckRecord(Record):
    """What ``polyarch check`` found."""

    architecture: str
    job: str
    parameters: dict[str, Any]
    seeds_tried: int
    seeds_per_s: float | None
    violation: Found | None
    first_seed: int = 0
    duration_s: float = 0.0
    clients: int = 0
    operations: int = 0
    """Of all schedules together."""
    undecided: int = 0
    """Schedules of which some checker could not decide within its budget."""
    cores: int = 1
    wall_s: float = 0.0
    kind: Literal["check"] = "check"


class Example(Record):
    """A schedule that fails, as a file."""

    schedule: Schedule
    violation: Violation
    trace_hash: str
    architecture: str
    job: str
    found_with_seed: int
    polyarch: str = "check 1"
    """The format of this file."""


class _Told(Record, array_like=True):
    """What a worker says of a seed."""

    seed: int
    kind: str | None
    operations: int
    undecided: bool


@dataclasses.dataclass
class Tally:
    """What has been explored."""

    seeds: int = 0
    operations: int = 0
    undecided: int = 0
    seconds: float = 0.0
    failing: int | None = None
    """The first seed that fails."""

    def count(self, told: _Told) -> None:
        self.seeds += 1
        self.operations += told.operations
        self.undecided += told.undecided
        if told.kind is not None and (self.failing is None or told.seed < self.failing):
            self.failing = told.seed


# -- exploring -------------------------------------------------------------------------------------------


def explore(
    setting: Setting,
    seeds: Sequence[int] | range,
    *,
    workers: int | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
    seconds: float | None = None,
) -> Tally:
    """Perform the schedules of these seeds until one fails.  ``seconds``: begin no more after that."""
    tally, began = Tally(), time.monotonic()
    count = min(workers or _cores(), -(-len(seeds) // _CHUNK))
    told = _in_processes(setting, seeds, count, tally) if count > 1 else _here(setting, seeds)
    for one in told:
        tally.count(one)
        tally.seconds = time.monotonic() - began
        progress(tally)
        if count <= 1 and one.kind is not None:
            break
        if seconds is not None and tally.seconds > seconds:
            break
    told.close()
    tally.seconds = time.monotonic() - began
    return tally


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tried(setting: Setting, seed: int) -> _Told:
    result = perform(draw(setting, seed), made=(setting.architecture, setting.job))
    kind = result.violations[0].kind if result.violations else None
    return _Told(seed, kind, len(result.history), bool(result.undecided))


class _Collector:
    """The cyclic collector would look at everything again and again: collect by hand, now and then."""

    def __enter__(self) -> _Collector:
        self.enabled, self.runs = gc.isenabled(), 0
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def ran(self) -> None:
        self.runs += 1
        if self.runs % 20 == 0:
            gc.collect()

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()
        if self.enabled:
            gc.enable()


def _here(setting: Setting, seeds: Sequence[int] | range) -> Generator[_Told, None, None]:
    with _Collector() as collector:
        for seed in seeds:
            yield _tried(setting, seed)
            collector.ran()


def _in_processes(
    setting: Setting, seeds: Sequence[int] | range, count: int, tally: Tally
) -> Generator[_Told, None, None]:
    """All seeds in order, some at a time to each worker, until one fails."""
    context = multiprocessing.get_context("fork")
    waiting = iter([seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK)])
    workers: dict[Any, Any] = {}
    busy: dict[Any, int] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            inherited = [
                *workers,
                ours,
            ]  # a worker must not hold the others' ends: it would never see them close
            process = context.Process(target=_work, args=(setting, theirs, inherited), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process

        def give(pipe: Any) -> None:
            chunk = next(waiting, None) if tally.failing is None else None
            if chunk is not None:
                pipe.send(list(chunk))
                busy[pipe] = len(chunk)

        for pipe in workers:
            give(pipe)
        while busy:
            ready: list[Any] = list(multiprocessing.connection.wait(list(busy)))
            for pipe in ready:
                try:
                    told: Any = pipe.recv()
                except EOFError:
                    raise RuntimeError("a worker of the check has died") from None
                if isinstance(told, str):
                    raise RuntimeError(told)
                busy[pipe] -= 1
                yield told
                if not busy[pipe]:
                    del busy[pipe]
                    give(pipe)
                elif tally.failing is not None and told.seed >= tally.failing:
                    del busy[pipe]  # the rest of its chunk comes after a seed that fails
    finally:
        for pipe, process in workers.items():
            process.terminate()
            pipe.close()
        for process in workers.values():
            process.join()


def _work(setting: Setting, pipe: Any, inherited: list[Any]) -> None:
    """A worker: ends when its pipe does, so also when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    try:
        with _Collector() as collector:
            while True:
                for seed in pipe.recv():
                    pipe.send(_tried(setting, seed))
                    collector.ran()
    except (EOFError, OSError):
        pass
    except Exception as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{Path(where.filename).name}:{where.lineno}"
        pipe.send(f"the check itself failed: {type(error).__name__}: {error} ({line})")
    os._exit(0)


# -- one way in ------------------------------------------------------------------------------------------


def check(
    setting: Setting,
    seeds: int = 1000,
    *,
    first: int = 0,
    again: Sequence[int] = (),
    workers: int | None = None,
    folder: Path | None = Path("failing"),
    budget: int = 1500,
    seconds: float | None = None,
    progress: Callable[[str, Tally], None] = lambda phase, tally: None,
) -> tuple[CheckRecord, Result | None]:
    """Explore, and if something is violated: shrink it and save it.  The record, and the shrunk result.

    ``again``: seeds to try before all others.  ``folder``: where what fails is saved.  ``budget``: runs for
    shrinking."""
    began = time.monotonic()
    order = list(dict.fromkeys([*again, *range(first, first + seeds)]))
    tried = range(first, first + seeds) if not again else order
    tally = explore(
        setting, tried, workers=workers, progress=lambda tally: progress("exploring", tally), seconds=seconds
    )
    found, smallest = None, None
    if tally.failing is not None:
        made = (setting.architecture, setting.job)
        with _Collector():
            result = perform(draw(setting, tally.failing), made=made)
            smallest = shrink(
                result,
                made,
                budget=budget,
                progress=lambda runs, best: progress(f"shrinking: {describe(best)}", tally),
            )
        violation = smallest.violations[0]
        file = save(smallest, folder, tally.failing) if folder is not None else None
        found = Found(
            tally.failing, violation.kind, violation.detail, _events(result.schedule),
            _events(smallest.schedule), None if file is None else str(file),
        )  # fmt: skip
    a, j = setting.architecture, setting.job
    return CheckRecord(
        architecture=type(a).name or type(a).__name__,
        job=type(j).name or type(j).__name__,
        parameters={**a.values, **j.values},
        seeds_tried=tally.seeds if tally.failing is None else list(tried).index(tally.failing) + 1,
        seeds_per_s=round(tally.seeds / tally.seconds, 2) if tally.seconds else None,
        violation=found,
        first_seed=first,
        duration_s=setting.duration,
        clients=setting.clients,
        operations=tally.operations,
        undecided=tally.undecided,
        cores=workers or _cores(),
        wall_s=round(time.monotonic() - began, 3),
    ), smallest


def _events(schedule: Schedule) -> int:
    return schedule.operations + len(schedule.faults)


def describe(schedule: Schedule) -> str:
    """``3 operations of 2 clients, 1 fault, 0.4 s``"""

    def some(count: int, what: str) -> str:
        return f"{count} {what}" + ("" if count == 1 else "s")

    clients = len({visit.client for visit in schedule.visits})
    return (
        f"{some(schedule.operations, 'operation')} of {some(clients, 'client')}, "
        f"{some(len(schedule.faults), 'fault')}, {schedule.duration:.3g} s"
    )


# -- files -----------------------------------------------------------------------------------------------


def save(result: Result, folder: Path, seed: int) -> Path:
    """Write what fails to a file, which ``replay`` reads."""
    s = result.schedule
    name = (s.architecture.make().name or s.architecture.name, s.job.make().name or s.job.name)
    example = Example(s, result.violations[0], result.trace_hash, *name, seed)
    text = msgspec.json.format(msgspec.json.encode(example), indent=1)
    digest = hashlib.sha256(text).hexdigest()[:6]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name[0]}-{name[1]}-{seed}-{digest}.json"
    path.write_bytes(text + b"\n")
    return path


def load(path: Path) -> Example:
    """Read such a file; ``ValueError`` says what is wrong with it."""
    try:
        example = msgspec.json.decode(path.read_bytes(), type=Example)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no file of polyarch check: {error}") from None
    file = example.schedule.architecture.file
    if file and not Path(file).exists() and not example.schedule.architecture.module.startswith("polyarch."):
        raise ValueError(f"{path}: the architecture's file {file} is not there any more")
    return example


def replay(example: Example, *, watch: Callable[[Any], None] | None = None) -> Result:
    """Perform the schedule of a file again."""
    s = example.schedule
    try:
        made = (s.architecture.make(), s.job.make())
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"the architecture or the job cannot be made again: {error}") from None
    return perform(typed(s, made[1]), made=made, watch=watch)
