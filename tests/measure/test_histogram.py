import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.measure.histogram import RELATIVE_ERROR, Histogram

durations = st.lists(st.integers(0, 10**13) | st.integers(0, 600), max_size=200)


@given(st.lists(durations, max_size=5))
def test_a_merge_is_the_histogram_that_recorded_everything(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram(part))
    assert merged == Histogram(value for part in parts for value in part)


@given(durations.filter(bool), st.sampled_from([0, 1, 10, 50, 90, 99, 99.9, 99.99, 100]))
def test_a_percentile_is_the_nearest_rank_within_the_stated_error(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(1, math.ceil(round(percent * len(values) / 100, 9))) - 1]
    measured = Histogram(values).percentile(percent)
    assert measured is not None
    assert abs(measured - exact) <= RELATIVE_ERROR * exact


@given(durations)
def test_count_sum_minimum_maximum_and_mean_are_exact(values: list[int]) -> None:
    histogram = Histogram(values)
    assert (histogram.count, histogram.sum) == (len(values), sum(values))
    if values:
        assert (histogram.min, histogram.max) == (min(values), max(values))
        assert histogram.mean == sum(values) / len(values)


@given(durations)
def test_it_crosses_processes_as_json(values: list[int]) -> None:
    histogram = Histogram(values)
    assert Histogram.from_dict(json.loads(json.dumps(histogram.to_dict()))) == histogram


@given(st.integers(0, 2**62), st.integers(1, 1000))
def test_recording_a_value_several_times_at_once_is_recording_it_one_by_one(value: int, times: int) -> None:
    at_once = Histogram()
    at_once.record(value, times)
    assert at_once == Histogram([value] * times)


def test_what_was_not_measured_is_absent() -> None:
    empty = Histogram()
    assert empty.percentile(50) is empty.min is empty.max is empty.mean is None
    assert empty.summary() == {}


def test_a_decimal_percentile_does_not_round_up_to_the_next_rank() -> None:
    assert Histogram(range(1, 201)).percentile(99.5) == 199
    assert Histogram([1] * 999 + [200]).percentile(99.9) == 1


def test_a_summary_is_in_the_unit_asked_for() -> None:
    assert Histogram([2_000_000]).summary() == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0}
    assert Histogram([1_000_000, 4_000_000]).summary()["mean"] == 2.5


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Histogram([-1])
    with pytest.raises(ValueError, match="between 0 and 100"):
        Histogram([1]).percentile(101)
