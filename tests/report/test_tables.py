"""Tables for the terminal."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from polyarch.experiment.record import Churned, Comparison, Measure, Verdict
from polyarch.report.figures import SATURATION, best, number, times
from polyarch.report.table import blast_radius_table, comparison_table, matrix_table, run_table

from .conftest import make_measured, make_run


def text(renderable: RenderableType, width: int = 120) -> str:
    """What a terminal without colours shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(renderable: RenderableType, name: str) -> list[str]:
    """The cells of the row that begins with ``name``."""
    line = next(line for line in text(renderable).splitlines() if line.strip().startswith(name))
    return [cell for cell in line.strip().removeprefix(name).split("  ") if cell.strip()]


def test_the_best_of_a_row_is_marked(comparison: Comparison) -> None:
    cells = row(comparison_table(comparison), "saturation throughput (/s)")
    assert [cell.strip().endswith("*") for cell in cells] == [False, False, True, False]


def test_equals_are_marked_together_and_nothing_is_marked_when_all_are_equal() -> None:
    runs = [make_measured(name, (100, 110, 120), 9.0) for name in ("a", "b")]
    assert best(SATURATION, runs) == frozenset()
    slow = make_measured("c", (50, 51, 52), 9.0)
    assert best(SATURATION, [*runs, slow]) == {0, 1}


def test_a_figure_that_nobody_measured_has_no_row_and_one_that_somebody_did_has_a_gap() -> None:
    runs = (make_run("a"), make_run("b", memory_mb=12.5))
    table = comparison_table(Comparison(job="shop", runtime="sim", runs=runs, blast_radius=()))
    assert "latency" not in text(table)
    assert [cell.strip() for cell in row(table, "memory (MB)")] == ["-", "12.5"]


def test_an_architecture_that_was_not_measured_is_named_with_the_reason(comparison: Comparison) -> None:
    gaps = {"chord": "it offers lookup, not shop"}
    table = comparison_table(Comparison(job="shop", runtime="sim", runs=(), blast_radius=(), gaps=gaps))
    assert "chord was not measured: it offers lookup, not shop" in text(table)


def test_four_architectures_fit_a_terminal_of_100_columns(comparison: Comparison) -> None:
    shown = text(comparison_table(comparison), width=100)
    assert "…" not in shown
    assert "3,950 ± 115 *" in shown


def test_a_comparison_under_churn_says_how_many_peers_were_there() -> None:
    churned = Churned(
        churn="poisson:1", role="peer", away_before=1, joined=5, left=11, crashed=0, void=1,
        present_mean=2.17, present_least=1, present_most=7,
    )  # fmt: skip
    runs = (make_run("chord", churn=(churned,)), make_run("kademlia", churn=(churned,)))
    table = comparison_table(Comparison(job="lookup", runtime="sim", runs=runs, blast_radius=()))
    assert [cell.strip() for cell in row(table, "there under churn (peers)")] == ["2.17", "2.17"]
    assert [cell.strip() for cell in row(table, "fewest there (peers)")] == ["1", "1"]
    assert "there under churn" not in text(run_table(runs[0]))  # it has a line of its own


def test_a_kill_without_recovery_says_how_long_was_waited(comparison: Comparison) -> None:
    assert "did not recover in 3 s" in text(blast_radius_table(comparison.blast_radius), width=160)
    assert text(blast_radius_table(()))


def test_a_run_shows_its_metrics_and_what_does_not_hold() -> None:
    verdict = Verdict(name="stock was never negative", holds=False, detail="product [7] at -1")
    shown = text(run_table(make_run(verdicts=(verdict,), metrics={"elections": 3}, trace_hash="ab12")))
    assert "DOES NOT HOLD" in shown
    assert "product [7] at -1" in shown
    assert "elections" in shown
    assert "ab12" in shown


def test_the_matrix_gives_a_reason_for_every_gap() -> None:
    shown = text(
        matrix_table(
            {
                "shop": {"three_tier": "", "chord": "a ring sells nothing"},
                "lookup": {"three_tier": "it has no overlay", "chord": ""},
                "bank": {"three_tier": "no Bank here", "chord": "no Bank here"},
            },
            {"vertical": ["three_tier"], "peer-to-peer": ["chord"]},
            "no",
        )
    )
    assert shown.count("yes") == 2
    assert "no Bank here" not in shown
    assert shown.count("·") == 3
    assert "peer-to-peer" in shown
    assert "a ring sells nothing" in shown
    assert "it has no overlay" in shown


def test_numbers_have_about_three_digits() -> None:
    shown = [number(value) for value in (3949.6, 12.44, 1.204, 0.0714, 0.5, 0, 5000)]
    assert shown == ["3,950", "12.4", "1.20", "0.071", "0.5", "0", "5,000"]
    assert [times(ratio) for ratio in (41.2, 2.14, 1.04, 0.5)] == ["41x", "2.1x", "1.04x", "0.50x"]


MEASURES = (
    Measure("success", "{} of the lookups found somebody", "%", "high", factor=100.0),
    Measure("upkeep", "each node sends {} messages/s", "messages/s", "low"),
)


def measured_comparison() -> Comparison:
    runs = (
        make_measured("ring", (100, 110, 120), 9.0, metrics={"success": 0.985, "upkeep": 12.0}),
        make_measured("chord", (50, 51, 52), 9.0, metrics={"success": 1.0, "upkeep": 16.5}),
        make_measured("other", (50, 51, 52), 9.0, metrics={"success": 0.5, "upkeep": "unknown"}),
    )
    return Comparison(job="lookup", runtime="sim", runs=runs, blast_radius=(), measures=MEASURES)


def test_a_jobs_own_figures_are_rows_and_what_was_not_measured_is_a_gap() -> None:
    table = comparison_table(measured_comparison())
    assert [cell.strip() for cell in row(table, "success (%)")] == ["98.5", "100 *", "50"]
    assert [cell.strip() for cell in row(table, "upkeep (messages/s)")] == ["12 *", "16.5", "-"]


def test_what_does_not_fit_beside_each_other_comes_below_with_the_best_of_all_marked() -> None:
    shown = text(comparison_table(measured_comparison(), width=70))
    lines = [line.split() for line in shown.splitlines() if "success" in line]
    assert lines == [["success", "(%)", "98.5", "100", "*"], ["success", "(%)", "50"]]
    assert text(comparison_table(measured_comparison(), width=90)).count("success") == 1
