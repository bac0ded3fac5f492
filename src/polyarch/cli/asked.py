"""What a comparison is asked for on the command line, and the same for each value of ``--vary``."""

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
from polyarch.experiment.compare import Pace
from polyarch.experiment.run import Question
from polyarch.experiment.sweep import Axis
from polyarch.faults.spec import over

__all__ = ["LOADS", "Asked", "axis_of", "vary"]

_SECONDS = 1.8
"""Of load for each figure."""
_CHURNED = 9.0
"""Seconds in which peers come and go, in all rounds together."""
_MOST_VALUES = 100

LOADS: Mapping[str, type] = {
    "rate": float, "clients": int, "duration": float, "latency": str, "bandwidth": float,
    "handler-cost": str, "disk-sync": str, "per-process": int, "churn": str, "fault": str,
}  # fmt: skip
"""What can be varied beside the parameters of the architectures and of the job."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """The words of ``polyarch compare``."""

    job: type[Job]
    kinds: Sequence[type[Architecture]]
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
        if self.duration is None and self.churn:
            steady = max(steady, _CHURNED)
        values, job_values = options.values_of(self.parameters, self.kinds, self.job)
        session = options.runtime_options(
            self.runtime, self.latency, self.bandwidth, self.handler_cost, self.disk_sync, self.per_process
        )
        questions = [
            Question(
                architecture=options.make(kind, own),
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
            for kind, own in zip(self.kinds, values)
        ]
        for question in questions:
            check_question(question)
        clients = self.clients or 1
        pace = Pace.of(self.runtime, rounds=self.rounds, seconds=seconds, clients=clients, kills=self.kills)
        return questions, dataclasses.replace(pace, steady=steady / self.rounds)


def vary(asked: Asked, text: str) -> tuple[Axis, list[tuple[list[Question], Pace]], list[str]]:
    """For each value of ``--vary PARAMETER=v1,v2,…`` what is asked then; and the architectures that do not
    have the parameter."""
    name, values = _read(text)
    given = {n.replace("_", "-") for n in asked.parameters}
    has = [any(p.option == name for p in kind.parameters.values()) for kind in (*asked.kinds, asked.job)]
    if name not in LOADS and not any(has):
        raise BadUse(f"--vary {name}: {options.unknown_option(name, [*asked.kinds, asked.job])}")
    if name in given:
        raise BadUse(f"--vary {name}: it is given as --{name} too")
    unit = next(
        (p.unit for k in (asked.job, *asked.kinds) for p in k.parameters.values() if p.option == name), ""
    )
    axis = axis_of(name, values, unit)
    every = [_with(asked, name, value).questions() for value in axis.values]
    alike = [] if name in LOADS or has[-1] else [k.name for k, own in zip(asked.kinds, has) if not own]
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
