"""The HTML report of a comparison: one folder that needs no network and no server.

``index.html`` holds everything that there is to read; ``plotly.min.js`` (from plotly's wheel) draws the
plots, and ``comparison.json`` is the record that all of it was made from.  The plots' figures are also in
the tables, so that the report loses nothing without its script.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import as_file, files
from pathlib import Path
from string import Template
from typing import Any

from polyarch.experiment.record import Comparison, RunRecord, Verdict, dumps
from polyarch.report.figures import best, checks, figures_of, number, recovery, write
from polyarch.report.plots import Plot, colour, plots
from polyarch.report.verdict import sentences

__all__ = [
    "SCRIPT",
    "as_json",
    "environment_line",
    "plot_element",
    "table_element",
    "write_report",
]

SCRIPT = "plotly.min.js"
RECORD = "comparison.json"
_ABSENT = "&ndash;"


def write_report(comparison: Comparison, folder: str | Path) -> Path:
    """Write the report into ``folder``, which is made if need be, and return the page to open."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with as_file(files("plotly") / "package_data" / SCRIPT) as script:
        shutil.copyfile(script, target / SCRIPT)
    (target / RECORD).write_text(dumps(comparison), encoding="utf-8")
    page = target / "index.html"
    page.write_text(_page(comparison), encoding="utf-8")
    return page


def _page(comparison: Comparison) -> str:
    drawn = plots(comparison)
    template = Template((files("polyarch.report") / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{comparison.job} on {comparison.runtime}"),
        subtitle=escape(_subtitle(comparison)),
        verdicts="\n".join(_verdicts(comparison)),
        plots="\n".join(plot_element(plot) for plot in drawn),
        figures=_figures(comparison),
        blast_radius=_blast_radius(comparison),
        checks=_checks(comparison),
        parameters=_parameters(comparison),
        environment=environment_line(comparison.runs),
        script=SCRIPT,
        record=RECORD,
        data=as_json([plot.figure for plot in drawn]),
        raw=as_json(json.loads(dumps(comparison))),
    )


def as_json(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end that element."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _subtitle(comparison: Comparison) -> str:
    """What all runs have in common: ``4 architectures, seed 1, 3 rounds interleaved``."""
    runs = comparison.runs
    words = [f"{len(runs)} architecture{'s' if len(runs) != 1 else ''}"]
    if len(seeds := {run.seed for run in runs}) == 1:
        words.append(f"seed {seeds.pop()}")
    rounds = {len(spread.runs) for run in runs if (spread := run.saturation_throughput_per_s)}
    if len(rounds) == 1:
        words.append("1 round" if rounds == {1} else f"{rounds.pop()} rounds, interleaved")
    rates = {run.rate_per_s for run in runs if run.rate_per_s is not None}
    if len(rates) == 1:
        words.append(f"latency at {number(rates.pop())} operations/s")
    return ", ".join(words)


def _verdicts(comparison: Comparison) -> Iterable[str]:
    words = comparison.sentences or sentences(comparison)
    for at, (run, sentence) in enumerate(zip(comparison.runs, words, strict=True)):
        text = escape(sentence.removeprefix(f"{run.architecture}: "))
        if held := checks(run.verdicts):
            held = f'<span class="{"good" if run.holds else "bad"}">checks: {escape(held)}</span>'
        yield (
            f'<article style="--mark: {colour(at)}"><h3>{escape(run.architecture)}{held}</h3>'
            f"<p>{text[:1].upper()}{text[1:]}</p></article>"
        )
    for name, reason in comparison.gaps.items():
        yield f"<article><h3>{escape(name)}</h3><p>Was not measured: {escape(reason)}</p></article>"


def plot_element(plot: Plot) -> str:
    """Where a plot will be drawn."""
    return (
        f'<figure class="{"wide" if plot.wide else ""}"><h3>{escape(plot.title)}</h3>'
        f'<div class="plot" style="height: {plot.height}px"></div>'
        f"<figcaption>{escape(plot.note)}</figcaption></figure>"
    )


def _figures(comparison: Comparison) -> str:
    runs = comparison.runs
    rows = []
    for figure in figures_of(comparison):
        cells = [write(figure, run) for run in runs]
        if not any(cells):
            continue
        winners = best(figure, runs)
        unit = f" <small>{escape(figure.unit)}</small>" if figure.unit else ""
        rows.append(
            [f"{escape(figure.name)}{unit}"]
            + [f"<b>{cell}</b>" if at in winners else cell for at, cell in enumerate(cells)]
        )
    return table_element(["", *(escape(run.architecture) for run in runs)], rows, numbers=slice(1, None))


def _blast_radius(comparison: Comparison) -> str:
    if not comparison.blast_radius:
        return "<p>No role was killed.</p>"
    rows = [
        [
            escape(card.architecture),
            escape(card.role),
            '<span class="bad">yes</span>'
            if card.single_point_of_failure
            else '<span class="good">no</span>',
            number(card.attempted),
            number(card.lost),
            number(card.unknown),
            escape(recovery(card)),
            escape(card.detail),
        ]
        for card in comparison.blast_radius
    ]
    names = [
        "architecture",
        "role",
        "single point of failure",
        "operations",
        "lost",
        "unknown",
        "recovered after",
    ]
    noted = any(card.detail for card in comparison.blast_radius)
    if not noted:
        rows = [row[:-1] for row in rows]
    return table_element([*names, *(["detail"] if noted else [])], rows, numbers=slice(3, 7))


def _mark(verdict: Verdict) -> str:
    if verdict.holds:
        return '<span class="good">holds</span>'
    return '<span class="bad">does not hold</span>' if verdict.broken else "does not hold, is not promised"


def _checks(comparison: Comparison) -> str:
    rows = [
        [
            escape(run.architecture),
            _mark(verdict),
            escape(verdict.name),
            escape(verdict.detail),
        ]
        for run in comparison.runs
        for verdict in run.verdicts
    ]
    if not rows:
        return "<p>Nothing was checked.</p>"
    return table_element(["architecture", "", "check", "evidence"], rows)


def _parameters(comparison: Comparison) -> str:
    """Nodes, parameters and own metrics of every run; what an architecture does not have stays empty."""
    runs = comparison.runs
    shown = {measure.name for measure in comparison.measures}
    rows = [["nodes", *(", ".join(f"{n} {escape(role)}" for role, n in run.nodes.items()) for run in runs)]]
    for values in ([run.parameters for run in runs], [run.metrics for run in runs]):
        for name in sorted({name for mapping in values for name in mapping} - shown):
            cells = (escape(_value(mapping[name])) if name in mapping else "" for mapping in values)
            rows.append([escape(name), *cells])
    return table_element(["", *(escape(run.architecture) for run in runs)], rows)


def _value(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value)


def environment_line(runs: Sequence[RunRecord]) -> str:
    """Where it was measured."""
    if not runs:
        return ""
    at = runs[0].environment
    facts = [
        f"Polyarch {at.polyarch}",
        at.python,
        at.platform,
        f"{at.cpus} processor{'s' if at.cpus > 1 else ''}",
    ]
    return "<p>" + escape(", ".join([*facts, *([at.cpu_model] if at.cpu_model else [])])) + ".</p>"


def table_element(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: slice = slice(0)) -> str:
    """A table of cells that are HTML already; the columns of ``numbers`` are aligned to the right."""
    right = set(range(len(names))[numbers])

    def cells(tag: str, row: Sequence[str]) -> str:
        empty = "" if tag == "th" else _ABSENT
        return "".join(
            f"<{tag}{' class=number' if at in right else ''}>{cell or empty}</{tag}>"
            for at, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", names)}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
