"""The command line: ``polyarch list | show | run | compare | answer | scale | laws | check | replay | …``.

Exit codes: 0 when all verdicts hold, 1 when one does not, 2 for bad use, with one line that says what was
wrong and what would be right (3: something failed that nobody foresaw).  With ``--json -`` the record, and
nothing else, goes to standard output.  ``POLYARCH_DEBUG=1`` shows where an error comes from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import msgspec
from cyclopts import Parameter as Option
from rich.markup import escape

from polyarch.cli import options, output
from polyarch.cli.answer import answer_
from polyarch.cli.asked import Asked, check_offers, contestants
from polyarch.cli.asked import vary as vary_
from polyarch.cli.check import check_, replay_
from polyarch.cli.laws import laws_
from polyarch.cli.options import BadUse, check_file, check_load, check_question
from polyarch.cli.scale import scale_
from polyarch.cli.verify import verify_
from polyarch.core.dns import Dns
from polyarch.core.http import Http
from polyarch.core.job import Job
from polyarch.core.node import config_of
from polyarch.core.system import Architecture, Component, System
from polyarch.experiment import catalogue
from polyarch.experiment.compare import compare
from polyarch.experiment.record import save
from polyarch.experiment.run import Question, Trial, run
from polyarch.experiment.sweep import sweep
from polyarch.faults.spec import BadFault
from polyarch.report.curves import write_sweep
from polyarch.report.html import write_report
from polyarch.report.sweep import complete, names_of_figures, sweep_table
from polyarch.report.table import run_table
from polyarch.report.verdict import sentences
from polyarch.runtimes.base import SessionError

__all__ = ["app", "main"]

app = cyclopts.App(
    name="polyarch",
    help="One distributed system, many architectures: run it, break it, measure it, choose.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)


@app.command(name="list")
def list_(*, json: options.AsJson = False) -> int:
    """Jobs, architectures, which offers which, and the reason for each gap."""
    if json:
        output.print_json(output.catalogue_document())
    else:
        output.print_catalogue()
    return 0


@app.command
def show(architecture: options.Arch, /, *, json: options.AsJson = False) -> int:
    """What an architecture is: roles, parameters, claims, source."""
    kind = catalogue.architecture(architecture)
    if json:
        output.print_json(output.show_document(kind))
    else:
        output.print_architecture(kind)
    return 0


@app.command(name="run")
def run_(
    architecture: options.Arch,
    job: options.JobName | None = None,
    /,
    *,
    on: options.On = None,
    seed: options.Seed = 0,
    duration: options.Duration = None,
    rate: options.Rate = None,
    clients: options.Clients = None,
    fault: options.Faults = (),
    churn: options.ChurnWords = (),
    trace: options.Trace = None,
    speedup: options.Speedup = None,
    serve: Annotated[bool, Option(help="Keep it up, and print its address.", negative=())] = False,
    port: options.Port = 0,
    latency: options.Latency = None,
    bandwidth: options.Bandwidth = None,
    handler_cost: options.HandlerCost = None,
    disk_sync: options.DiskSync = None,
    per_process: options.PerProcess = 1,
    json: options.Json = None,
    **parameters: options.Parameters,
) -> int:
    """Run one architecture under a job's load, check it, and record it.

    Without a job it does the first that it offers.  The architecture's and the job's own parameters are
    further options: ``polyarch run raft --help`` lists them.
    """
    kind = catalogue.architecture(architecture)
    wanted = _job_of(kind, job)
    (values,), job_values = options.values_of(parameters, [kind], wanted)
    runtime = on or ("local" if serve else wanted.runtime)
    check_load(rate, clients, duration, speedup, trace, seed, per_process)
    check_file("--json", json)
    question = Question(
        architecture=options.make(kind, values),
        job=options.make(wanted, job_values),
        runtime=runtime,
        seed=seed,
        # A trace with a speed-up runs to its end, unless a duration is given.
        duration=10.0 if duration is None and (trace is None or speedup is None) else duration,
        rate=rate,
        clients=clients,
        faults=fault,
        churn=churn,
        trace=str(trace) if trace is not None else None,
        speedup=speedup,
        options=options.runtime_options(runtime, latency, bandwidth, handler_cost, disk_sync, per_process),
    )
    check_question(question)
    if serve:
        return _serve(question, port, duration, json)
    if port:
        raise BadUse("--port goes with --serve")
    quiet = json == "-"
    with output.progress([question], quiet=quiet):
        record = run(question)
    if json:
        save(record, json)
    if not quiet:
        output.console().print(run_table(record))
    return 0 if record.holds else 1


@app.command(name="compare")
def compare_(
    job: options.JobName,
    /,
    architectures: Annotated[
        tuple[str, ...],
        Option(
            help="Which, separated by commas; with settings of its own an architecture can be there several "
            "times: raft:servers=3,raft:servers=7.  [default: all that offer the job]",
            negative=(),
            show_default=False,
        ),
    ] = (),
    *,
    on: options.On = None,
    seed: options.Seed = 0,
    duration: Annotated[
        float | None,
        Option(
            help="Seconds of load for each figure of each architecture.  [default: 1.8; 9 with churn or "
            "between regions; and with faults each latency round lasts a second longer than they do]"
        ),
    ] = None,
    rate: options.Rate = None,
    clients: Annotated[options.Clients, Option(help="Closed-loop clients that are to saturate it.")] = 16,
    rounds: options.Rounds = 3,
    fault: options.Faults = (),
    churn: options.ChurnWords = (),
    trace: options.Trace = None,
    speedup: options.Speedup = None,
    latency: options.Latency = None,
    bandwidth: options.Bandwidth = None,
    handler_cost: options.HandlerCost = None,
    disk_sync: options.DiskSync = None,
    per_process: options.PerProcess = 1,
    kills: Annotated[bool, Option(help="Kill each role in turn and say what it costs.")] = True,
    vary: Annotated[
        str | None,
        Option(
            help="PARAMETER=v1,v2,…: compare at each value, and find the break-even.  A parameter of the "
            "architectures or the job, or rate, clients, latency, bandwidth, churn, …  Each round has a seed "
            "of its own, and nothing is killed."
        ),
    ] = None,
    figure: Annotated[str | None, Option(help="With --vary: by which figure the answer is given.")] = None,
    json: options.Json = None,
    report: Annotated[Path | None, Option(help="Write an HTML report with plots to a folder.")] = None,
    **parameters: options.Parameters,
) -> int:
    """Run one job under several architectures: same seed, same load, in turn; and say which serves it best.

    The architectures' and the job's own parameters are further options: ``polyarch compare kv --help``.
    """
    wanted = catalogue.job(job)
    asked = Asked(
        wanted, contestants(wanted, architectures), on or wanted.runtime, seed, duration, rate, clients,
        rounds, fault, churn, trace, speedup, latency, bandwidth, handler_cost, disk_sync, per_process, kills,
        parameters,
    )  # fmt: skip
    check_file("--json", json)
    check_file("--report", str(report) if report is not None else None, folder=True)
    if figure is not None and vary is None:
        raise BadUse("--figure goes with --vary")
    if vary is not None:
        return _sweep(asked, vary, figure, json, report)
    questions, pace = asked.questions()
    quiet = json == "-"
    with output.progress(questions, quiet=quiet):
        result = compare(questions, pace)
    result = msgspec.structs.replace(result, sentences=sentences(result))
    if json:
        save(result, json)
    page = write_report(result, report) if report is not None else None
    if not quiet:
        output.print_comparison(result)
        if page is not None:
            output.console().print(f"report: {page}")
    return 0 if result.holds else 1


def _sweep(asked: Asked, text: str, figure: str | None, json: str | None, report: Path | None) -> int:
    """``--vary``: the comparison at several values of one parameter."""
    axis, every, unaffected = vary_(dataclasses.replace(asked, kills=False), text)
    known = names_of_figures(asked.job, asked.kinds)
    if figure is not None and figure not in known:
        near = catalogue.near(figure, known)
        maybe = f"; did you mean {near!r}?" if near else f"; there are {', '.join(known)}"
        raise BadUse(f"--figure: nothing is called {figure!r}{maybe}")
    quiet = json == "-"
    with output.progress([q for questions, _ in every for q in questions], quiet=quiet):
        result = complete(sweep(axis, every, unaffected=unaffected), figure)
    if json:
        save(result, json)
    page = write_sweep(result, report) if report is not None else None
    if not quiet:
        out = output.console()
        out.print(sweep_table(result))
        for sentence in result.sentences:
            out.print(escape(sentence))
        if page is not None:
            out.print(f"report: {page}")
    return 0 if result.holds else 1


app.command(answer_, name="answer")
app.command(laws_, name="laws")
app.command(scale_, name="scale")
app.command(check_, name="check")
app.command(replay_, name="replay")
app.command(verify_, name="verify")


# -- names ----------------------------------------------------------------------------------------------


def _job_of(kind: type[Architecture], name: str | None) -> type[Job]:
    """The job that is wanted of an architecture: the first that it offers, unless one is named."""
    if name is None:
        if not kind.jobs:
            raise BadUse(f"{kind.name} offers no job")
        return catalogue.offered(kind)[0]
    wanted = catalogue.job(name)
    check_offers(kind, wanted)
    return wanted


# -- serving --------------------------------------------------------------------------------------------


def _serve(question: Question, port: int, duration: float | None, json: str | None) -> int:
    """Keep a system up for curl and browsers."""
    if question.runtime != "local":
        raise BadUse("--serve needs real sockets: use --on local")
    for name, given in (
        ("rate", question.rate), ("clients", question.clients), ("trace", question.trace),
        ("fault", question.faults or None), ("churn", question.churn or None), ("json", json),
    ):  # fmt: skip
        if given is not None:
            raise BadUse(f"--serve brings no load and records nothing: give no --{name} with it")
    system = System()
    question.architecture.build(system)
    front = _front(system)
    if front is None:
        raise BadUse(f"{type(question.architecture).name} has no front that speaks HTTP or DNS")
    if not 0 <= port < 65536:
        raise BadUse(f"--port takes a number from 0 to 65535, not {port}")
    question.options["http_ports"] = {front: port}
    trial = Trial(question)
    session: Any = trial.session
    try:
        address = session.http_address(front) + "/"
        what = f"{type(question.architecture).name} serves {type(question.job).name}"
        if (example := _dns_example(system, front)) is not None:
            address = address.strip("/").rpartition("/")[2]
            host, _, number = address.partition(":")
            address += f" by DNS: dig @{host} -p {number} {example}"
        with contextlib.suppress(KeyboardInterrupt):  # whoever has read the address may end it at once
            sys.stdout.write(f"{what} at {address}\n")
            sys.stdout.write("press Ctrl-C to end it\n" if duration is None else f"for {duration:g} s\n")
            sys.stdout.flush()
            session.wait(duration, front, lambda death: sys.stderr.write(f"polyarch: {death}\n"))
        return 1 if session.deaths else 0
    finally:
        trial.close()


def _front(system: System) -> str | None:
    """The address of what the clients speak HTTP with, or else ask for names."""
    assert system.client is not None
    for wire in config_of(system.client)[1].values():
        if isinstance(wire, Http):
            target = system.wired(wire, None, 0)
            return target if isinstance(target, str) else wire.address
        if isinstance(wire, Component) and isinstance(wire.simulated(), Http):  # a switch of somebody else's
            return wire.address
    for role in system.roles.values():  # nothing stands before the servers but their name
        if isinstance(role.nodes[0], Dns):
            return system.addresses(role.nodes[0])[0]
    return None


def _dns_example(system: System, front: str) -> str | None:
    """What to ask a front that speaks DNS; None: it speaks something else."""
    role, _ = system.role_of(front)
    node = role.nodes[0] if role is not None else None
    return type(node).example if isinstance(node, Dns) else None


# -- the way in -----------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # A shell that starts us in the background may have told us to ignore Ctrl-C; we have things to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone: so be it; and the interpreter shall not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        sys.stderr.write("polyarch: interrupted\n")
        code = 130
    except Exception as error:
        if os.environ.get("POLYARCH_DEBUG"):
            traceback.print_exc()
        line, code = _explained(error, tokens)
        sys.stderr.write(f"polyarch: {line}\n")
    sys.exit(code)


def _run(tokens: list[str]) -> int:
    code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    if {"--help", "-h"} & set(tokens):
        _help_on_parameters(tokens)
    return code if isinstance(code, int) else 0


def _help_on_parameters(tokens: list[str]) -> None:
    """``polyarch run raft --help`` tells Raft's parameters too."""
    output.parameters_help(_named(tokens))


