"""Laws: a published number or an exact value, and what the node code that users run gives instead.

    class SplitVotes(Law):
        id = "RA-01"
        ...
        servers: int = parameter(5, "servers of the cluster", least=3)
        listed = ({"servers": 5}, {"servers": 7})          # the settings at which it is checked

        def expected(self):                                # by formula, for any setting
            return {"split votes": within(formula(self.servers), 0.006)}

        def measure(self, seeds, tell):                    # from sessions of the architecture
            return {"split votes": …}

Law files (``polyarch.laws``) are discovered.  A law measures; what it expects, it computes without looking
at what was measured.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

import polyarch.laws
from polyarch.core.records import Record
from polyarch.core.system import Parameterised
from polyarch.experiment.catalogue import UnknownName, defined_in, defining_modules, near

__all__ = [
    "Expected", "Figure", "Law", "LawRecord", "LawsRecord", "Tell", "at_least", "between", "check", "exactly",
    "laws", "reasons", "relative", "select", "settings", "spread_out", "within",
]  # fmt: skip

J = TypeVar("J")
R = TypeVar("R")

Figure = float | int | bool
"""What is expected or measured."""

Tell = Callable[[float], None]
"""Told how much of the measurement is done: 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """A value, and how far from it a measurement may be."""

    value: Figure | None
    """None: there are bounds, and no value between them is the right one."""
    low: float
    high: float
    tolerance: str

    def holds(self, measured: Figure) -> bool:
        """Whether the measurement agrees."""
        return self.low <= measured <= self.high


def exactly(value: Figure) -> Expected:
    """This value and no other (floats: to twelve digits)."""
    slack = 1e-12 * abs(value) if isinstance(value, float) else 0
    return Expected(value, value - slack, value + slack, "exact")


def within(value: float, tolerance: float) -> Expected:
    """This value, or one so near to it."""
    return Expected(value, value - tolerance, value + tolerance, f"±{tolerance:.3g}")


def relative(value: float, part: float) -> Expected:
    """This value, or one that differs by such a part of it."""
    slack = abs(value) * part
    return Expected(value, value - slack, value + slack, f"±{part:.3g} of it")


def between(low: float, high: float, value: float | None = None) -> Expected:
    """Something from ``low`` to ``high``; a value that was published, perhaps."""
    return Expected(value, low, high, f"{low:g} to {high:g}")


def at_least(low: float, value: float | None = None) -> Expected:
    """``low`` or more."""
    return Expected(value, low, math.inf, f"at least {low:g}")


class Law(Parameterised, abc.ABC):
    """One check of a published number or an exact value, at one setting of its parameters."""

    id: ClassVar[str]
    """Its name in the list: ``RA-01``."""
    architecture: ClassVar[str]
    """Whose node code is measured: a name of the catalogue."""
    claim: ClassVar[str]
    source: ClassVar[str]
    certainty: ClassVar[str]
    """How the expected value is known: quoted, computed, or remembered."""
    note: ClassVar[str] = ""
    """What a reader of the figures should know: how they were measured, and where they disagree."""
    seeds: ClassVar[int] = 3
    """How many seeds are measured; what comes of them is counted together."""
    listed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The settings at which it is checked, unless others are asked for."""
    long: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Settings that take a minute or more: checked only when the law is asked for by its whole name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "id" in cls.__dict__:
            cls.name = cls.id  # type: ignore[attr-defined]

    @abc.abstractmethod
    def expected(self) -> dict[str, Expected]:
        """What must be measured, by the name of the figure."""

    @abc.abstractmethod
    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        """The same figures, from the architecture's own nodes."""


def spread_out(function: Callable[[J], R], jobs: Sequence[J], tell: Tell) -> list[R]:
    """The function's results for these jobs, in order, computed on all cores: for measurements that are many
    simulations.  ``function``: of a module's top level."""
    cores = min(len(os.sched_getaffinity(0)), len(jobs))
    results: list[R] = []
    if cores == 1 or "fork" not in multiprocessing.get_all_start_methods():
        for job in jobs:
            results.append(function(job))
            tell(len(results) / len(jobs))
        return results
    return _in_processes(function, jobs, cores, tell)


