"""The HTML report: one folder that needs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from polyarch.experiment.record import Comparison, Measure, load
from polyarch.report.html import write_report
from polyarch.report.plots import plots
from polyarch.report.verdict import sentences

from .conftest import make_card, make_run


class Page(HTMLParser):
    """What a page refers to, and whether its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts: dict[str, str] = {}
        self._open: list[str] = []
        self._script: str | None = None
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [value for name in ("src", "href") if (value := given.get(name))]
        if tag not in ("meta", "br"):
            self._open.append(tag)
        if tag == "script":
            self._script = given.get("id")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"] and self._script is not None:
            self.scripts[self._script] = data


@pytest.fixture
def page(comparison: Comparison, tmp_path: Path) -> Path:
    return write_report(comparison, tmp_path / "report")


def test_the_report_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text)
    assert "@import" not in text
    assert "url(" not in text


def test_everything_that_the_page_refers_to_lies_beside_it(page: Path) -> None:
    references = Page(page.read_text(encoding="utf-8")).references
    assert set(references) == {"plotly.min.js", "comparison.json"}
    assert {path.name for path in page.parent.iterdir()} == {*references, "index.html"}
    assert (page.parent / "plotly.min.js").stat().st_size > 1_000_000


def test_the_report_holds_the_record_that_it_was_made_from(page: Path, comparison: Comparison) -> None:
    file = page.parent / "comparison.json"
    assert load(file, Comparison) == comparison
    embedded = Page(page.read_text(encoding="utf-8")).scripts["comparison"]
    assert json.loads(embedded) == json.loads(file.read_text(encoding="utf-8"))


def test_the_verdicts_are_there_in_words(page: Path, comparison: Comparison) -> None:
    text = page.read_text(encoding="utf-8")
    for words in sentences(comparison):
        assert words.split(": ", 1)[1][1:] in text


def test_there_is_a_plot_for_each_question(comparison: Comparison) -> None:
    assert [plot.title for plot in plots(comparison)] == [
        "Throughput at saturation",
        "Latency at 500 operations/s",
        "Cost per operation",
        "What it takes to run",
        "What a kill costs",
    ]


def test_what_was_not_measured_is_not_plotted(tmp_path: Path) -> None:
    bare = Comparison(job="shop", runtime="sim", runs=(make_run(),), blast_radius=())
    assert plots(bare) == []
    assert "NaN" not in write_report(bare, tmp_path).read_text(encoding="utf-8")


def test_a_role_that_did_not_recover_is_not_drawn_as_recovered_at_once() -> None:
    card = make_card(recovery_s=None, window_s=4.0)
    plot = plots(Comparison(job="shop", runtime="local", runs=(make_run(),), blast_radius=(card,)))[-1]
    bar = plot.figure["data"][-1]
    assert bar["x"] == [4.0]
    assert bar["text"] == ["did not recover in 4 s"]


def test_words_from_a_record_cannot_become_markup(tmp_path: Path) -> None:
    run = make_run("</script><b>x", parameters={"<i>": "</td><script>alert(1)</script>"})
    page = write_report(
        Comparison(job="<shop>", runtime="sim", runs=(run,), blast_radius=(make_card(detail="<u>"),)),
        tmp_path,
    )
    text = page.read_text(encoding="utf-8")
    Page(text)
    assert "<i>" not in text
    assert "<u>" not in text
    assert "alert(1)</script>" not in text


def test_writing_twice_replaces_the_report(comparison: Comparison, tmp_path: Path) -> None:
    assert write_report(comparison, tmp_path) == write_report(comparison, str(tmp_path))


def test_a_jobs_own_figures_are_in_the_tables_and_in_plots(comparison: Comparison, tmp_path: Path) -> None:
    runs = tuple(
        msgspec.structs.replace(run, metrics={"imbalance": 31.25 + at})
        for at, run in enumerate(comparison.runs)
    )
    measures = (Measure("imbalance", "the busiest handles {} times the mean", better="low"),)
    judged = msgspec.structs.replace(comparison, runs=runs, measures=measures, sentences=())
    page = write_report(judged, tmp_path).read_text()
    assert page.count("<td>imbalance</td>") == 1
    assert "<b>31.2</b>" in page
    assert "The busiest handles 31.2 times the mean (the least)" in page
    drawn = plots(judged)
    assert drawn[0].note == "the busiest handles imbalance times the mean"
    assert drawn[0].figure["data"][0]["x"] == [31.25, 32.25, 33.25, 34.25]