def _named(tokens: list[str]) -> list[Any]:
    """The architectures and the job that a command line names, as far as it does."""
    names = [t for t in tokens[1:3] if not t.startswith("-")]
    named: list[Any] = []
    with contextlib.suppress(catalogue.UnknownName, BadUse):
        if tokens[0] in ("run", "check", "scale") and names:
            named.append(catalogue.architecture(names[0]))
            named.append(_job_of(named[0], names[1] if len(names) > 1 else None))
        elif tokens[0] == "compare" and names:
            named.append(catalogue.job(names[0]))
            named += [c.kind for c in contestants(named[0], ())]
    return named


def _explained(error: Exception, tokens: list[str]) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    line = " ".join(str(error).split())
    if isinstance(error, cyclopts.CycloptsError):
        return _misread(error, line, tokens), 2
    if isinstance(error, BadUse | BadFault | SessionError | catalogue.UnknownName):
        return line, 2
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), 2
    if isinstance(error, ValueError) and line:  # what reads users' words and files says what is wrong
        return line, 2
    return f"{type(error).__name__}: {line or 'no reason given'} (POLYARCH_DEBUG=1 shows where)", 3


def _misread(error: cyclopts.CycloptsError, line: str, tokens: list[str]) -> str:
    """What the parser of the command line says, in the words of the others."""
    known = ("list", "show", "run", "compare", "scale", "laws", "check", "replay", "verify")
    command = [t for t in tokens[:1] if t in known]
    hint = f"; see {' '.join(['polyarch', *command])} --help"
    missing = re.search(r"parameter (\S+) requires an argument", line)
    if isinstance(error, cyclopts.MissingArgumentError) and missing:
        name = missing[1].lstrip("-")
        if not missing[1].startswith("-"):
            return f"{tokens[0]} needs {'an' if name[0] in 'AEIOU' else 'a'} {name}{hint}"
        named = _named(tokens)
        own = {p.option for kind in named for p in kind.parameters.values()}
        if name.replace("_", "-") not in own | set(options.COMMON):
            return options.unknown_option(name, named)
        return f"--{name} needs a value{hint}"
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"what is {' '.join(error.unused_tokens or [])!r} for?  There is nothing to follow here" + hint
    return line.rstrip(".") + ("" if line.endswith("?") else hint)


def _terminated(signum: int, frame: object) -> None:
    # As Ctrl-C: a live session's event loop has its own way to end what it does then.
    signal.raise_signal(signal.SIGINT)
