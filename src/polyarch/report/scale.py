"""What a scaling experiment comes to: one sentence, a table, and the plot of the measurements and the law."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from polyarch.experiment.record import Spread
from polyarch.experiment.scale import Coefficient, Scale, ScalePoint
from polyarch.measure.scalability import LINEAR, usl
from polyarch.report.curves import axis_layout, line, write_page
from polyarch.report.figures import number
from polyarch.report.html import table_element
from polyarch.report.plots import Plot, colour
from polyarch.report.table import plain_table

__all__ = ["scale_plots", "scale_sentence", "scale_table", "write_scale"]

_BADLY = 0.1
"""A law that is farther off than this on average is to be read with care."""
_NOTHING = 0.05
"""What is lost to contention and coherence together, if that is too little to speak of a limit."""
_FAILS = 0.01
_MORE = 1.1
"""More than linear: each of many does so many times what one of few does."""


def scale_sentence(scale: Scale) -> str:
    """``replicated does shop on sim: linear to 3 servers, peak of 3,100 /s at 22 (18 to 30), limited by
    contention …``"""
    parts = [_linear(scale), _peak(scale), _limit(scale)] if scale.bottleneck is None else _level(scale)
    notes = []
    if scale.bottleneck is None and scale.law.error > _BADLY:
        off = f"{100 * scale.law.error:.0f} %"
        notes.append(f"the law is off by {off} on average: read it with care")
    if any(p.unsuccessful > _FAILS for p in scale.points):
        worst = max(scale.points, key=lambda p: p.unsuccessful)
        notes.append(
            f"at {worst.size} {scale.parameter} {100 * worst.unsuccessful:.1f} % of the operations failed"
        )
    if scale.law.one_per_s.low is None:
        notes.append("three sizes and one round: how sure that is was not measured")
    short = [str(p.size) for p in scale.points if not p.saturated]
    unknown = ""
    if short:
        many = max(p.clients for p in scale.points)
        where = f"with {many:,} clients it was not saturated at {', '.join(short)}"
        hint = " (dearer messages, --handler-cost 20us, need fewer)" if scale.runtime == "sim" else ""
        unknown = f"{where}{hint}, so not known; as if it were, "
    text = f"{scale.architecture} does {scale.job} on {scale.runtime}: {unknown}{', '.join(parts)}"
    return text + "".join(f"; {note}" for note in notes)


def _level(scale: Scale) -> list[str]:
    """In place of the three parts of the law: there is a knee, and no peak."""
    b = scale.bottleneck
    assert b is not None
    knee = b.cap_per_s / b.one_per_s
    of_law = f"the law of contention and coherence is off by {scale.law.error:.1%}, this by {b.error:.1%}"
    return [
        f"linear to {number(round(knee, 1))} {scale.parameter.replace('_', '-')}",
        f"then level at {number(b.cap_per_s)} /s (no peak)",
        f"limited by contention: by one bottleneck that all need ({of_law})",
    ]


def _linear(scale: Scale) -> str:
    least, most = scale.points[0], scale.points[-1]
    one, all_ = (p.throughput_per_s for p in (least, most))
    times = all_.median / one.median * least.size / most.size
    if times > _MORE and all_.low * least.size > one.high * most.size:
        many = _counted(most.size, scale)
        return (
            f"more than linear: of {many} each does {times:.2g} times what it does of {least.size}, "
            "which the law does not know"
        )
    to = scale.law.linear_to
    if to is None or to >= most.size:
        return f"linear as far as it was measured ({_counted(most.size, scale)})"
    if math.floor(to) <= least.size:
        return f"not linear beyond {_counted(least.size, scale)}"
    return f"linear to {_counted(math.floor(to), scale)} ({LINEAR:.0%} of so many times what one does)"


def _counted(n: int, scale: Scale) -> str:
    """``1 server``, ``8 servers``"""
    name = scale.parameter.replace("_", "-")
    return f"{n:,} {name.removesuffix('s') if n == 1 and len(name) > 1 else name}"


def _peak(scale: Scale) -> str:
    law, most = scale.law, scale.points[-1].size
    a, peak = law.contention, law.peak
    tends = ""
    if a.value > 0 and (a.low is None or a.low > 0):
        tends = f"it tends to {number(law.one_per_s.value / a.value)} /s"
    if peak is None or (peak.low is not None and peak.high is None and peak.value > most):
        # What is beyond the measurements, and need not be there at all, is no finding.
        least = law.peak_at_least if peak is None else peak.low
        if least is None:
            return f"no peak ({tends})" if tends else "no peak"
        without = f"; without one {tends}" if tends else ""
        if least < most:
            return f"no peak that is certain (perhaps at {number(round(least, 1))} or more{without})"
        return f"no peak up to {most:,} (if there is one, at {number(round(least, 1))} or more{without})"
    top = number(_at(scale, peak.value))
    where = f"{number(round(peak.value, 1))}{_interval(peak)}"
    if peak.value > most:
        return f"peak expected at {where}, beyond what was measured"
    if peak.low is not None and peak.high is None:
        return f"perhaps a peak of {top} /s at {where}"
    return f"peak of {top} /s at {where}"


def _limit(scale: Scale) -> str:
    law, most = scale.law, scale.points[-1].size
    a, b = law.contention, law.coherence
    contention, coherence = a.value * (most - 1), b.value * most * (most - 1)
    figures = f"a = {_small(a)}{_interval(a)}, b = {_small(b)}{_interval(b)}"
    if contention + coherence < _NOTHING:
        return f"limited by neither contention nor coherence ({figures})"
    by, other = ("contention", "coherence") if contention >= coherence else ("coherence", "contention")
    main = a if contention >= coherence else b
    sure = "" if main.low is None or main.low > 0 else ", which is not certain"
    lost = max(contention, coherence) / (1 + contention + coherence)
    less = min(contention, coherence) / (1 + contention + coherence)
    share = f"at {most} it costs {lost:.0%} of the ideal, {other} {less:.0%}"
    return f"limited by {by}{sure} ({figures}; {share})"


def _small(c: Coefficient) -> str:
    return f"{c.value:.3g}"


def _interval(c: Coefficient) -> str:
    if c.low is None:
        return ""
    high = "no end" if c.high is None else f"{c.high:.3g}"
    return f" ({c.low:.3g} to {high})"


def _at(scale: Scale, n: float) -> float:
    law = scale.law
    return law.one_per_s.value * usl(n, law.contention.value, law.coherence.value)


# -- table ------------------------------------------------------------------------------------------------

_HEADINGS = (
    "", "clients", "throughput /s", "of the ideal", "the law", "p50 ms", "p99 ms", "messages", "failed"
)  # fmt: skip


def _rows(scale: Scale) -> list[list[str]]:
    return [_row(scale, point) for point in scale.points]


def _row(scale: Scale, p: ScalePoint) -> list[str]:
    x, one = p.throughput_per_s, scale.law.one_per_s.value
    spread = f" ± {number(float(f'{x.plus_minus:.2g}'))}" if len(x.runs) > 1 else ""
    cost = p.cost_per_operation
    return [
        str(p.size),
        number(p.clients),
        number(x.median) + spread,
        f"{x.median / (p.size * one):.0%}",
        number(_at(scale, p.size)),
        number(p.latency_ms.p50) if p.latency_ms else "",
        number(p.latency_ms.p99) if p.latency_ms else "",
        number(cost.messages) if cost and cost.messages is not None else "",
        f"{100 * p.unsuccessful:.2g} %" if p.unsuccessful else "0",
    ]


def scale_table(scale: Scale) -> RenderableType:
    """A row for each size, and the sentence."""
    table = plain_table(f"{scale.architecture}: {scale.job} on {scale.runtime}, {scale.rounds} rounds")
    table.add_column(escape(scale.parameter), justify="right")
    for heading in _HEADINGS[1:]:
        table.add_column(heading, justify="right")
    for row in _rows(scale):
        table.add_row(*row)
    return Group(table, Text(scale.sentence))


# -- page -------------------------------------------------------------------------------------------------


def write_scale(scale: Scale, folder: str | Path) -> Path:
    """Write the report into a folder, and return the page to open."""
    names = [scale.parameter, *_HEADINGS[1:]]
    return write_page(
        folder,
        title=f"How scalable is {scale.architecture}?",
        subtitle=f"{scale.job} on {scale.runtime}, {scale.parameter} varied, {scale.rounds} rounds",
        sentences=[scale.sentence],
        drawn=scale_plots(scale),
        tables=["<h2>Figures</h2>\n" + table_element(names, _rows(scale), numbers=slice(0, None))],
        record=scale,
        runs=[],
    )


def scale_plots(scale: Scale) -> list[Plot]:
    """Throughput against size with the fitted law and the ideal; and what part of the ideal is left."""
    sizes = [p.size for p in scale.points]
    law, most = scale.law, sizes[-1]
    end = most
    if law.peak is not None and most < law.peak.value <= 3 * most:
        end = math.ceil(1.2 * law.peak.value)
    curve = [sizes[0] * (end / sizes[0]) ** (i / 60) for i in range(61)]

    def drawn(name: str, y: list[float], dash: str, at: int) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "lines", "name": name, "x": curve, "y": y, "hoverinfo": "skip",
            "line": {"dash": dash, "width": 1.5, "color": colour(at)},
        }  # fmt: skip

    def plot(title: str, note: str, data: list[dict[str, Any]], top: float) -> Plot:
        layout = {
            "xaxis": axis_layout([float(n) for n in sizes], scale.parameter),
            "yaxis": {"range": [0, 1.1 * top]},
            "margin": {"l": 62, "r": 10, "t": 6, "b": 40},
            "legend": {"orientation": "h", "y": -0.25},
        }
        return Plot(title=title, note=note, figure={"data": data, "layout": layout}, height=360)

    level = scale.bottleneck
    fitted = [_at(scale, n) for n in curve]
    measured = [p.throughput_per_s for p in scale.points]
    one = law.one_per_s.value
    parts = [Spread.of(x / (p.size * one) for x in p.throughput_per_s.runs) for p in scale.points]
    top = max([*fitted, *(s.high for s in measured)])
    return [
        plot(
            "Throughput at saturation (/s)",
            "Median of the rounds and their range; dashed: the Universal Scalability Law that fits; "
            "dotted: so many times what one does.",
            [
                line(scale.architecture, 0, sizes, measured, "/s"),
                drawn("the law", fitted, "dash", 1),
                drawn("ideal", [n * law.one_per_s.value for n in curve], "dot", 7),
                *(
                    [
                        drawn(
                            "a bottleneck",
                            [min(n * level.one_per_s, level.cap_per_s) for n in curve],
                            "solid",
                            2,
                        )
                    ]
                    if level
                    else []
                ),
            ],
            top,
        ),
        plot(
            "Part of the ideal",
            "Throughput over so many times what one does; linear is what stays above 0.9.",
            [
                line(scale.architecture, 0, sizes, parts),
                drawn("the law", [f / (n * law.one_per_s.value) for n, f in zip(curve, fitted)], "dash", 1),
            ],
            max([1.0, *(s.high for s in parts)]),
        ),
    ]
