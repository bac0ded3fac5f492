"""The plots of a comparison, as the plain data that plotly's script draws.

Plotly's Python package is not imported: a plot is a dictionary, and its colours for text, grid and
background are the page's, which knows whether it is light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyarch.experiment.record import BlastRadius, Comparison, RunRecord
from polyarch.report.figures import FIGURES, SATURATION, Figure, measured, number, recovery, write

__all__ = ["Plot", "colour", "plots"]

# Distinct in lightness as well as in hue, and readable on white and on near-black.
_COLOURS = ("#4c78dd", "#e8833a", "#2fa37c", "#c9568f", "#8c6bd1", "#c2a12b", "#3ba7c4", "#8a8f98")
_ROW = 34
_MARGIN = 70
_BESIDE = 300  # throughput and latency stand beside each other
_PERCENTILES = ("p50", "p90", "p99", "max")


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing: what it shows, how to read it, and ``{data, layout}`` for plotly."""

    title: str
    note: str
    figure: dict[str, Any]
    height: int
    wide: bool = False


def colour(at: int) -> str:
    """The colour of the architecture at this place of the comparison, in every plot."""
    return _COLOURS[at % len(_COLOURS)]


def plots(comparison: Comparison) -> list[Plot]:
    """Every plot for which something was measured."""
    drawn = (
        *_measures(comparison),
        _saturation(comparison.runs),
        _latency(comparison.runs),
        _cost(comparison.runs),
        _size(comparison.runs),
        _blast_radius(comparison),
    )
    return [plot for plot in drawn if plot is not None]


def _measures(comparison: Comparison) -> list[Plot | None]:
    """The job's own figures, three to a plot."""
    runs = comparison.runs
    figures = [f for f in map(measured, comparison.measures) if any(f.value(r) is not None for r in runs)]
    note = "; ".join(m.words.format(m.name) for m in comparison.measures)
    return [
        Plot(
            title=f"What the job {comparison.job} is judged by" + (" (continued)" if at else ""),
            note="" if at else note,
            figure=_bars(runs, figures[at : at + 3]),
            height=_height(len(runs)),
        )
        for at in range(0, len(figures), 3)
    ]


def _saturation(runs: Sequence[RunRecord]) -> Plot | None:
    rounds = max((len(s.runs) for run in runs if (s := run.saturation_throughput_per_s)), default=0)
    if rounds == 0:
        return None
    spread = f"The bar is the median of {rounds} rounds, the line their range. " if rounds > 1 else ""
    return Plot(
        title="Throughput at saturation",
        note=f"Successful operations per second, more is better. {spread}".strip(),
        figure=_bars(runs, [SATURATION]),
        height=max(_BESIDE, _height(len(runs))),
    )


def _latency(runs: Sequence[RunRecord]) -> Plot | None:
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": run.architecture,
            "x": list(_PERCENTILES),
            "y": [getattr(latency, name) for name in _PERCENTILES],
            "line": {"color": colour(at), "width": 2},
            "marker": {"size": 8},
            "hovertemplate": "%{x}: %{y:.3~g} ms",
        }
        for at, run in enumerate(runs)
        if (latency := run.latency_ms) is not None
    ]
    if not data:
        return None
    rates = {run.rate_per_s for run in runs if run.latency_ms is not None}
    rate = rates.pop() if len(rates) == 1 else None
    at_rate = f" at {number(rate)} operations/s" if rate is not None else ""
    return Plot(
        title=f"Latency{at_rate}",
        note="Milliseconds from the intended start, on a logarithmic scale; less is better.",
        figure={
            "data": data,
            "layout": {
                "xaxis": {},
                "yaxis": {"type": "log", "ticksuffix": " ms", "dtick": "D2"},
                "margin": {"l": 62, "r": 10, "t": 6, "b": 28},
                "legend": {"orientation": "h", "y": -0.12},
            },
        },
        height=max(_BESIDE, _height(len(runs))),
    )


def _cost(runs: Sequence[RunRecord]) -> Plot | None:
    return _panels(
        runs,
        "messages per operation",
        "bytes per operation",
        "message delays per operation",
        title="Cost per operation",
        note="Averages over all roles; delays are the messages that a client waits for. Less is better.",
    )


def _size(runs: Sequence[RunRecord]) -> Plot | None:
    return _panels(
        runs,
        "processes",
        "memory",
        title="What it takes to run",
        note="Processes of the architecture and their memory under load, without the clients.",
    )


def _panels(runs: Sequence[RunRecord], *names: str, title: str, note: str) -> Plot | None:
    figures = [
        figure
        for figure in FIGURES
        if figure.name in names and any(figure.value(run) is not None for run in runs)
    ]
    if not figures:
        return None
    return Plot(title=title, note=note, figure=_bars(runs, figures), height=_height(len(runs)))


