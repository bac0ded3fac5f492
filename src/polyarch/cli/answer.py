"""``polyarch answer``: the lecture question of an architecture, answered with measured figures."""

from __future__ import annotations

import msgspec
from rich.markup import escape

from polyarch.cli import options, output
from polyarch.cli.asked import Asked, contestants
from polyarch.cli.asked import vary as vary_
from polyarch.cli.options import BadUse, check_file, check_load
from polyarch.core.records import Record
from polyarch.experiment import catalogue
from polyarch.experiment.answers import ANSWERS, Shown
from polyarch.experiment.record import save
from polyarch.experiment.sweep import Sweep, sweep
from polyarch.report.sweep import complete, sweep_table

__all__ = ["answer_", "asked_for"]


_ROUNDS = 3
"""As ``polyarch compare`` has, unless it is told another number."""


class Seen(Record, frozen=True, kw_only=True):
    """One thing that was to be seen."""

    says: str
    command: str
    """What shows all of it."""
    figures: tuple[str, ...]
    """By which it is seen; each point of the sweep has them, and others."""
    sweep: Sweep
    """Without the record of each run."""


class Answer(Record, frozen=True, kw_only=True):
    """What ``polyarch answer`` found out."""

    architecture: str
    question: str
    """In words, with what its file says about it."""
    seen: tuple[Seen, ...]


def answer_(
    architecture: options.Arch,
    /,
    *,
    seed: options.Seed = 0,
    json: options.Json = None,
) -> int:
    """The lecture question of an architecture (What is the problem with this?), answered with figures that
    are measured now, on sim: some comparisons, each of which can be run with other values.
    """
    kind = catalogue.architecture(architecture)
    if kind.name not in ANSWERS:
        raise BadUse(
            f"no answer is prepared for {kind.name}, only for {', '.join(ANSWERS)}; "
            f"see polyarch show {kind.name}, and polyarch compare"
        )
    check_load(None, None, None, None, None, seed, 1)
    check_file("--json", json)
    quiet = json == "-"
    out = output.console()
    question = output.question(kind)
    if not quiet:
        out.print(f"[bold cyan]{kind.name}[/]  {escape(question)}\n", soft_wrap=False, width=110)
    seen, holds = [], True
    for shown in ANSWERS[kind.name]:
        axis, every, unaffected = vary_(asked_for(shown, seed), shown.vary)
        with output.progress([q for questions, _ in every for q in questions], quiet=quiet):
            result = complete(sweep(axis, every, unaffected=unaffected))
        holds = holds and result.holds
        if not quiet:
            out.print(f"[bold]{escape(shown.says)}[/]", soft_wrap=False, width=110)
            out.print(sweep_table(result, shown.figures))
            out.print(f"  {escape(shown.command)}\n")
        points = tuple(msgspec.structs.replace(point, runs=()) for point in result.points)
        found = msgspec.structs.replace(result, points=points)
        seen.append(Seen(says=shown.says, command=shown.command, figures=shown.figures, sweep=found))
    if json:
        save(Answer(architecture=kind.name, question=question, seen=tuple(seen)), json)
    return 0 if holds else 1


def asked_for(shown: Shown, seed: int) -> Asked:
    """The comparison that shows it, but for what is varied."""
    job = catalogue.job(shown.job)
    given = dict(shown.given)
    duration, rate, fault = (given.pop(name, None) for name in ("duration", "rate", "fault"))
    return Asked(
        job=job,
        contestants=contestants(job, [shown.who]),
        runtime="sim",
        seed=seed,
        duration=float(duration) if duration else None,
        rate=float(rate) if rate else None,
        clients=16,
        rounds=_ROUNDS,
        fault=(fault,) if fault else (),
        churn=(),
        trace=None,
        speedup=None,
        latency=None,
        bandwidth=None,
        handler_cost=None,
        disk_sync=None,
        per_process=1,
        kills=False,
        parameters=given,
    )
