"""The command line: ``polyarch list | show | run | compare``.

Exit codes: 0 when all verdicts hold, 1 when one does not, 2 for bad use, with one line that says what was
wrong and what would be right.  With ``--json -`` the record, and nothing else, goes to standard output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import msgspec
from cyclopts import Parameter as Option
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from polyarch.core.job import Job
from polyarch.core.node import config_of
from polyarch.core.http import Http
from polyarch.core.system import Architecture, System
from polyarch.experiment import catalogue
from polyarch.experiment.compare import Pace, compare
from polyarch.experiment.record import Comparison, save
from polyarch.experiment.run import Question, Trial, run, wrong_combination
from polyarch.faults.spec import BadFault
from polyarch.report.html import write_report
from polyarch.report.table import blast_radius_table, comparison_table, matrix_table, run_table
from polyarch.report.verdict import sentences
from polyarch.runtimes.base import SessionError

__all__ = ["app", "main"]

app = cyclopts.App(
    name="polyarch",
    help="One distributed system, many architectures: run it, break it, measure it, choose.",
    version_flags=["--version"],
)

Runtime = Literal["sim", "local"]


class BadUse(Exception):
    """One line for the user; exit code 2."""


# -- options that several commands share ------------------------------------------------------------------


On = Annotated[Runtime | None, Option(help="Where to run: simulated, or on this machine.  Default: the job's.")]
Seed = Annotated[int, Option(help="Decides everything on sim, and the workload everywhere.")]
Duration = Annotated[float | None, Option(help="Seconds of load.")]
Rate = Annotated[float | None, Option(help="Open loop: operations per second.")]
Clients = Annotated[int | None, Option(help="Closed loop: clients.")]
Faults = Annotated[
    tuple[str, ...], Option(name="--fault", help="Such as crash:logic-0@2-4 or loss:0.1@0-5; repeatable.", negative=())
]
Trace = Annotated[Path | None, Option(help="Replay recorded visits from a file of the job's format.")]
Speedup = Annotated[float | None, Option(help="How many times faster than recorded.")]
Latency = Annotated[str | None, Option(help="sim: one-way latency: 1ms, 1ms-5ms, exp:2ms, regions, …")]
Bandwidth = Annotated[float | None, Option(help="sim: megabytes per second of each process's link.")]
HandlerCost = Annotated[str | None, Option(help="sim: core time of each message where it is handled.")]
DiskSync = Annotated[str | None, Option(help="sim: time that a flush takes.")]
PerProcess = Annotated[int, Option(help="Instances of a role of one node that share a process.")]
Json = Annotated[str | None, Option(help="Write the record to a file; - for standard output.")]


# -- commands -----------------------------------------------------------------------------------------------


@app.command(name="list")
def list_(*, json: Annotated[bool, Option(help="As JSON.", negative=())] = False) -> int:
    """Jobs, architectures, which offers which, and the reason for each gap."""
    matrix = catalogue.matrix()
    if json:
        document = {
            "jobs": {
                name: {"summary": _summary(kind), "operations": _operations(kind), "parameters": _parameters(kind)}
                for name, kind in catalogue.jobs().items()
            },
            "architectures": {
                name: {
                    "summary": _summary(kind),
                    "family": kind.family,
                    "source": kind.source,
                    "jobs": [j.name for j in kind.jobs],
                    "claims": list(kind.claims),
                    "parameters": _parameters(kind),
                }
                for name, kind in catalogue.architectures().items()
            },
            "matrix": {
                job: {a: {"offered": not reason, "reason": reason or None} for a, reason in row.items()}
                for job, row in matrix.items()
            },
        }
        _print_json(document)
        return 0
    console = _console()
    for title, kinds in (("Jobs", catalogue.jobs()), ("Architectures", catalogue.architectures())):
        console.print(f"[bold]{title}[/]")
        for name, kind in kinds.items():
            console.print(f"  [cyan]{name:<16}[/] {_summary(kind)}")
        console.print()
    console.print(matrix_table(matrix))
    return 0


@app.command
def show(architecture: str, *, json: Annotated[bool, Option(help="As JSON.", negative=())] = False) -> int:
    """What an architecture is: roles, parameters, claims, source."""
    kind = catalogue.architecture(architecture)
    system = System()
    made = kind()
    made.build(system)
    roles = {
        role.name: {
            "count": role.count,
            "nodes": [type(n).__name__ for n in role.nodes],
            "component": type(role.component).__name__ if role.component else None,
        }
        for role in system.roles.values()
    }
    document = {
        "architecture": kind.name,
        "summary": _summary(kind),
        "description": _text(kind),
        "family": kind.family,
        "source": kind.source,
        "jobs": [j.name for j in kind.jobs],
        "roles": roles,
        "parameters": _parameters(kind),
        "claims": list(kind.claims),
        "metrics": dict(kind.metrics),
    }
    if json:
        _print_json(document)
        return 0
    console = _console()
    console.print(f"[bold cyan]{kind.name}[/]  ({kind.family})\n\n{_text(kind)}\n")
    console.print(f"[bold]Source[/]   {kind.source}\n[bold]Jobs[/]     {', '.join(j.name for j in kind.jobs)}")
    console.print("\n[bold]Roles[/]")
    for name, role in roles.items():
        what = role["component"] or ", ".join(role["nodes"])
        console.print(f"  {name:<16} {role['count']:>4} x {what}")
    if kind.parameters:
        console.print("\n[bold]Parameters[/]")
        for p in kind.parameters.values():
            console.print(f"  --{p.option:<18} {p.doc} ({p.wanted}; default {p.default})")
    for title, lines in (
        ("Claims", list(kind.claims)),
        ("Metrics", [f"{n}: {text}" for n, text in kind.metrics.items()]),
    ):
        if lines:
            console.print(f"\n[bold]{title}[/]")
            for line in lines:
                console.print(f"  {line}")
    return 0


@app.command(name="run")
def run_(
    architecture: str,
    job: str | None = None,
    /,
    *,
    on: On = None,
    seed: Seed = 0,
    duration: Duration = None,
    rate: Rate = None,
    clients: Clients = None,
    fault: Faults = (),
    trace: Trace = None,
    speedup: Speedup = None,
    serve: Annotated[bool, Option(help="Keep it up, and print its address.", negative=())] = False,
    port: Annotated[int, Option(help="With --serve: the port of its front; 0: any.")] = 0,
    latency: Latency = None,
    bandwidth: Bandwidth = None,
    handler_cost: HandlerCost = None,
    disk_sync: DiskSync = None,
    per_process: PerProcess = 1,
    json: Json = None,
    **parameters: str,
) -> int:
    """Run one architecture under a job's load, check it, and record it."""
    kind = catalogue.architecture(architecture)
    wanted = _job_of(kind, job)
    reason = catalogue.gap(kind, wanted)
    if reason:
        raise BadUse(f"{kind.name} does not do the job {wanted.name}: {reason}")
    values, rest = _split(parameters, [kind])
    job_values = _job_values(wanted, rest, [kind])
    runtime = on or ("local" if serve else wanted.runtime)
    _usable(rate, clients, duration, speedup, trace, seed, per_process)
    question = Question(
        architecture=_made(kind, values),
        job=_made(wanted, job_values),
        runtime=runtime,
        seed=seed,
        duration=_duration(duration, trace, speedup, 10.0),
        rate=rate,
        clients=clients,
        faults=fault,
        trace=str(trace) if trace is not None else None,
        speedup=speedup,
        options=_options(runtime, latency, bandwidth, handler_cost, disk_sync, per_process),
    )
    _check_question(question)
    if serve:
        return _serve(question, port, duration)
    if port:
        raise BadUse("--port goes with --serve")
    quiet = json == "-"
    with _progress(question, quiet):
        record = run(question)
    if json:
        save(record, json)
    if not quiet:
        _console().print(run_table(record))
    return 0 if record.holds else 1