def _bars(runs: Sequence[RunRecord], figures: Sequence[Figure]) -> dict[str, Any]:
    """Horizontal bars, one panel for each figure and one bar for each run that has it."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = _horizontal(len(figures))
    for panel, figure in enumerate(figures, start=1):
        measured = [(at, run) for at, run in enumerate(runs) if figure.value(run) is not None]
        spreads = [figure.spread(run) for _, run in measured]
        values = [figure.value(run) or 0.0 for _, run in measured]
        names = [run.architecture for _, run in measured]
        bar: dict[str, Any] = {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": names,
            "marker": {"color": [colour(at) for at, _ in measured]},
            "xaxis": f"x{panel}",
            "hovertemplate": f"%{{y}}: %{{x:,.4~g}} {figure.unit}<extra></extra>",
        }
        ends = [max(v, s.high) if s else v for s, v in zip(spreads, values, strict=True)]
        label = {
            "type": "scatter",
            "mode": "text",
            "x": ends,  # behind the spread, which would strike it through
            "y": names,
            "text": [f" {write(figure, run)}" for _, run in measured],
            "textposition": "middle right",
            "xaxis": f"x{panel}",
            "cliponaxis": False,
            "hoverinfo": "skip",
        }
        if any(spread is not None and len(spread.runs) > 1 for spread in spreads):
            bar["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [s.high - v if s else 0 for s, v in zip(spreads, values, strict=True)],
                "arrayminus": [v - s.low if s else 0 for s, v in zip(spreads, values, strict=True)],
            }
        data += [bar, label]
        if len(figures) > 1:
            _name_panel(layout, panel, figure.name.removesuffix(" per operation"), figure.unit)
        # Room for the number behind the longest bar.
        layout[f"xaxis{panel}"]["range"] = [0, 1.5 * max(ends, default=1) or 1]
    return {"data": data, "layout": layout}


def _blast_radius(comparison: Comparison) -> Plot | None:
    cards = comparison.blast_radius
    if not cards:
        return None
    at = {run.architecture: place for place, run in enumerate(comparison.runs)}
    colours = [colour(at.get(card.architecture, len(at))) for card in cards]
    rows, names = _rows(cards)
    layout = _horizontal(2)
    layout["yaxis"] |= {"tickvals": rows, "ticktext": names}
    layout["barmode"] = "stack"
    _name_panel(layout, 1, "lost or unknown", "")
    _name_panel(layout, 2, "time to recover", "s")
    unsuccessful = [card.lost + card.unknown for card in cards]
    layout["xaxis1"]["range"] = [0, 1.45 * max(unsuccessful) or 1]
    # A role that did not recover has a pale bar as long as it was watched, not one of length zero.
    seconds = [card.recovery_s if card.recovery_s is not None else card.window_s or 0 for card in cards]
    layout["xaxis2"]["range"] = [0, 1.6 * max(seconds) or 1]

    def bars(
        panel: int, values: Sequence[float], text: Sequence[str], opacity: Sequence[float] | float
    ) -> Any:
        return {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": rows,
            "text": text,
            "marker": {"color": colours, "opacity": opacity},
            "xaxis": f"x{panel}",
        }

    totals = [number(card.lost) + (f" + {number(card.unknown)} ?" if card.unknown else "") for card in cards]
    data = [
        bars(1, [card.lost for card in cards], [""] * len(cards), 1.0)
        | {"hovertemplate": "lost: %{x}<extra></extra>"},
        bars(1, [card.unknown for card in cards], totals, 0.45)
        | {"hovertemplate": "unknown: %{x}<extra></extra>"},
        bars(
            2,
            seconds,
            [recovery(card) for card in cards],
            [1.0 if card.recovery_s is not None else 0.3 for card in cards],
        )
        | {"hovertemplate": "%{text}<extra></extra>"},
    ]
    return Plot(
        title="What a kill costs",
        note=(
            "One process of each role was killed under a steady load; bold roles are single points of "
            "failure. Unknown operations (?) may have happened."
        ),
        figure={"data": data, "layout": layout},
        height=_MARGIN + round(26 * (rows[-1] + 1)),
        wide=True,
    )


def _rows(cards: Sequence[BlastRadius]) -> tuple[list[float], list[str]]:
    """Where each card is drawn and its name; an architecture is named once, with space above it."""
    places: list[float] = []
    names: list[str] = []
    previous = None
    for card in cards:
        new = card.architecture != previous
        places.append((places[-1] + (1.5 if new else 1.0)) if places else 0.0)
        role = f"<b>{card.role}</b>" if card.single_point_of_failure else card.role
        names.append((f"{card.architecture}  ·  {role}" if new else role) + " ")
        previous = card.architecture
    return places, names


def _horizontal(panels: int) -> dict[str, Any]:
    """The layout of ``panels`` panels of horizontal bars that share their rows, the first row on top."""
    gap = 0.05
    width = (1 - gap * (panels - 1)) / panels
    layout: dict[str, Any] = {
        "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False, "ticksuffix": "  "},
        "margin": {"l": 10, "r": 10, "t": 30 if panels > 1 else 6, "b": 28},
        "showlegend": False,
        "bargap": 0.35,
        "annotations": [],
    }
    for panel in range(1, panels + 1):
        start = (panel - 1) * (width + gap)
        layout[f"xaxis{panel}"] = {"domain": [start, start + width], "nticks": 3 + (panels < 3)}
    return layout


def _name_panel(layout: dict[str, Any], panel: int, name: str, unit: str) -> None:
    start, _ = layout[f"xaxis{panel}"]["domain"]
    layout["annotations"].append(
        {
            "text": f"{name} ({unit})" if unit else name,
            "x": start,
            "y": 1,
            "xref": "paper",
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 6,
            "showarrow": False,
        }
    )


def _height(rows: int) -> int:
    return max(_MARGIN + _ROW * rows, 200)
