"""The options that commands share, and what is wrong with them: one line each, before anything is started."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter as Option

from polyarch.core.job import Job
from polyarch.core.system import Architecture
from polyarch.experiment import catalogue
from polyarch.experiment.run import Question, churn_of, faults_of, load_of, wrong_combination
from polyarch.runtimes.sim.network import Network
from polyarch.runtimes.sim.options import HANDLER_COST, parse_latency, parse_seconds

__all__ = ["BadUse", "check_file", "check_load", "check_question", "make", "runtime_options", "values_of"]

MOST_NODES = 1_000_000
"""Of a simulation: more do not fit into memory."""
MOST_PROCESSES = 1000
"""Of a live run on one machine."""
MOST_CLIENTS = 100_000
MOST_OPERATIONS = 10_000_000
"""Of a history, which is checked as a whole."""
_MOST_OF_ANYTHING = 10_000_000
"""A parameter of an architecture that has no bound of its own."""


class BadUse(Exception):
    """One line for the user; exit code 2."""


def _integer(_: Any, tokens: Sequence[Any]) -> int:
    word = tokens[0].value
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"it takes an integer, not {word[:40]!r}") from None


_Int = Option(converter=_integer, n_tokens=1)

Arch = Annotated[str, Option(help="Its name, as in polyarch list; or the path of its file (./mine.py).")]
JobName = Annotated[str, Option(help="Its name, as in polyarch list; or the path of its file (./mine.py).")]
On = Annotated[
    Literal["sim", "local"] | None,
    Option(help="Where to run: simulated, or on this machine.  [default: where the job is meant to run]"),
]
Seed = Annotated[int, _Int, Option(help="Decides everything on sim, and the workload everywhere.")]
Duration = Annotated[float | None, Option(help="Seconds of load.  [default: 10]")]
Rate = Annotated[float | None, Option(help="Open loop: operations per second.  [default: the job's]")]
Clients = Annotated[int | None, _Int, Option(help="Closed loop: clients, each with one operation in flight.")]
Faults = Annotated[
    tuple[str, ...],
    Option(
        name="--fault",
        help="KIND:WHAT@START-END, such as crash:server-0@2-4, pause:any:logic@1-2, partition:a-0|a-1@1-3, "
        "loss:10%@0-5, delay:20ms:web>logic@0-5, skew:a-1:0.5@1-3; also duplicate, reorder.  Repeatable.",
        negative=(),
        show_default=False,
    ),
]
ChurnWords = Annotated[
    tuple[str, ...],
    Option(
        name="--churn",
        help="Peers come and go: poisson:RATE, or sessions:exponential:THERE:AWAY (also weibull:SHAPE, "
        "pareto:EXPONENT, lognormal:SIGMA), mean seconds; then :ROLE, and :crash to stop without a word.  "
        "Of few peers poisson may leave none: take sessions.  Repeatable.",
        negative=(),
        show_default=False,
    ),
]
Trace = Annotated[Path | None, Option(help="Replay recorded visits from a file of the job's format.")]
Speedup = Annotated[
    float | None, Option(help="With --trace: how many times faster.  [default: it fits into the duration]")
]
Latency = Annotated[
    str | None,
    Option(help="sim: one-way latency: 1ms, 1ms-5ms, exp:2ms, lognormal:1ms:0.5, regions.  [default: 0.5ms]"),
]
Bandwidth = Annotated[float | None, Option(help="sim: megabytes per second of each process's link.")]
HandlerCost = Annotated[
    str | None, Option(help="sim: core time of each message where it is handled.  [default: 2us]")
]
DiskSync = Annotated[str | None, Option(help="sim: time that a flush takes.  [default: 1ms]")]
PerProcess = Annotated[int, _Int, Option(help="Nodes of a role that share a process, and its crashes.")]
Port = Annotated[int, _Int, Option(help="With --serve: the port of its front; 0: any.")]
Rounds = Annotated[int, _Int, Option(help="Into how many interleaved rounds the load is divided.")]
Json = Annotated[
    str | None,
    Option(help="Write the record to a file; - for standard output.", allow_leading_hyphen=True),
]
AsJson = Annotated[bool, Option(help="As JSON.", negative=())]
Parameters = Annotated[str, Option(show=False)]

COMMON = (
    "on", "seed", "duration", "rate", "clients", "fault", "churn", "trace", "speedup", "serve", "port",
    "json", "report", "latency", "bandwidth", "handler-cost", "disk-sync", "per-process", "architectures",
    "rounds", "kills", "vary", "figure", "of", "seeds", "random", "folder", "workers", "help",
)  # fmt: skip
"""Names that no parameter of an architecture or a job may have."""


# -- parameters of architectures and jobs ---------------------------------------------------------------


def values_of(
    given: Mapping[str, str], kinds: Sequence[type[Architecture]], job: type[Job]
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The parameters of each architecture, and of the job, among the further options."""
    values = {name.replace("-", "_"): value for name, value in given.items()}
    for name in values:
        if not any(name in kind.parameters for kind in (*kinds, job)):
            raise BadUse(unknown_option(name, [*kinds, job]))
    return (
        [{n: v for n, v in values.items() if n in kind.parameters} for kind in kinds],
        {n: v for n, v in values.items() if n in job.parameters},
    )


