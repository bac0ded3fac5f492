"""What the commands print: tables for people, JSON for programs, and what goes on meanwhile."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from polyarch.core.job import Job
from polyarch.core.messages import schema_of
from polyarch.core.system import Architecture, System
from polyarch.experiment import catalogue
from polyarch.experiment.laws import laws
from polyarch.experiment.record import Comparison
from polyarch.experiment.run import Question
from polyarch.report.table import blast_radius_table, comparison_table, matrix_table

__all__ = [
    "catalogue_document", "console", "parameters_help", "print_architecture", "print_catalogue",
    "print_comparison", "print_json", "progress", "question", "show_document",
]  # fmt: skip


def console(width: int = 140) -> Console:
    """Standard output: as wide as the terminal, or ``width`` in a file or a pipe."""
    made = _Console(highlight=False, soft_wrap=True)
    return made if made.is_terminal else _Console(highlight=False, soft_wrap=True, width=width)


class _Console(Console):
    """A console that tells when its reader has gone; rich's own would exit with 1, which means something."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_json(document: Any) -> None:
    """Indented JSON on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def print_comparison(result: Comparison) -> None:
    """Tables, and a sentence for each architecture."""
    out = console(max(140, 26 + 18 * len(result.runs)))
    out.print(comparison_table(result, width=out.width))
    if result.blast_radius:
        out.print(blast_radius_table(result.blast_radius))
    for sentence in result.sentences:
        out.print(f"• {escape(sentence)}")


# -- the catalogue --------------------------------------------------------------------------------------


def print_catalogue() -> None:
    """Jobs, architectures, and the matrix."""
    out = console(60 + 10 * len(catalogue.jobs()))
    out.print("[bold]Jobs[/]")
    for name, job in catalogue.jobs().items():
        out.print(f"  [cyan]{name:<22}[/] {escape(summary(job))}")
    out.print("\n[bold]Architectures[/]")
    families, kinds = catalogue.families(), catalogue.architectures()
    for family, names in families.items():
        out.print(f"  [italic]{escape(family)}[/]")
        for name in names:
            out.print(f"    [cyan]{name:<20}[/] {escape(summary(kinds[name]))}")
    out.print()
    out.print(matrix_table(catalogue.matrix(), families, catalogue.NOT_ITS_JOB))


def catalogue_document() -> dict[str, Any]:
    """The same for programs."""
    return {
        "jobs": {
            name: {
                "summary": summary(kind),
                "operations": {n: m.signature() for n, m in schema_of(kind.port).methods.items()},
                "runtime": kind.runtime,
                "measures": _measures(kind),
                "parameters": _parameters(kind),
            }
            for name, kind in catalogue.jobs().items()
        },
        "architectures": {
            name: {
                "summary": summary(kind),
                "family": kind.family,
                "source": kind.source,
                "jobs": [j.name for j in catalogue.offered(kind)],
                "claims": list(kind.claims),
                "parameters": _parameters(kind),
            }
            for name, kind in catalogue.architectures().items()
        },
        "matrix": {
            job: {a: {"offered": not reason, "reason": reason or None} for a, reason in row.items()}
            for job, row in catalogue.matrix().items()
        },
    }


def show_document(kind: type[Architecture]) -> dict[str, Any]:
    """What an architecture is, for programs."""
    system = System()
    kind().build(system)
    roles = {
        role.name: {
            "count": role.count,
            "nodes": [type(n).__name__ for n in role.nodes],
            "component": type(role.component).__name__ if role.component else None,
        }
        for role in system.roles.values()
    }
    return {
        "architecture": kind.name,
        "summary": summary(kind),
        "description": inspect.getdoc(kind) or "",
        "question": question(kind),
        "family": kind.family,
        "source": kind.source,
        "jobs": [j.name for j in catalogue.offered(kind)],
        "laws": [id for id, law in laws().items() if kind.name in law.architecture.split("/")],
        "roles": roles,
        "parameters": _parameters(kind),
        "claims": list(kind.claims),
        "metrics": dict(kind.metrics),
        "measures": {j.name: _measures(j) for j in catalogue.offered(kind) if j.measures},
    }


def print_architecture(kind: type[Architecture]) -> None:
    """The same for people."""
    document = show_document(kind)
    jobs = ", ".join(document["jobs"])
    out = console()
    out.print(f"[bold cyan]{kind.name}[/]  ({escape(kind.family)})\n\n{escape(document['description'])}\n")
    if document["question"]:
        out.print(f"{escape(document['question'])}\n", soft_wrap=False, width=110)
    out.print(f"[bold]Source[/]   {escape(kind.source)}\n[bold]Jobs[/]     {jobs}")
    if document["laws"]:
        out.print(f"[bold]Laws[/]     {', '.join(document['laws'])}")
    out.print("\n[bold]Roles[/]")
    for name, role in document["roles"].items():
        what = role["component"] or ", ".join(role["nodes"])
        out.print(f"  {name:<16} {role['count']:>4} x {what}")
    if kind.parameters:
        out.print("\n[bold]Parameters[/]")
        out.print("\n".join(_parameter_lines(kind)))
    metrics = [f"{name}: {text}" for name, text in kind.metrics.items()]
    for job, own in document["measures"].items():
        metrics += [f"{n}: {text} (the job {job})" for n, text in own.items() if n not in kind.metrics]
    for title, lines in (("Claims", kind.claims), ("Metrics", metrics)):
        if lines:
            out.print(f"\n[bold]{title}[/]")
            for line in lines:
                out.print(f"  {escape(line)}")


def parameters_help(kinds: Iterable[type[Architecture] | type[Job]]) -> None:
    """The options that architectures and jobs bring with them."""
    out = console()
    for kind in kinds:
        if kind.parameters:
            out.print(f"[bold]Parameters of {kind.name}[/]")
            out.print("\n".join(_parameter_lines(kind)))
            out.print()


def summary(kind: type) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0] if kind.__doc__ else ""


def question(kind: type[Architecture]) -> str:
    """What its file says about the question that it answers ("What is the problem with this?"): the first
    paragraph of the file's docstring that begins with one.  Empty if there is none."""
    module = inspect.getmodule(kind)
    for paragraph in (inspect.getdoc(module) or "").split("\n\n"):
        text = re.sub(r"\*\*|``", "", " ".join(paragraph.split()))
        if re.match(r"[A-Z][^.:;]*\?", text):
            return text
    return ""