def _in_processes(function: Callable[[J], R], jobs: Sequence[J], cores: int, tell: Tell) -> list[R]:
    """Each worker has a pipe of its own.  (Those of a ``multiprocessing.Pool`` share locks: when one of them
    is killed, the pool waits for ever.)"""
    context = multiprocessing.get_context("fork")
    waiting = iter(range(len(jobs)))
    workers: dict[Any, Any] = {}
    busy: dict[Any, int] = {}
    results: dict[int, R] = {}

    def give(pipe: Any) -> None:
        if (at := next(waiting, None)) is not None:
            pipe.send(at)
            busy[pipe] = at

    try:
        for _ in range(cores):
            ours, theirs = context.Pipe()
            # A worker must not hold the others' ends: it would never see them close.
            arguments = (function, jobs, theirs, [*workers, ours])
            workers[ours] = context.Process(target=_worker, args=arguments, daemon=True)
            workers[ours].start()
            theirs.close()
            give(ours)
        while busy:
            ready: list[Any] = list(multiprocessing.connection.wait(list(busy)))
            for pipe in ready:
                try:
                    result, failure = pipe.recv()
                except (EOFError, ConnectionError):
                    raise RuntimeError("a process that measured has died") from None
                if failure is not None:
                    raise failure
                results[busy.pop(pipe)] = result
                tell(len(results) / len(jobs))
                give(pipe)
    finally:
        for pipe, process in workers.items():
            process.terminate()
            pipe.close()
        for process in workers.values():
            process.join()
    return [results[at] for at in range(len(jobs))]


