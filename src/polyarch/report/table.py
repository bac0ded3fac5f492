"""Tables for the terminal.  Every function takes records and returns something that rich can print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from polyarch.experiment.record import BlastRadius, Comparison, RunRecord
from polyarch.report.figures import FIGURES, best, checks, churn, figures_of, number, recovery, write

__all__ = ["blast_radius_table", "comparison_table", "matrix_table", "plain_table", "run_table"]

_ABSENT = Text("-", style="dim")
_FIRST_COLUMN, _COLUMN = 26, 18  # characters that the names of figures and one architecture's figures take
_MARK = " *"  # not by colour alone: a log file and many eyes have none


def comparison_table(comparison: Comparison, *, width: int | None = None) -> RenderableType:
    """Architectures as columns, figures as rows, the best of a row marked; equals are all marked.  What does
    not stand beside each other in ``width`` characters comes in several tables."""
    runs = comparison.runs
    most = max(1, (width - _FIRST_COLUMN) // _COLUMN if width else len(runs))
    several = max(1, -(-len(runs) // most))
    each = -(-len(runs) // several)
    tables = [_side_by_side(comparison, range(len(runs))[i * each : (i + 1) * each]) for i in range(several)]
    tables[-1].caption = "* best, or equal to the best"
    notes = [Text(f"{name} was not measured: {why}", style="yellow") for name, why in comparison.gaps.items()]
    return Group(*tables, *notes)


def _side_by_side(comparison: Comparison, places: range) -> Table:
    """The runs at these places; the best of all, not of these, are marked."""
    runs = comparison.runs
    table = plain_table(f"{comparison.job} on {comparison.runtime}", caption="")
    table.add_column("", no_wrap=True)
    for at in places:
        table.add_column(escape(runs[at].architecture), justify="right")
    for figure in figures_of(comparison):
        cells = [write(figure, run) for run in runs]
        if not any(cells):
            continue
        winners = best(figure, runs)
        table.add_row(
            " ".join(filter(None, (figure.name, figure.unit and f"({figure.unit})"))),
            *(_cell(cells[at], best=at in winners) for at in places),
        )
    if any(run.verdicts for run in runs):
        table.add_section()
        table.add_row("checks", *(_checks(runs[at]) for at in places))
    return table


def blast_radius_table(cards: Sequence[BlastRadius]) -> Table:
    """What killing each role cost, one row for each kill."""
    table = plain_table("What a kill costs")
    for name in ("architecture", "role", "killed"):
        table.add_column(name)
    for name in ("operations", "lost", "unknown", "recovered after"):
        table.add_column(name, justify="right")
    table.add_column("single point of failure")
    previous = cards[0].architecture if cards else ""
    for card in cards:
        if card.architecture != previous:
            table.add_section()
            previous = card.architecture
        table.add_row(
            escape(card.architecture),
            escape(card.role),
            escape(card.process),
            number(card.attempted),
            Text(number(card.lost), style="" if card.lost else "green"),
            Text(number(card.unknown), style="" if card.unknown else "green"),
            Text(recovery(card), style="" if card.recovery_s is not None else "red"),
            Text("yes", style="red") if card.single_point_of_failure else Text("no", style="green"),
        )
    return table


def run_table(run: RunRecord) -> RenderableType:
    """The summary of one run: its figures, its own metrics, and what was checked."""
    table = plain_table(f"{run.architecture}: {run.job} on {run.runtime}, seed {run.seed}", show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("")
    table.add_row("nodes", ", ".join(f"{count} {escape(role)}" for role, count in run.nodes.items()))
    for fault in run.faults:
        table.add_row("fault", escape(fault))
    for churned in run.churn:
        table.add_row("churn", escape(churned.churn))
        table.add_row(f"{churned.role} coming and going", churn(churned))
    for figure in FIGURES:
        if cell := write(figure, run):
            table.add_row(figure.name, f"{cell} {figure.unit}".rstrip())
    for kind, latency in (run.latency_by_operation_ms or {}).items():
        percentiles = f"p50 {number(latency.p50)}, p99 {number(latency.p99)}, max {number(latency.max)} ms"
        table.add_row(f"latency of {escape(kind)}", percentiles)
    for name, value in run.metrics.items():
        table.add_row(escape(name), _metric(value))
    if run.trace_hash is not None:
        table.add_row("trace hash", run.trace_hash)
    table.add_row("wall time", f"{number(run.wall_s)} s")
    if run.verdicts:
        table.add_section()
    for verdict in run.verdicts:
        if verdict.holds:
            mark = Text("holds", style="green")
        elif verdict.broken:
            mark = Text("DOES NOT HOLD", style="bold red")
        else:
            mark = Text("does not hold (and is not promised)", style="yellow")
        table.add_row(escape(verdict.name), Text.assemble(mark, f"  {verdict.detail}".rstrip()))
    return table


def matrix_table(
    matrix: Mapping[str, Mapping[str, str]], families: Mapping[str, Sequence[str]], common: str = ""
) -> RenderableType:
    """Which architecture does which job.

    ``matrix[job][architecture]`` is empty where the architecture offers the job, else the reason why not.
    Architectures are the rows, because there are many, in their ``families``; the reasons are notes under
    the table.  ``common``: how a reason begins that needs no note of its own, as most gaps have it.
    """
    table = plain_table("Jobs by architecture")
    table.add_column("architecture", no_wrap=True)
    for job in matrix:
        table.add_column(escape(job), justify="center", overflow="fold")
    notes: dict[str, int] = {}

    def cell(reason: str) -> RenderableType:
        if not reason:
            return Text("yes", style="green")
        if common and reason.startswith(common):
            return Text("·", style="dim")
        return Text(str(notes.setdefault(reason, len(notes) + 1)), style="dim")

    for family, names in families.items():
        table.add_row(Text(family, style="italic"))
        for name in names:
            table.add_row(
                f"  {escape(name)}", *(cell(row.get(name, "not declared")) for row in matrix.values())
            )
    told = [Text(f" {mark}  {reason}", style="dim") for reason, mark in notes.items()]
    if common:
        told.insert(0, Text(f" ·  {common} this job's operations", style="dim"))
    return Group(table, *told)


def plain_table(title: str, *, caption: str | None = None, show_header: bool = True) -> Table:
    """An empty table, as all of them look."""
    return Table(
        title=escape(title),
        caption=caption,
        show_header=show_header,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="bold",
    )


def _cell(text: str, *, best: bool) -> Text:
    """Without a mark there is room for one, so that the numbers of a row stay aligned."""
    if not text:
        return Text.assemble(_ABSENT, " " * len(_MARK))
    return Text(text + _MARK, style="bold green") if best else Text(text + " " * len(_MARK))


def _checks(run: RunRecord) -> Text:
    words = checks(run.verdicts)
    if not words:
        return _cell("", best=False)
    return Text(words + " " * len(_MARK), style="green" if run.holds else "bold red")


def _metric(value: object) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{escape(str(name))} {_metric(one)}" for name, one in value.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(str(value))
    return number(value)
