"""``polyarch scale``: throughput at saturation against size, and what limits it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter as Option

from polyarch.cli import options, output
from polyarch.cli.options import BadUse, check_file, check_load, check_question
from polyarch.core.system import Architecture
from polyarch.experiment import catalogue
from polyarch.experiment.record import save
from polyarch.experiment.run import Question
from polyarch.experiment.scale import Effort, scale, size_parameter
from polyarch.report.scale import scale_sentence, scale_table, write_scale

__all__ = ["scale_"]

_SIZES = {"sim": (1, 2, 4, 8, 16), "local": (1, 2, 4, 8)}


def scale_(
    architecture: options.Arch,
    job: options.JobName | None = None,
    /,
    *,
    nodes: Annotated[
        str | None,
        Option(help="Three sizes or more: 1,2,4,8,…  [default: 1,2,4,8,16; on local to 8]"),
    ] = None,
    of: Annotated[
        str | None, Option(help="The parameter that is the size.  [default: the architecture's main count]")
    ] = None,
    on: Annotated[
        Literal["sim", "local"], Option(help="Where to run: simulated, or on this machine.")
    ] = "sim",
    seed: options.Seed = 0,
    rounds: Annotated[options.Rounds, Option(help="Each with a deployment and a seed of its own.")] = 3,
    duration: Annotated[
        float | None, Option(help="local: seconds of each measurement.  [default: 1]")
    ] = None,
    clients: Annotated[
        options.Clients, Option(help="Clients that saturate it.  [default: as many as it takes]")
    ] = None,
    latency: options.Latency = None,
    bandwidth: options.Bandwidth = None,
    handler_cost: options.HandlerCost = None,
    disk_sync: options.DiskSync = None,
    per_process: options.PerProcess = 1,
    json: options.Json = None,
    report: Annotated[Path | None, Option(help="Write an HTML report with plots to a folder.")] = None,
    **parameters: options.Parameters,
) -> int:
    """How scalable is this?  Saturate it at several sizes, and fit the Universal Scalability Law: linear to
    how many, its peak, and whether contention or coherence limits it.

    The architecture's and the job's own parameters are further options.
    """
    kind = catalogue.architecture(architecture)
    wanted = catalogue.job(job) if job is not None else catalogue.offered(kind)[0]
    reason = catalogue.gap(kind, wanted)
    if reason:
        raise BadUse(f"{kind.name} does not do the job {wanted.name}: {reason}")
    runtime = on
    parameter = _parameter(kind, of)
    sizes = _sizes(kind, parameter, nodes, runtime)
    if parameter.replace("_", "-") in {n.replace("_", "-") for n in parameters}:
        raise BadUse(f"--{parameter} is what is scaled: give its values with --nodes")
    check_load(None, clients, duration, None, None, seed, per_process)
    if duration is not None and runtime == "sim":
        raise BadUse("--duration goes with --on local: on sim each measurement has as many operations")
    if not 1 <= rounds <= 1000:
        raise BadUse(f"--rounds takes an integer from 1 to 1000, not {rounds}")
    check_file("--json", json)
    check_file("--report", str(report) if report is not None else None, folder=True)
    (values,), job_values = options.values_of(parameters, [kind], wanted)
    session = options.runtime_options(runtime, latency, bandwidth, handler_cost, disk_sync, per_process)
    made = options.make(wanted, job_values)
    questions = {
        size: Question(
            architecture=options.make(kind, {**values, parameter: str(size)}),
            job=made,
            runtime=runtime,
            seed=seed,
            clients=clients or 4,
            options=dict(session),
        )
        for size in sizes
    }
    for question in questions.values():
        check_question(question)

    def ask(size: int) -> Question:
        question = questions[size]
        question.seed = seed
        return question

    effort = Effort(rounds=rounds, clients=clients, seconds=duration or 1.0)
    if runtime != "sim":
        effort = Effort(rounds, seconds=duration or 1.0, clients=clients, most_clients=512)
    quiet = json == "-"
    with output.progress(list(questions.values()), quiet=quiet):
        result = scale(ask, sizes, effort, parameter=parameter)
    result = msgspec.structs.replace(result, sentence=scale_sentence(result))
    if json:
        save(result, json)
    page = write_scale(result, report) if report is not None else None
    if not quiet:
        out = output.console()
        out.print(scale_table(result))
        if page is not None:
            out.print(f"report: {page}")
    return 0


def _parameter(kind: type[Architecture], of: str | None) -> str:
    """The parameter that is the size."""
    counts = [p.option for p in kind.parameters.values() if p.type is int]
    if of is not None:
        name = of.replace("-", "_")
        if name not in kind.parameters:
            raise BadUse(f"--of: {options.unknown_option(of, [kind])}")
        if kind.parameters[name].type is not int:
            has = f"; integers are --{', --'.join(counts)}" if counts else ""
            raise BadUse(f"--of {of}: that is no number of anything{has}")
        return name
    main = size_parameter(kind)
    if main is None:
        has = f"; its integers are --{', --'.join(counts)}: choose one with --of" if counts else ""
        raise BadUse(f"{kind.name} has no number of nodes, servers, shards or cores to be scaled{has}")
    return main


def _sizes(kind: type[Architecture], parameter: str, words: str | None, runtime: str) -> list[int]:
    """The sizes in ascending order."""
    p = kind.parameters[parameter]
    least, most = p.least if p.least is not None else 1, p.most if p.most is not None else 10**7
    if words is None:
        sizes = [size for size in _SIZES[runtime] if least <= size <= most]
        if len(sizes) < 3:
            raise BadUse(f"say at which --nodes: {kind.name}'s --{p.option} takes {p.wanted}")
        return sizes
    try:
        sizes = [int(word) for word in words.split(",")]
    except ValueError:
        raise BadUse(f"--nodes takes sizes such as 1,2,4,8, not {words!r}") from None
    if len(set(sizes)) < 3 or len(set(sizes)) < len(sizes):
        raise BadUse(f"--nodes takes three different sizes or more, not {words!r}")
    wrong = [size for size in sizes if not max(1, least) <= size <= most]
    if wrong:
        raise BadUse(f"--nodes {wrong[0]}: {kind.name}'s --{p.option} takes {p.wanted}")
    return sorted(sizes)