def _worker(function: Callable[[J], R], jobs: Sequence[J], pipe: Any, inherited: list[Any]) -> None:
    """Ends when its pipe does, so also when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    try:
        while True:
            at = pipe.recv()
            told: tuple[Any, Exception | None]
            try:
                told = function(jobs[at]), None
            except Exception as error:
                told = None, error
            try:
                pipe.send(told)
            except OSError:
                raise
            except Exception as error:  # it cannot be sent as it is
                pipe.send((None, RuntimeError(f"{told[1] or type(error).__name__}: {error}")))
    except (EOFError, OSError):
        pass
    os._exit(0)


class LawRecord(Record):
    """What came of one law."""

    id: str
    architecture: str
    claim: str
    source: str
    certainty: str
    expected: dict[str, float | int | bool | None]
    """By figure; None where there are only bounds."""
    measured: dict[str, float | int | bool]
    tolerance: dict[str, str]
    holds: bool
    seconds: float
    wrong: tuple[str, ...] = ()
    """The figures that do not hold, or what prevented a measurement."""
    seeds: tuple[int, ...] = ()
    settings: tuple[dict[str, Any], ...] = ()
    skipped: tuple[dict[str, Any], ...] = ()
    """Settings that were left out because they take long: ask for the law by its whole name."""
    note: str = ""


class LawsRecord(Record):
    """What came of all that were asked for."""

    laws: tuple[LawRecord, ...]
    seed: int = 0

    @property
    def holds(self) -> bool:
        """Whether all do."""
        return all(law.holds for law in self.laws)


# -- finding them ---------------------------------------------------------------------------------------


@cache
def laws() -> dict[str, type[Law]]:
    """All laws by id."""
    found = {}
    for module in defining_modules(polyarch.laws):
        for law in defined_in(module, Law):  # type: ignore[type-abstract]
            found[law.id] = law
    return dict(sorted(found.items()))


@cache
def reasons() -> dict[str, str]:
    """Laws that are known and not checked, and why."""
    absent: dict[str, str] = {}
    for module in defining_modules(polyarch.laws):
        absent |= getattr(module, "ABSENT", {})
    return {id: absent[id] for id in sorted(absent) if id not in laws()}


def select(names: Sequence[str]) -> list[type[Law]]:
    """The laws of these ids or beginnings of ids (``RA``, ``RA-0``), each once; all if none is named."""
    known = laws()
    if not names:
        return list(known.values())
    chosen: dict[str, type[Law]] = {}
    for name in names:
        wanted = name.strip().upper()
        matching = [id for id in known if wanted and (id == wanted or id.startswith(wanted))]
        if wanted in known:
            matching = [wanted]
        if not matching:
            raise UnknownName(_nothing(name.strip(), wanted))
        chosen |= {id: known[id] for id in matching}
    return list(chosen.values())


def _nothing(name: str, wanted: str) -> str:
    if wanted in reasons():
        return f"the law {wanted} is not checked: {reasons()[wanted]}"
    families = sorted({id.partition("-")[0] for id in laws()})
    meant = near(wanted, [*laws(), *families])
    hint = f"did you mean {meant!r}?" if meant else f"there are those of {', '.join(families)}; see --list"
    return f"there is no law {name!r}; {hint}"


# -- checking them --------------------------------------------------------------------------------------


def settings(
    law: type[Law], given: Mapping[str, Any], *, whole: bool = False
) -> tuple[list[Law], list[dict[str, Any]]]:
    """The settings to check, and those left out because they take long.  ``given``: parameters that were
    asked for (the others then have their defaults); ``whole``: long ones too."""
    own = {name: value for name, value in given.items() if name in law.parameters}
    if own:
        return [law(**own)], []
    listed = [*law.listed, *law.long] if whole else law.listed
    return [law(**values) for values in listed], [] if whole else [dict(v) for v in law.long]


def check(
    law: type[Law],
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
    tell: Tell = lambda done: None,
) -> LawRecord:
    """Measure a law, and compare."""
    chosen, skipped = settings(law, given or {}, whole=whole)
    seeds = tuple(range(seed, seed + law.seeds))
    begin = time.monotonic()
    expected: dict[str, Expected] = {}
    measured: dict[str, Figure] = {}
    wrong: list[str] = []
    for i, setting in enumerate(chosen):
        prefix = _prefix(setting) if len(chosen) > 1 else ""
        wanted = setting.expected()
        expected |= {prefix + name: value for name, value in wanted.items()}

        def told(done: float, i: int = i) -> None:
            tell((i + done) / len(chosen))

        try:
            figures = setting.measure(seeds, told)
        except Exception as error:  # a law that cannot be measured does not hold
            wrong.append(f"{prefix}not measured: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        measured |= {prefix + name: value for name, value in figures.items()}
        for name, value in wanted.items():
            if name not in figures:
                wrong.append(f"{prefix}{name}: not measured")
            elif not value.holds(figures[name]):
                wrong.append(f"{prefix}{name}: {figures[name]:.6g}, expected {_wanted(value)}")
    tell(1.0)
    return LawRecord(
        id=law.id,
        architecture=law.architecture,
        claim=law.claim,
        source=law.source,
        certainty=law.certainty,
        expected={name: value.value for name, value in expected.items()},
        measured=measured,
        tolerance={name: value.tolerance for name, value in expected.items()},
        holds=not wrong,
        seconds=round(time.monotonic() - begin, 3),
        wrong=tuple(wrong),
        seeds=seeds,
        settings=tuple(setting.values for setting in chosen),
        skipped=tuple(skipped),
        note=law.note,
    )


def _wanted(value: Expected) -> str:
    return value.tolerance if value.value is None else f"{value.value:.6g} ({value.tolerance})"


def _prefix(setting: Law) -> str:
    """``servers 5, latency 0.1: ``: what sets this setting apart."""
    varied = dict.fromkeys(name for values in (*setting.listed, *setting.long) for name in values)
    return ", ".join(f"{name} {getattr(setting, name)}" for name in varied) + ": "