def _measures(job: type[Job]) -> dict[str, str]:
    """What a job's own figures say, by their names among the metrics of a run."""
    return {measure.name: measure.words.format("…") for measure in job.measures}


def _parameters(kind: type[Architecture] | type[Job]) -> dict[str, Any]:
    return {
        p.option: {"default": p.default, "takes": p.wanted, "doc": p.doc} for p in kind.parameters.values()
    }


def _parameter_lines(kind: type[Architecture] | type[Job]) -> list[str]:
    width = max(len(p.option) for p in kind.parameters.values())
    return [
        escape(f"  --{p.option:<{width}}  {p.doc}  [{p.wanted}; default: {p.default}]")
        for p in kind.parameters.values()
    ]


# -- while it runs --------------------------------------------------------------------------------------


class _Seconds(ProgressColumn):
    """``12.3 of 60 s``, or nothing while there is no clock."""

    def render(self, task: Task) -> Text:
        if not task.completed and task.total is None:
            return Text("")
        total = "" if task.total is None else f" of {task.total:g}"
        return Text(f"{task.completed:.1f}{total} s")


@contextlib.contextmanager
def progress(questions: Sequence[Question], *, quiet: bool) -> Iterator[None]:
    """A line that says what is going on, where somebody looks: the phase, and a simulation's own time."""
    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield
        return
    what = TextColumn("{task.description}")
    columns = SpinnerColumn(), what, BarColumn(20), _Seconds(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def tell(phase: str, done: float, total: float | None) -> None:
            # A total of None would leave the last one: the bar of the next phase begins anew.
            bar.reset(line, description=phase, total=total, completed=int(done) if total is None else 0)
            bar.update(line, completed=done)

        for question in questions:
            question.progress = tell
        yield
