"""``polyarch laws``: published numbers and exact values, measured on the node code that users run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from cyclopts import Parameter as Option
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from polyarch.cli import options, output
from polyarch.cli.options import BadUse, check_file
from polyarch.experiment import catalogue
from polyarch.experiment.laws import Law, LawRecord, LawsRecord, check, reasons, select
from polyarch.experiment.record import save

__all__ = ["laws_"]


def laws_(
    *ids: Annotated[str, Option(help="RA-01, or the beginning of several, such as RA.  [default: all]")],
    seed: options.Seed = 0,
    list_: Annotated[bool, Option(name="--list", help="Say what there is, only.", negative=())] = False,
    json: options.Json = None,
    **parameters: options.Parameters,
) -> int:
    """Check published numbers and exact laws on the architectures of the catalogue.

    A law has parameters of its own, which are further options: ``polyarch laws RA-01 --n 7``; what it then
    expects is computed.  Settings that take minutes are measured when a law is asked for by its whole id.
    Exit code 1: one does not hold.
    """
    chosen = select(ids)
    given = _given(chosen, parameters)
    check_file("--json", json)
    if not 0 <= seed < 2**62:
        raise BadUse(f"--seed takes an integer from 0 to 2^62 - 1, not {seed}")
    if list_:
        _list(chosen, whole=not ids)
        return 0
    named = {name.strip().upper() for name in ids}
    records = []
    with _progress(len(chosen), quiet=json == "-") as begin:
        for law in chosen:
            records.append(check(law, seed, given, whole=law.id in named, tell=begin(law.id)))
    record = LawsRecord(tuple(records), seed)
    if json:
        save(record, json)
    if json != "-":
        _print(record)
    return 0 if record.holds else 1


def _given(chosen: Sequence[type[Law]], words: dict[str, str]) -> dict[str, Any]:
    """The laws' own parameters among the further options."""
    given = {}
    for option, word in words.items():
        name = option.replace("-", "_")
        having = [law for law in chosen if name in law.parameters]
        if not having:
            own = sorted({p.option for law in chosen for p in law.parameters.values()})
            meant = catalogue.near(option, [*own, "seed", "list", "json"])
            known = f"their parameters are --{', --'.join(own)}" if own else "they have no parameters"
            raise BadUse(
                f"there is no option --{option.replace('_', '-')} of these laws; "
                + (f"did you mean --{meant}?" if meant else known)
            )
        given[name] = word
    for law in chosen:
        options.make(law, {n: v for n, v in given.items() if n in law.parameters})
    return given


def _list(chosen: Sequence[type[Law]], *, whole: bool) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("id", "architecture", "claim", "parameters"):
        table.add_column(name, no_wrap=name == "id")
    for law in chosen:
        own = " ".join(f"--{p.option} {p.default}" for p in law.parameters.values())
        table.add_row(f"[bold]{law.id}[/]", law.architecture, escape(law.claim), escape(own))
    out = output.console()
    out.print(table)
    if whole and reasons():
        out.print("\n[bold]Not checked[/]")
        for id, reason in reasons().items():
            out.print(f"  {id}  {escape(reason)}")


def _print(record: LawsRecord) -> None:
    table = Table(title=f"Laws, from seed {record.seed} on", title_justify="left", padding=(0, 1))
    table.add_column("law", no_wrap=True)
    table.add_column("figure")
    for name in ("expected", "measured", "tolerance"):
        table.add_column(name, justify="right", no_wrap=name != "tolerance")
    table.add_column("holds", justify="center")
    table.add_column("s", justify="right")
    for law in record.laws:
        table.add_section()
        holds = "[green]yes[/]" if law.holds else "[bold red]no[/]"
        seconds = f"{law.seconds:.1f}"
        table.add_row(f"[bold]{law.id}[/]", f"[bold]{escape(law.claim)}[/]", "", "", "", holds, seconds)
        for name in dict.fromkeys((*law.expected, *law.measured)):
            cells = (
                _figure(law.expected.get(name)),
                _figure(law.measured.get(name)),
                law.tolerance.get(name, ""),
            )
            wrong = any(line.startswith(f"{name}: ") for line in law.wrong)
            table.add_row("", escape(name), *cells, "[bold red]no[/]" if wrong else "", "")
    out = output.console()
    out.print(table)
    for law in record.laws:
        _remarks(out, law)
    failed = [law.id for law in record.laws if not law.holds]
    whole = sum(law.seconds for law in record.laws)
    out.print(f"{len(record.laws) - len(failed)} of {len(record.laws)} laws hold ({whole:.0f} s)")
    if failed:
        out.print(f"[bold red]not: {', '.join(failed)}[/]")


def _remarks(out: Console, law: LawRecord) -> None:
    for line in law.wrong:
        out.print(f"[red]{law.id}[/] {escape(line)}")
    if law.note:
        out.print(f"[dim]{law.id} ({escape(law.source)}): {escape(law.note)}[/]")
    if law.skipped:
        out.print(f"[dim]{law.id}: {len(law.skipped)} more setting(s) with polyarch laws {law.id}[/]")


def _figure(value: float | int | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


@contextlib.contextmanager
def _progress(count: int, *, quiet: bool) -> Iterator[Callable[[str], Callable[[float], None]]]:
    """Begin a law: what is to be told how much of it is done."""
    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda id: lambda done: None
        return
    what = TextColumn("{task.description}")
    with Progress(
        what, BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), console=err, transient=True
    ) as bar:
        line = bar.add_task("", total=count)
        begun = -1

        def begin(id: str) -> Callable[[float], None]:
            nonlocal begun
            begun += 1
            base = begun
            return lambda done: bar.update(line, description=id, completed=base + done)

        yield begin
