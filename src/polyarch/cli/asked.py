"""What a comparison is asked for on the command line, and the same for each value of ``--vary``.

A *contestant* is an architecture, or one with settings of its own: ``raft:servers=7:heartbeat=0.1``.  So an
architecture can be compared with itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyarch.cli import options
from polyarch.cli.options import BadUse, check_load, check_question
from polyarch.core.job import Job
from polyarch.core.system import Architecture
from polyarch.experiment import catalogue
from polyarch.experiment.compare import Pace
from polyarch.experiment.run import Question
from polyarch.experiment.sweep import Axis
from polyarch.faults.spec import over

__all__ = ["LOADS", "Asked", "Contestant", "axis_of", "check_offers", "contestants", "vary"]

_SECONDS = 1.8
"""Of load for each figure."""
_LONGER = 9.0
"""Seconds, in all rounds together, in which peers come and go, or messages cross half the world: what is
answered after a round does not count for its throughput."""
_MOST_VALUES = 100

LOADS: Mapping[str, type] = {
    "rate": float, "clients": int, "duration": float, "latency": str, "bandwidth": float,
    "handler-cost": str, "disk-sync": str, "per-process": int, "churn": str, "fault": str,
}  # fmt: skip
"""What can be varied beside the parameters of the architectures and of the job."""


_SIMPLEST_FIRST = ("single_server", "client_server", "three_tier", "replicated", "microservices")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An architecture with settings of its own, or none."""

    kind: type[Architecture]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    """By the names of parameters."""

    @property
    def name(self) -> str:
        """``raft:servers=7``"""
        own = (f"{self.kind.parameters[name].option}={value}" for name, value in self.settings.items())
        return ":".join([self.kind.name, *own])

    def varies(self, option: str) -> bool:
        """Whether it has this parameter, and no value of its own for it."""
        return option.replace("-", "_") in self.kind.parameters.keys() - self.settings.keys()


def contestants(job: type[Job], words: Sequence[str]) -> list[Contestant]:
    """Those of ``two_tier:split=a,two_tier:split=b``, in one word or several; without any all architectures
    that offer the job."""
    if not words:
        kinds = [k for k in catalogue.architectures().values() if not catalogue.gap(k, job)]
        if not kinds:
            raise BadUse(f"no architecture offers the job {job.name}")
        order = {name: i for i, name in enumerate(_SIMPLEST_FIRST)}
        return [Contestant(k) for k in sorted(kinds, key=lambda k: order.get(k.name, len(order)))]
    found: dict[str, Contestant] = {}
    for word in filter(None, (part.strip() for several in words for part in several.split(","))):
        contestant = _contestant(word)
        check_offers(contestant.kind, job)
        if contestant.name in found:
            raise BadUse(f"--architectures names {contestant.name} twice")
        found[contestant.name] = contestant
    if not found:
        raise BadUse("--architectures takes names separated by commas, such as raft,chord or raft:servers=7")
    return list(found.values())


def _contestant(word: str) -> Contestant:
    """``two_tier:split=a:power=0.02``.  A colon that no ``name=`` follows belongs to a value."""
    name, *pairs = re.split(r":(?=[A-Za-z_-]+=)", word)
    kind = catalogue.architecture(name)
    settings: dict[str, str] = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        parameter = option.replace("-", "_")
        if parameter not in kind.parameters:
            raise BadUse(f"{word}: {options.unknown_option(parameter, [kind])}")
        if parameter in settings:
            raise BadUse(f"{word}: {parameter} is there twice")
        settings[parameter] = value
    return Contestant(kind, dict(sorted(settings.items())))


