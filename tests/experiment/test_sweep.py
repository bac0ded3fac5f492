"""A comparison at several values of a parameter, of systems whose break-even is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from small_systems import Draw, Well

from polyarch.core import System
from polyarch.experiment.compare import Pace
from polyarch.experiment.run import Question
from polyarch.experiment.sweep import Axis, Sweep, sweep
from polyarch.report.curves import sweep_plots, write_sweep
from polyarch.report.sweep import complete

PACE = Pace(rounds=3, saturation=0.05, clients=1, steady=0.3, kills=False)


class Steady(Well):
    """Takes five milliseconds for an answer, whatever it is told."""

    name = "steady"

    def build(self, system: System) -> None:
        asked, self.service = self.service, 0.005
        super().build(system)
        self.service = asked


class Twice(Steady):
    """Takes longer than both."""

    name = "twice"

    def build(self, system: System) -> None:
        asked, self.service = self.service, 2 * self.service + 0.0055
        super(Steady, self).build(system)
        self.service = asked


def measured(values: list[str], kinds: Any = (Well, Steady), pace: Pace = PACE) -> Sweep:
    asked = [
        [Question(kind(service=value), Draw(), rate=100.0, seed=4) for kind in kinds] for value in values
    ]
    axis = Axis(parameter="service", values=tuple(values), places=tuple(map(float, values)), unit="s")
    return sweep(axis, [(questions, pace) for questions in asked])


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return complete(measured(["0.002", "0.004", "0.008"]))


def test_the_break_even_is_where_the_two_take_as_long(swept):
    found = {b.figure: b for b in swept.break_even}
    latency = found["latency p50"]
    assert (latency.overtakes, latency.overtaken) == ("steady", "well")
    assert latency.at == pytest.approx(0.005, rel=0.05)  # a power law between 5 and 9 ms is nearly straight
    assert latency.low <= latency.at <= latency.high
    assert latency.share == 1.0
    assert "messages per operation" not in found
    assert "saturation throughput" not in found  # one client is not enough to see it


def test_the_first_sentence_is_the_answer(swept):
    first = swept.sentences[0]
    assert first.startswith("latency p99: steady overtakes well at service = 0.005 s (0.00")
    assert "95 %, of 3 rounds" in first
    assert complete(swept, "latency p90").sentences[0].startswith("latency p90: steady overtakes well at")
    assert complete(swept, "messages per operation").sentences[0] == (
        "messages per operation: no break-even from service = 0.002 to 0.008"
    )
    with pytest.raises(ValueError, match=r"nothing is called 'beauty'; measured were .*latency p99"):
        complete(swept, "beauty")


def test_each_round_has_a_seed_of_its_own_and_each_point_all_rounds(swept):
    assert [(p.architecture, p.value) for p in swept.points] == [
        (name, value) for name in ("well", "steady") for value in ("0.002", "0.004", "0.008")
    ]
    for point in swept.points:
        assert [run.seed for run in point.runs] == [4, 5, 6]
        assert {run.architecture for run in point.runs} == {point.architecture}
        assert {run.parameters["service"] for run in point.runs} == {float(point.value)}
        assert len(point.figures["latency p50"].runs) == 3
    assert swept.holds


def test_the_same_question_has_the_same_answer(swept):
    again = complete(measured(["0.002", "0.004", "0.008"]))
    assert again.break_even == swept.break_even
    assert [p.figures for p in again.points] == [p.figures for p in swept.points]


def test_of_several_it_says_who_is_best_from_where_to_where():
    result = complete(
        measured(["0.002", "0.008"], (Well, Steady, Twice), dataclasses.replace(PACE, rounds=2))
    )
    (sentence,) = [s for s in result.sentences if s.startswith("latency p50")]
    assert sentence.startswith("latency p50: well is best up to service = 0.00")
    assert sentence.endswith(", then steady")


class Fast(Steady):
    """Takes a millisecond."""

    name = "fast"

    def build(self, system: System) -> None:
        asked, self.service = self.service, 0.001
        super(Steady, self).build(system)
        self.service = asked


def test_who_overtakes_whom_behind_the_best_is_told_too():
    result = complete(measured(["0.002", "0.008"], (Fast, Well, Steady)))
    (sentence,) = [s for s in result.sentences if s.startswith("latency p50")]
    assert sentence.startswith("latency p50: fast is best at each service; behind, steady overtakes well at")


class Twin(Steady):
    """The same."""

    name = "twin"


def test_those_that_are_equally_good_are_named_together_and_what_was_not_measured_is_left_out():
    swept = measured(["0.002", "0.004", "0.008"], (Well, Steady, Twin))
    (sentence,) = [s for s in complete(swept).sentences if s.startswith("latency p50")]
    assert sentence.startswith("latency p50: well is best up to service = 0.005 s (0.00")
    assert sentence.endswith(", then steady and twin")
    first = swept.points[0]
    unknown = msgspec.structs.replace(first.runs[0], latency_ms=None)
    gap = msgspec.structs.replace(first, runs=(unknown, *first.runs[1:]))
    result = complete(msgspec.structs.replace(swept, points=(gap, *swept.points[1:])))
    found = [b for b in result.break_even if b.figure == "latency p50"]
    assert [(b.overtakes, b.overtaken) for b in found] == [("steady", "well"), ("twin", "well")]


def test_one_round_has_a_break_even_and_does_not_say_how_sure_it_is():
    result = complete(measured(["0.002", "0.008"], pace=dataclasses.replace(PACE, rounds=1)))
    assert result.break_even[0].low is None
    assert "one round: how sure that is was not measured" in result.sentences[0]


def test_what_is_no_number_is_compared_and_has_no_break_even():
    asked = [[Question(Well(lie=lie), Draw(), rate=100.0)] for lie in (False, True)]
    result = complete(sweep(Axis(parameter="lie", values=("false", "true")), [(q, PACE) for q in asked]))
    assert result.break_even == ()
    assert result.sentences == ()
    assert not result.holds
    assert sweep_plots(result) == [] or all(plot.figure["data"] for plot in sweep_plots(result))


def test_the_report_has_a_plot_for_each_figure_that_changes_and_needs_no_network(swept, tmp_path):
    titles = [plot.title for plot in sweep_plots(swept)]
    assert "latency p50 (ms)" in titles
    assert "messages per operation" not in titles
    text = write_sweep(swept, tmp_path).read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "sweep.json", "plotly.min.js"}
    assert "http" not in text.partition("<script")[0]
    assert "steady overtakes well" in text
    assert "$" not in text.partition('<script type="application/json"')[0].partition("<body>")[2]