@app.command(name="compare")
def compare_(
    job: str,
    /,
    *,
    architectures: Annotated[str | None, Option(help="Which, separated by commas; all that offer the job.")] = None,
    on: On = None,
    seed: Seed = 0,
    duration: Annotated[float, Option(help="Seconds of load for each figure of each architecture.")] = 3.0,
    rate: Rate = None,
    clients: Annotated[int, Option(help="Closed-loop clients that saturate it.")] = 16,
    rounds: Annotated[int, Option(help="Into how many interleaved rounds the load is divided.")] = 3,
    fault: Faults = (),
    trace: Trace = None,
    speedup: Speedup = None,
    latency: Latency = None,
    bandwidth: Bandwidth = None,
    handler_cost: HandlerCost = None,
    disk_sync: DiskSync = None,
    per_process: PerProcess = 1,
    kills: Annotated[bool, Option(help="Kill each role in turn and say what it costs.")] = True,
    json: Json = None,
    report: Annotated[Path | None, Option(help="Write an HTML report with plots to a folder.")] = None,
    **parameters: str,
) -> int:
    """Run one job under several architectures: same seed, same load, in turn; and say which serves it best."""
    wanted = catalogue.job(job)
    if architectures is not None:
        names = [name.strip() for name in architectures.split(",") if name.strip()]
        kinds = [catalogue.architecture(name) for name in names]
        for kind in kinds:
            reason = catalogue.gap(kind, wanted)
            if reason:
                raise BadUse(f"{kind.name} does not do the job {wanted.name}: {reason}")
    else:
        kinds = [k for k in catalogue.architectures().values() if not catalogue.gap(k, wanted)]
        kinds.sort(key=lambda k: _COMPARISON_ORDER.get(k.name, 99))
    if not kinds:
        raise BadUse(f"no architecture offers the job {wanted.name}")
    if len(set(kinds)) < len(kinds):
        raise BadUse("--architectures names one twice")
    runtime = on or wanted.runtime
    _usable(rate, clients, duration, speedup, trace, seed, per_process)
    if rounds < 1:
        raise BadUse(f"--rounds takes an integer of at least 1, not {rounds}")
    _, rest = _split(parameters, kinds)
    job_values = _job_values(wanted, rest, kinds)
    options = _options(runtime, latency, bandwidth, handler_cost, disk_sync, per_process)
    questions = []
    for kind in kinds:
        own, _ = _split(parameters, [kind])
        question = Question(
            architecture=_made(kind, own),
            job=_made(wanted, job_values),
            runtime=runtime,
            seed=seed,
            duration=duration,
            rate=rate,
            faults=fault,
            trace=str(trace) if trace is not None else None,
            speedup=speedup,
            options=options,
        )
        _check_question(question)
        questions.append(question)
    each = duration / rounds
    pace = Pace(rounds=rounds, saturation=each, clients=clients, steady=each, kills=kills)
    quiet = json == "-"
    with _progress(questions, quiet):
        result = compare(questions, pace)
    result = msgspec.structs.replace(result, sentences=sentences(result))
    if json:
        save(result, json)
    if report is not None:
        page = write_report(result, report)
    if not quiet:
        _print_comparison(result)
        if report is not None:
            _console().print(f"report: {page}")
    return 0 if result.holds else 1


