"""Verdicts say what was measured, against the first architecture, and nothing else."""

from __future__ import annotations

from polyarch.experiment.record import Comparison, Cost, Measure, Operations, Verdict
from polyarch.report.figures import checks
from polyarch.report.verdict import sentence, sentences

from .conftest import make_card, make_measured, make_run

FIRST = make_measured("client_server", (1826, 1880, 1931), 12.1)


def test_a_verdict_quotes_the_figures_that_its_ratios_rest_on() -> None:
    run = make_measured("replicated", (3835, 3950, 4061), 19.4)
    assert sentence(run, (FIRST, run)) == (
        "replicated: 2.1x the saturation throughput of client_server"
        " (3,950 ± 115 vs 1,880 ± 54 /s; the highest),"
        " but p99 is 1.6x (19.4 ± 1.0 vs 12.1 ± 0.6 ms at 500 /s)."
    )


def test_the_first_architecture_states_its_own_figures() -> None:
    other = make_measured("replicated", (3835, 3950, 4061), 19.4)
    assert sentence(FIRST, (FIRST, other)) == (
        "client_server: 1,880 ± 54 /s at saturation and p99 is 12.1 ± 0.6 ms at 500 /s, the lowest."
    )


def test_ranges_that_overlap_are_called_the_same() -> None:
    run = make_measured("three_tier", (1702, 1795, 1838), 12.3)
    said = sentence(run, (FIRST, run))
    assert "the same saturation throughput as client_server (1,795 ± 93 vs 1,880 ± 54 /s)" in said
    assert "p99 is the same" in said
    assert "highest" not in said


def test_worse_in_both_is_joined_by_and_not_by_but() -> None:
    run = make_measured("microservices", (905, 948, 1010), 41.7)
    said = sentence(run, (FIRST, run))
    assert "0.50x the saturation throughput of client_server" in said
    assert ") and p99 is 3.4x" in said


def test_latencies_at_different_rates_are_not_divided() -> None:
    run = make_measured("replicated", (3835, 3950, 4061), 19.4, rate_per_s=900.0)
    said = sentence(run, (FIRST, run))
    assert "p99 is 19.4 ± 1.0 ms at 900 /s" in said
    assert "the lowest" not in sentence(FIRST, (FIRST, run))


def test_what_was_not_measured_is_not_mentioned() -> None:
    assert sentence(make_run(), (make_run(),)) == "client_server: nothing was measured."
    run = make_measured("replicated", (1.0,), 19.4, saturation_throughput_per_s=None)
    assert sentence(run, (FIRST, run)).startswith("replicated: p99 is 1.6x that of client_server (")


def test_single_points_of_failure_are_named_with_what_they_cost() -> None:
    cards = [
        make_card(role="web", lost=120, unknown=2, recovery_s=0.5, single_point_of_failure=True),
        make_card(role="data", lost=300, unknown=9, recovery_s=None, single_point_of_failure=True),
        make_card(role="payments", lost=38, recovery_s=0.61),
        make_card(role="logic"),
        make_card(role="queue"),
        make_card("replicated", role="switch", lost=1),
    ]
    assert sentence(make_run(), (make_run(),), cards) == (
        "client_server: web and data are single points of failure (lost 120 to 300 of 1,500 operations"
        " and left up to 9 unknown, back after 0.5 s, data did not recover in 3 s);"
        " killing payments lost 38 of 1,500 operations, back after 0.61 s;"
        " killing logic or queue lost 0 operations."
    )


def test_a_check_that_does_not_hold_comes_before_every_figure() -> None:
    wrong = Verdict(name="no order was charged twice", holds=False, detail="order 17 twice")
    run = make_measured("replicated", (3835, 3950, 4061), 19.4, verdicts=(wrong,))
    said = sentence(run, (FIRST, run))
    assert said.startswith(
        "replicated: WRONG, it does not hold that no order was charged twice (order 17 twice);"
    )


def test_operations_without_success_are_counted() -> None:
    run = make_run(operations=Operations(attempted=5000, ok=4995, failed=3, unknown=2))
    assert "of 5,000 operations 3 failed and 2 stayed unknown" in sentence(run, (run,))


def test_there_is_one_sentence_for_each_architecture(comparison: Comparison) -> None:
    said = sentences(comparison)
    assert [words.split(":")[0] for words in said] == [run.architecture for run in comparison.runs]


def test_a_jobs_own_figures_come_in_its_own_words() -> None:
    measures = (
        Measure("success", "{} of the lookups found somebody", "%", "high", factor=100.0),
        Measure("hops", "over {} hops", better="low"),
        Measure("links", "each node knows {} others", better="low"),
    )
    one = make_run("ring", metrics={"success": 1.0, "hops": 16.0}, cost_per_operation=Cost(messages=34.2))
    other = make_run("chord", metrics={"success": 0.992, "hops": 3.1})
    assert sentence(one, (one, other), (), measures) == (
        "ring: 100 % of the lookups found somebody (the most), over 16 hops, one costs 34.2 messages."
    )
    assert sentence(other, (one, other), (), measures) == (
        "chord: 99.2 % of the lookups found somebody, over 3.10 hops (the least)."
    )


def test_what_is_not_promised_does_not_count_against_what_is() -> None:
    kept, broken = Verdict("a", True, ""), Verdict("b", False, "")
    chance = Verdict("c", False, "", promised=False)
    assert checks([]) == ""
    assert checks([kept, kept]) == "2 of 2 hold"
    assert checks([kept, broken]) == "1 of 2 hold"
    assert checks([kept, chance]) == "1 of 1 promised"
    assert checks([kept, broken, chance]) == "1 of 2 promised"