def unknown_option(name: str, kinds: Sequence[type[Architecture] | type[Job]]) -> str:
    """There is no such option; did you mean another?"""
    option = name.replace("_", "-")
    own = dict.fromkeys(p.option for kind in kinds for p in kind.parameters.values())
    near = catalogue.near(option, [*own, *COMMON])
    if near:
        return f"there is no option --{option}; did you mean --{near}?"
    named = ", ".join(kind.name for kind in kinds)
    listed = f"the parameters of {named} are --{', --'.join(own)}" if own else "--help lists them"
    return f"there is no option --{option}; {listed}"


def make(kind: Callable[..., Any], values: Mapping[str, str]) -> Any:
    """An architecture or a job with these parameters."""
    try:
        made = kind(**values)
    except ValueError as error:
        raise BadUse(str(error)) from None
    for p in made.parameters.values():
        value = getattr(made, p.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise BadUse(f"--{p.option} takes {p.wanted}, not {value!r}")
        if isinstance(made, Architecture) and p.most is None and p.type is int and value > _MOST_OF_ANYTHING:
            raise BadUse(f"--{p.option} takes an integer of at most {_MOST_OF_ANYTHING:,}, not {value:,}")
    return made


# -- checks ---------------------------------------------------------------------------------------------


def check_load(
    rate: float | None,
    clients: int | None,
    duration: float | None,
    speedup: float | None,
    trace: Path | None,
    seed: int,
    per_process: int,
) -> None:
    """Numbers are in their ranges, and what goes together is together."""
    for name, value in (("rate", rate), ("duration", duration), ("speedup", speedup)):
        if value is not None and not 0 < value < 1e9:
            raise BadUse(f"--{name} takes a number above 0, not {value:g}")
    for name, count in (("clients", clients), ("per-process", per_process)):
        if count is not None and count < 1:
            raise BadUse(f"--{name} takes an integer of at least 1, not {count}")
    if clients is not None and clients > MOST_CLIENTS:
        raise BadUse(f"--clients takes an integer of at most {MOST_CLIENTS:,}, not {clients:,}")
    if not 0 <= seed < 2**63:
        raise BadUse(f"--seed takes an integer from 0 to 2^63 - 1, not {seed}")
    if speedup is not None and trace is None:
        raise BadUse("--speedup goes with --trace FILE")
    if trace is not None and not trace.is_file():
        raise BadUse(f"--trace: {str(trace)!r} is {'a folder' if trace.is_dir() else 'not there'}")


def check_file(option: str, name: str | None, *, folder: bool = False) -> None:
    """What is to be written can be written: found out now, not when the work is done."""
    if name is None or (name == "-" and not folder):
        return
    if not name or name.startswith("--"):
        raise BadUse(f"{option} takes the name of a {'folder' if folder else 'file, or -'}, not {name!r}")
    path = Path(name)
    try:
        if folder:
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            path.open("ab").close()
            if new:
                path.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadUse(f"{option}: {name!r} cannot be written: {reason}") from None


def check_question(question: Question) -> None:
    """The architecture can be built, the trace be read to its end, and the faults be done."""
    wrong = wrong_combination(question)
    if wrong:
        raise BadUse(wrong)
    name = question.called
    try:
        system = question.architecture.system(per_process=question.options.get("per_process", 1))
    except Exception as error:
        if os.environ.get("POLYARCH_DEBUG"):
            raise
        raise BadUse(f"{name} cannot be built: {_reason(error)}") from error
    load = load_of(question)
    expected = (load.rate or 0.0) * load.duration
    if expected > MOST_OPERATIONS:
        raise BadUse(
            f"{load.rate:,g} operations/s for {load.duration:,g} s are {expected:,.0f}: "
            f"at most {MOST_OPERATIONS:,} can be checked; give a lower --rate or --duration"
        )
    nodes = sum(role.count for role in system.roles.values())
    processes = sum(len(role.process_names()) for role in system.roles.values())
    if question.runtime == "sim" and nodes > MOST_NODES:
        raise BadUse(f"{nodes:,} nodes: a simulation holds at most {MOST_NODES:,}")
    if question.runtime != "sim" and processes > MOST_PROCESSES:
        raise BadUse(
            f"{processes:,} processes: this machine runs at most {MOST_PROCESSES:,}; "
            "let nodes share them with --per-process N, or use --on sim"
        )
    faults_of(question, system)
    churn_of(question, system)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def runtime_options(
    runtime: str,
    latency: str | None,
    bandwidth: float | None,
    handler_cost: str | None,
    disk_sync: str | None,
    per_process: int,
) -> dict[str, Any]:
    """What a session is opened with."""
    options: dict[str, Any] = {"per_process": per_process}
    simulated = {
        "latency": latency, "bandwidth": bandwidth, "handler-cost": handler_cost, "disk-sync": disk_sync
    }  # fmt: skip
    given = [name for name, value in simulated.items() if value is not None]
    if runtime != "sim":
        if given:
            raise BadUse(f"--{given[0]} describes a simulation: use --on sim")
        return options
    network = options["network"] = Network()
    if latency is not None:
        network.latency = parse_latency(latency)
    if bandwidth is not None:
        if not 0 < bandwidth < 1e9:
            raise BadUse(f"--bandwidth takes megabytes per second above 0, not {bandwidth:g}")
        network.bandwidth = bandwidth * 1e6
    options["handler_cost"] = HANDLER_COST
    if handler_cost is not None:
        options["handler_cost"] = parse_seconds(handler_cost, "--handler-cost")
    if disk_sync is not None:
        options["disk_sync"] = parse_seconds(disk_sync, "--disk-sync")
    return options