_COMPARISON_ORDER = {"client_server": 0, "three_tier": 1, "replicated": 2, "microservices": 3}


def _print_comparison(result: Comparison) -> None:
    console = _console()
    console.print(comparison_table(result))
    if result.blast_radius:
        console.print(blast_radius_table(result.blast_radius))
    for sentence in result.sentences:
        console.print(f"• {sentence}")


# -- serving --------------------------------------------------------------------------------------------------


def _serve(question: Question, port: int, duration: float | None) -> int:
    """Keep a system up for curl and browsers."""
    if question.runtime != "local":
        raise BadUse("--serve needs real sockets: use --on local")
    if question.trace is not None or question.rate is not None or question.clients is not None:
        raise BadUse("--serve brings no load: give no --rate, --clients or --trace with it")
    system = System()
    question.architecture.build(system)
    front = _front(system)
    if front is None:
        raise BadUse(f"{type(question.architecture).name} has no front that speaks HTTP")
    if not 0 <= port < 65536:
        raise BadUse(f"--port takes a number from 0 to 65535, not {port}")
    question.options["http_ports"] = {front: port}
    trial = Trial(question)
    try:
        address = trial.session.http_address(front)  # type: ignore[attr-defined]
        sys.stdout.write(f"{type(question.architecture).name} serves {type(question.job).name} at {address}/\n")
        sys.stdout.write("press Ctrl-C to end it\n" if duration is None else f"for {duration:g} s\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            trial.session.wait(duration)  # type: ignore[attr-defined]
        deaths = trial.session.deaths  # type: ignore[attr-defined]
        for death in deaths:
            sys.stderr.write(f"polyarch: {death}\n")
        return 1 if deaths else 0
    finally:
        trial.close()


def _front(system: System) -> str | None:
    """The address of what the clients speak HTTP with."""
    assert system.client is not None
    for wire in config_of(system.client)[1].values():
        if isinstance(wire, Http):
            target = system.wired(wire, None, 0)
            return target if isinstance(target, str) else wire.address
    return None


# -- checking what was asked ------------------------------------------------------------------------------------


def _job_of(kind: type[Architecture], name: str | None) -> type[Job]:
    if name is not None:
        return catalogue.job(name)
    if not kind.jobs:
        raise BadUse(f"{kind.name} offers no job")
    return catalogue.job(kind.jobs[0].name)


def _split(given: dict[str, str], kinds: list[type[Architecture]]) -> tuple[dict[str, str], dict[str, str]]:
    """Which of the further options are parameters of these architectures, and which are not."""
    names = {name.replace("-", "_"): value for name, value in given.items()}
    known = {name for kind in kinds for name in kind.parameters}
    return (
        {n: v for n, v in names.items() if n in known},
        {n: v for n, v in names.items() if n not in known},
    )


def _job_values(job: type[Job], rest: dict[str, str], kinds: list[type[Architecture]]) -> dict[str, str]:
    for name in rest:
        if name not in job.parameters:
            known = [p for k in kinds for p in k.parameters] + list(job.parameters)
            options = [n.replace("_", "-") for n in dict.fromkeys(known)]
            near = catalogue.suggestion(name.replace("_", "-"), [*options, *_OPTIONS])
            raise BadUse(f"there is no option --{name.replace('_', '-')}; {near}")
    return rest


_OPTIONS = (
    "on", "seed", "duration", "rate", "clients", "fault", "trace", "speedup", "serve", "port", "json", "report",
    "latency", "bandwidth", "handler-cost", "disk-sync", "per-process", "architectures", "rounds", "kills",
)  # fmt: skip


def _made(kind: Callable[..., Any], values: dict[str, str]) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        raise BadUse(str(error)) from None


def _usable(
    rate: float | None,
    clients: int | None,
    duration: float | None,
    speedup: float | None,
    trace: Path | None,
    seed: int,
    per_process: int,
) -> None:
    for name, value in (("rate", rate), ("duration", duration), ("speedup", speedup)):
        if value is not None and not 0 < value < 1e9:
            raise BadUse(f"--{name} takes a number above 0, not {value:g}")
    for name, count in (("clients", clients), ("per-process", per_process)):
        if count is not None and count < 1:
            raise BadUse(f"--{name} takes an integer of at least 1, not {count}")
    if seed < 0:
        raise BadUse(f"--seed takes an integer of at least 0, not {seed}")
    if speedup is not None and trace is None:
        raise BadUse("--speedup goes with --trace FILE")
    if trace is not None and not trace.is_file():
        raise BadUse(f"--trace: there is no file {str(trace)!r}")


def _duration(
    duration: float | None, trace: Path | None, speedup: float | None, default: float
) -> float | None:
    """A trace with a speed-up runs to its end unless a duration is given."""
    if duration is None and trace is not None and speedup is not None:
        return None
    return default if duration is None else duration


def _check_question(question: Question) -> None:
    wrong = wrong_combination(question)
    if wrong:
        raise BadUse(wrong)
    if question.trace is not None:
        for _ in question.job.trace(Path(question.trace)):
            pass  # read to its end before anything is started: a bad line is found here
    try:
        question.architecture.build(System())
    except ValueError as error:
        raise BadUse(str(error)) from None


def _options(
    runtime: str,
    latency: str | None,
    bandwidth: float | None,
    handler_cost: str | None,
    disk_sync: str | None,
    per_process: int,
) -> dict[str, Any]:
    given = {
        "latency": latency, "bandwidth": bandwidth, "handler-cost": handler_cost, "disk-sync": disk_sync
    }  # fmt: skip
    if runtime != "sim":
        for name, value in given.items():
            if value is not None:
                raise BadUse(f"--{name} describes a simulation: use --on sim")
        return {"per_process": per_process}
    from polyarch.runtimes.sim.network import Network
    from polyarch.runtimes.sim.options import parse_latency, parse_seconds

    network = Network()
    if latency is not None:
        network.latency = parse_latency(latency)
    if bandwidth is not None:
        if bandwidth <= 0:
            raise BadUse(f"--bandwidth takes megabytes per second above 0, not {bandwidth:g}")
        network.bandwidth = bandwidth * 1e6
    options: dict[str, Any] = {"per_process": per_process, "network": network}
    if handler_cost is not None:
        options["handler_cost"] = parse_seconds(handler_cost, "--handler-cost")
    if disk_sync is not None:
        options["disk_sync"] = parse_seconds(disk_sync, "--disk-sync")
    return options


# -- output -------------------------------------------------------------------------------------------------------


def _console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for tables in a file or a pipe."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=140)


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0] if kind.__doc__ else ""


