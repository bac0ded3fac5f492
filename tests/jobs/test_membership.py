"""Membership and aggregate: what their checks say of views that are made up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from polyarch.core import Done
from polyarch.jobs.aggregate import Aggregate, Reading, Readings
from polyarch.jobs.membership import Membership, Notice, Present, View, detection_times

BEFORE = Present({"a": 1, "b": 1, "c": 1})


def view(address: str, alive: str, *notices: Notice, life: int = 1) -> View:
    return View(address, life, tuple(alive), notices)


def dead(subject: str, at: float = 5.0, silence: float | None = 2.0) -> Notice:
    return Notice(subject, "dead", at, silence)


def holds(*views: View, history: Sequence[Done] = ()) -> list[bool]:
    job = Membership()
    job.before = BEFORE
    return [verdict.holds for verdict in job.check(history, views)]


def test_all_know_each_other_and_nothing_happened() -> None:
    assert holds(view("a", "abc"), view("b", "cba"), view("c", "abc")) == [True, True, True]


@pytest.mark.parametrize("alive", ["ab", "abcd"])
def test_a_view_without_somebody_and_a_view_with_a_ghost_are_found(alive: str) -> None:
    assert holds(view("a", alive), view("b", "abc"), view("c", "abc")) == [False, True, True]


def test_who_was_away_must_have_been_noticed_by_each_who_stayed() -> None:
    away = view("c", "abc", life=2)
    assert holds(view("a", "abc", dead("c")), view("b", "abc", dead("c")), away) == [True, True, True]
    assert holds(view("a", "abc", dead("c")), view("b", "abc"), away) == [True, False, True]


def test_a_death_of_somebody_who_stayed_is_an_error_and_a_suspicion_is_none() -> None:
    views = view("b", "abc"), view("c", "abc")
    suspicion = Notice("b", "suspect", 1.0, 0.1)
    assert holds(view("a", "abc", dead("b")), *views) == [True, True, False]
    assert holds(view("a", "abc", suspicion), *views) == [True, True, True]


def test_time_to_detect_counts_from_the_last_sign_of_life_that_anybody_had() -> None:
    views = [view("a", "ab", dead("c", 5.0, 2.0)), view("b", "ab", dead("c", 5.5, 1.5))]
    assert detection_times(["c"], views) == [1.0]  # b heard of c at 4.0, a was the first to know, at 5.0
    assert detection_times(["c"], [view("a", "ab", dead("c", 5.0, None))]) == []


def test_detection_and_false_deaths_are_figures_of_a_run() -> None:
    job = Membership()
    job.before = BEFORE
    views = [view("a", "abc", dead("c", 5.0, 2.0), dead("b")), view("b", "abc"), view("c", "abc", life=2)]
    assert job.figures((), views) == {"detection_s": 2.0, "wrongly_dead": 1}
    assert job.figures((), [view("a", "abc"), view("b", "abc"), view("c", "abc")]) == {"wrongly_dead": 0}


def reading(address: str, value: float, estimate: float) -> Reading:
    return Reading(address, value, estimate)


@pytest.mark.parametrize(("estimate", "right"), [(15.0, True), (15.009, True), (15.02, False)])
def test_an_estimate_may_differ_from_the_mean_by_a_part_of_the_spread(estimate: float, right: bool) -> None:
    readings = Readings((reading("a", 10.0, 15.0), reading("b", 20.0, estimate)))
    (verdict,) = Aggregate(error=0.001).check([], readings)
    assert verdict.holds == right


def test_no_reading_at_all_is_no_success() -> None:
    (verdict,) = Aggregate().check([], Readings(()))
    assert not verdict.holds