def check_offers(kind: type[Architecture], job: type[Job]) -> None:
    """An architecture does a job; ``BadUse`` with the reason if not."""
    reason = catalogue.gap(kind, job)
    if reason:
        raise BadUse(f"{kind.name} does not do the job {job.name}: {reason}")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The words of ``polyarch compare``."""

    job: type[Job]
    contestants: Sequence[Contestant]
    runtime: str
    seed: int
    duration: float | None
    rate: float | None
    clients: int | None
    rounds: int
    fault: tuple[str, ...]
    churn: tuple[str, ...]
    trace: Path | None
    speedup: float | None
    latency: str | None
    bandwidth: float | None
    handler_cost: str | None
    disk_sync: str | None
    per_process: int
    kills: bool
    parameters: Mapping[str, str]

    def questions(self) -> tuple[list[Question], Pace]:
        """One question for each architecture, and the pace; ``BadUse`` if it cannot be asked."""
        seconds = steady = self.duration if self.duration is not None else _SECONDS
        check_load(self.rate, self.clients, seconds, self.speedup, self.trace, self.seed, self.per_process)
        if not 1 <= self.rounds <= 1000:
            raise BadUse(f"--rounds takes an integer from 1 to 1000, not {self.rounds}")
        if self.duration is None and self.fault:
            steady = max(steady, self.rounds * (over(self.fault) + 1.0))
        if self.duration is None and (self.churn or self.latency == "regions"):
            steady = max(steady, _LONGER)
        values, job_values = options.values_of(self.parameters, self.kinds, self.job)
        for name in self.parameters:
            if not any(c.varies(name) for c in self.contestants) and not _has(self.job, name):
                raise BadUse(f"--{name} is for nobody: each of the architectures has its own")
        session = options.runtime_options(
            self.runtime, self.latency, self.bandwidth, self.handler_cost, self.disk_sync, self.per_process
        )
        questions = [
            Question(
                architecture=options.make(c.kind, own | c.settings),
                name=c.name,
                job=options.make(self.job, job_values),
                runtime=self.runtime,
                seed=self.seed,
                duration=steady / self.rounds,
                rate=self.rate,
                faults=self.fault,
                churn=self.churn,
                trace=str(self.trace) if self.trace is not None else None,
                speedup=self.speedup,
                options=dict(session),
            )
            for c, own in zip(self.contestants, values)
        ]
        for question in questions:
            check_question(question)
        clients = self.clients or 1
        pace = Pace.of(self.runtime, rounds=self.rounds, seconds=seconds, clients=clients, kills=self.kills)
        return questions, dataclasses.replace(pace, steady=steady / self.rounds)

    @property
    def kinds(self) -> list[type[Architecture]]:
        """Their architectures."""
        return [c.kind for c in self.contestants]


def _has(kind: type[Architecture] | type[Job], option: str) -> bool:
    return option.replace("-", "_") in kind.parameters


def vary(asked: Asked, text: str) -> tuple[Axis, list[tuple[list[Question], Pace]], list[str]]:
    """For each value of ``--vary PARAMETER=v1,v2,…`` what is asked then; and the architectures that do not
    have the parameter."""
    name, values = _read(text)
    given = {n.replace("_", "-") for n in asked.parameters}
    everybodys = name in LOADS or _has(asked.job, name)
    if not everybodys and not any(_has(kind, name) for kind in asked.kinds):
        raise BadUse(f"--vary {name}: {options.unknown_option(name, [*asked.kinds, asked.job])}")
    if name in given:
        raise BadUse(f"--vary {name}: it is given as --{name} too")
    if not everybodys and not any(c.varies(name) for c in asked.contestants):
        raise BadUse(f"--vary {name}: each of the architectures has its own")
    unit = next(
        (p.unit for k in (asked.job, *asked.kinds) for p in k.parameters.values() if p.option == name), ""
    )
    axis = axis_of(name, values, unit)
    every = [_with(asked, name, value).questions() for value in axis.values]
    alike = [] if everybodys else [c.name for c in asked.contestants if not c.varies(name)]
    return axis, every, alike


def _read(text: str) -> tuple[str, list[str]]:
    name, equals, words = text.partition("=")
    name = name.strip().removeprefix("--").replace("_", "-")
    values = [word.strip() for word in words.split(",")]
    if not name or not equals or len(values) < 2 or not all(values):
        raise BadUse(f"--vary takes PARAMETER=v1,v2,… with two values or more, not {text!r}")
    if len(set(values)) < len(values):
        raise BadUse(f"--vary {name}: {next(v for v in values if values.count(v) > 1)} is there twice")
    if len(values) > _MOST_VALUES:
        raise BadUse(f"--vary {name}: at most {_MOST_VALUES} values, not {len(values)}")
    return name, values


def _with(asked: Asked, name: str, value: str) -> Asked:
    """The same, with another value of one thing."""
    if name not in LOADS:
        return dataclasses.replace(asked, parameters={**asked.parameters, name: value})
    kind, field = LOADS[name], name.replace("-", "_")
    try:
        typed: Any = (value,) if name in ("churn", "fault") else kind(value)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise BadUse(f"--{name} takes {wanted}, not {value!r}") from None
    return dataclasses.replace(asked, **{field: typed})


_NUMBER = re.compile(r"((?:[a-z]+:)*)(-?[0-9]*\.?[0-9]+(?:e-?[0-9]+)?)(s|ms|us|)((?::.*)?)")
"""A number, perhaps with a unit of time, perhaps between words that are the same everywhere."""
_TIMES = {"s": 1000.0, "ms": 1.0, "us": 1e-3}


def axis_of(name: str, values: Sequence[str], unit: str = "") -> Axis:
    """The values as numbers, in ascending order, if they are numbers, times (``5ms``), or the same word with
    different numbers behind it (``poisson:1``, ``poisson:2``)."""
    parts = [_NUMBER.fullmatch(value) for value in values]
    words = {(part[1], part[4]) for part in parts if part}
    if not all(parts) or len(words) > 1:
        return Axis(parameter=name, values=tuple(values))
    units = {part[3] for part in parts if part}
    if "" in units and len(units) > 1:
        return Axis(parameter=name, values=tuple(values))
    times = "" not in units
    places = {
        value: float(part[2]) * (_TIMES[part[3]] if times else 1.0)
        for value, part in zip(values, parts)
        if part
    }
    ordered = sorted(values, key=lambda value: places[value])
    if len(set(places.values())) < len(values):
        raise BadUse(f"--vary {name}: two of {', '.join(values)} are the same")
    return Axis(
        parameter=name,
        values=tuple(ordered),
        places=tuple(places[value] for value in ordered),
        unit="ms" if times else unit,
    )