def _text(kind: type) -> str:
    import inspect

    return inspect.getdoc(kind) or ""


def _operations(kind: type[Job]) -> dict[str, str]:
    from polyarch.core.messages import schema_of

    return {name: method.signature() for name, method in schema_of(kind.port).methods.items()}


def _parameters(kind: Any) -> dict[str, Any]:
    return {
        p.option: {"default": p.default, "takes": p.wanted, "doc": p.doc} for p in kind.parameters.values()
    }


def _print_json(document: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    sys.stdout.write(text + "\n")


@contextlib.contextmanager
def _progress(questions: Question | list[Question], quiet: bool) -> Iterator[None]:
    """A line that says what is going on, where somebody looks."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        line = bar.add_task("starting")

        def tell(phase: str, seconds: float) -> None:
            bar.update(line, description=f"{phase} {seconds:.1f} s" if seconds else phase)

        for question in questions if isinstance(questions, list) else [questions]:
            question.progress = tell
        yield


# -- the way in ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    # A shell that starts us in the background may have told us to ignore Ctrl-C; we have things to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        code = _complain(" ".join(str(error).split()))
    except (BadUse, BadFault, SessionError, catalogue.UnknownName) as error:
        code = _complain(str(error))
    except ValueError as error:
        # What reads users' files and words raises ValueError with one line.
        if os.environ.get("POLYARCH_DEBUG"):
            raise
        code = _complain(" ".join(str(error).split()))
    except OSError as error:
        code = _complain(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    except BrokenPipeError:
        code = 141
    except KeyboardInterrupt:
        sys.stderr.write("polyarch: interrupted\n")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _complain(line: str) -> int:
    sys.stderr.write(f"polyarch: {line}\n")
    return 2


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt

