"""HTML reports of curves: a figure against a parameter, one line for each architecture.

The page is the comparison's (``report.html``: its style, and the script that draws), with other sections.
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

from polyarch.core.records import Record
from polyarch.experiment.record import RunRecord, Spread, dumps
from polyarch.experiment.sweep import Sweep
from polyarch.report.figures import Figure, checks, number
from polyarch.report.html import SCRIPT, as_json, environment_line, plot_element, table_element
from polyarch.report.plots import Plot, colour
from polyarch.report.sweep import figures_of_sweep

__all__ = ["axis_layout", "line", "sweep_plots", "write_page", "write_sweep"]

_HEIGHT = 340


def write_sweep(sweep: Sweep, folder: str | Path) -> Path:
    """Write the report of a sweep into a folder, and return the page to open."""
    rounds = f"{sweep.rounds} round{'s' if sweep.rounds > 1 else ''} with a seed each"
    return write_page(
        folder,
        title=f"{sweep.job} on {sweep.runtime}: {sweep.axis.parameter} varied",
        subtitle=f"{', '.join(sweep.architectures)}; {rounds}",
        sentences=sweep.sentences,
        drawn=sweep_plots(sweep),
        tables=[_figures(sweep), _checks(sweep)],
        record=sweep,
        runs=[run for point in sweep.points for run in point.runs],
    )


def write_page(
    folder: str | Path,
    *,
    title: str,
    subtitle: str,
    sentences: Sequence[str],
    drawn: Sequence[Plot],
    tables: Sequence[str],
    record: Record,
    runs: Sequence[RunRecord],
) -> Path:
    """A page of sentences, plots and tables, with the record that they were made from beside it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with as_file(files("plotly") / "package_data" / SCRIPT) as script:
        shutil.copyfile(script, target / SCRIPT)
    name = f"{type(record).__name__.lower()}.json"
    (target / name).write_text(dumps(record), encoding="utf-8")
    whole = (files("polyarch.report") / "report.html").read_text(encoding="utf-8")
    head, _, rest = whole.partition("<h2>Verdicts</h2>")
    foot = "<footer>" + rest.partition("<footer>")[2]
    body = [
        '<h2>What it comes to</h2>\n<section class="grid">',
        *(
            f'<article class="wide" style="--mark: {colour(at)}"><p>{escape(sentence)}</p></article>'
            for at, sentence in enumerate(sentences)
        ),
        '</section>\n<h2>Plots</h2>\n<section class="grid">',
        *map(plot_element, drawn),
        "</section>",
        *tables,
    ]
    fixed = {
        "title": escape(title),
        "subtitle": escape(subtitle),
        "environment": environment_line(runs),
        "script": SCRIPT,
        "record": name,
        "data": as_json([plot.figure for plot in drawn]),
        "raw": as_json(json.loads(dumps(record))),
    }
    page = target / "index.html"
    text = Template(head).substitute(fixed) + "\n".join(body) + Template(foot).substitute(fixed)
    page.write_text(text, encoding="utf-8")
    return page


# -- plots ------------------------------------------------------------------------------------------------


def line(
    name: str, at: int, x: Sequence[Any], spreads: Sequence[Spread | None], unit: str = ""
) -> dict[str, Any]:
    """A line with the range of the rounds at each place; where nothing was measured there is a gap."""
    there = [s is not None for s in spreads]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": [s.median if s else None for s in spreads],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [s.high - s.median if s else 0 for s in spreads],
            "arrayminus": [s.median - s.low if s else 0 for s in spreads],
            "visible": any(there) and any(len(s.runs) > 1 for s in spreads if s),
            "thickness": 1.2,
            "width": 4,
        },
        "line": {"color": colour(at), "width": 2},
        "marker": {"size": 7},
        "hovertemplate": f"%{{x}}: %{{y:,.4~g}} {unit}",
    }


def axis_layout(places: Sequence[float], name: str) -> dict[str, Any]:
    """Logarithmic if the values are far apart."""
    wide = bool(places) and places[0] > 0 and places[-1] >= 8 * places[0]
    layout: dict[str, Any] = {"title": {"text": name}, "automargin": True}
    if wide:
        layout |= {"type": "log", "tickvals": list(places), "ticktext": [number(p) for p in places]}
    elif not places:
        layout["type"] = "category"
    return layout


def sweep_plots(sweep: Sweep) -> list[Plot]:
    """One plot for each figure that is not the same everywhere."""
    drawn = []
    for figure in figures_of_sweep(sweep):
        spreads = {name: [p.figures.get(figure.name) for p in sweep.of(name)] for name in sweep.architectures}
        values = {s.median for row in spreads.values() for s in row if s is not None}
        if len(values) > 1:
            drawn.append(_curve(sweep, figure, spreads))
    return drawn


def _curve(sweep: Sweep, figure: Figure, spreads: dict[str, list[Spread | None]]) -> Plot:
    axis = sweep.axis
    x: Sequence[Any] = axis.places or axis.values
    medians = [s.median for row in spreads.values() for s in row if s is not None]
    wide = min(medians) > 0 and max(medians) > 20 * min(medians)
    found = [b for b in sweep.break_even if b.figure == figure.name]
    better = {"high": "More is better.", "low": "Less is better.", None: ""}[figure.better]
    dotted = " Dotted: where one overtakes another." if found else ""
    log = " Logarithmic." if wide else ""
    unit = f" ({axis.unit})" if axis.unit else ""
    return Plot(
        title=f"{figure.name} ({figure.unit})" if figure.unit else figure.name,
        note=f"Median of the rounds, and their range. {better}{log}{dotted}".strip(),
        figure={
            "data": [
                line(name, at, x, spreads[name], figure.unit)
                for at, name in enumerate(sweep.architectures)
                if any(spreads[name])
            ],
            "layout": {
                "xaxis": axis_layout(axis.places, f"{axis.parameter}{unit}"),
                "yaxis": {"type": "log"} if wide else {"rangemode": "tozero"},
                "margin": {"l": 62, "r": 10, "t": 6, "b": 40},
                "legend": {"orientation": "h", "y": -0.25},
                "shapes": [
                    {
                        "type": "line", "x0": b.at, "x1": b.at, "y0": 0, "y1": 1, "yref": "paper",
                        "line": {"dash": "dot", "width": 1, "color": "#8a8f98"},
                    }
                    for b in found
                ],
            },
        },
        height=_HEIGHT,
    )  # fmt: skip


# -- tables -----------------------------------------------------------------------------------------------


def _figures(sweep: Sweep) -> str:
    rows = [
        [
            escape(f"{figure.name} ({figure.unit})" if figure.unit else figure.name),
            escape(name),
            *(number(s.median) if (s := p.figures.get(figure.name)) else "" for p in sweep.of(name)),
        ]
        for figure in figures_of_sweep(sweep)
        for name in sweep.architectures
        if any(figure.name in point.figures for point in sweep.of(name))
    ]
    names = ["", "architecture", *map(escape, sweep.axis.values)]
    return "<h2>Figures</h2>\n" + table_element(names, rows, numbers=slice(2, None))


def _checks(sweep: Sweep) -> str:
    def words(runs: Iterable[RunRecord]) -> str:
        verdicts = [verdict for run in runs for verdict in run.verdicts]
        broken = dict.fromkeys(verdict.name for verdict in verdicts if verdict.broken)
        if broken:
            return f'<span class="bad">does not hold: {escape(", ".join(broken))}</span>'
        return f'<span class="good">{checks(verdicts)}</span>'

    rows = [[escape(name), *(words(point.runs) for point in sweep.of(name))] for name in sweep.architectures]
    return "<h2>What was checked</h2>\n" + table_element(["", *map(escape, sweep.axis.values)], rows)
