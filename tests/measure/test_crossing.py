"""Break-evens of curves whose crossing is known."""

from __future__ import annotations

import numpy as np
import pytest

from polyarch.measure.crossing import crossings


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def series(places, curve, *, noise=0.0, runs=5, seed=0):
    """Runs of a curve with relative noise."""
    source = np.random.default_rng(seed)
    return [[curve(x) * (1 + noise * e) for e in source.normal(size=runs)] for x in places]


def test_two_power_laws_cross_where_they_do_however_few_places_there_are():
    places = [64, 4096]
    (found,) = crossings(places, series(places, lambda n: n), series(places, lambda n: 40 * n**0.5), rng())
    assert found.at == pytest.approx(1600)
    assert (found.low, found.high) == (pytest.approx(1600), pytest.approx(1600))
    assert found.rises
    assert found.share == 1.0


def test_two_straight_lines_with_negative_values_cross_where_they_do():
    places = [1, 2, 3]
    (found,) = crossings(places, [[3.0], [1.0], [-1.0]], [[0.5], [0.5], [0.5]], rng())
    assert found.at == pytest.approx(2.25)
    assert not found.rises
    assert (found.low, found.high, found.share) == (None, None, None)


@pytest.mark.parametrize(("runs", "common"), [(2, 0.0), (3, 0.0), (3, 0.1), (12, 0.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says_however_few_the_rounds(runs, common):
    places, covered = [10, 100, 1000], 0
    for seed in range(100):
        one = series(places, lambda n: n, noise=0.05, runs=runs, seed=seed)
        other = series(places, lambda n: 150, noise=0.05, runs=runs, seed=1000 + seed)
        slow = 1 + common * np.random.default_rng(2000 + seed).normal(size=runs)  # at all places alike
        (found,) = crossings(places, [list(x * slow) for x in one], other, rng())
        covered += found.low <= 150 <= found.high
    assert covered >= 90  # 95 are expected; a bootstrap of three rounds has 71


def test_a_crossing_that_is_not_sure_says_so():
    places = [1, 2, 3]
    one, other = [[1.0, 3.0, 1.0], [5.0] * 3, [5.0] * 3], [[2.0] * 3, [2.0] * 3, [2.0] * 3]
    (found,) = crossings(places, one, other, rng())
    assert found.share == pytest.approx(2 / 3, abs=0.05)  # P(t < 0.5) with two degrees of freedom


def test_curves_that_do_not_cross_have_no_break_even():
    places = [1, 2, 4]
    assert crossings(places, series(places, lambda n: n), series(places, lambda n: 2 * n), rng()) == []
    assert crossings(places, [[1.0]] * 3, [[1.0]] * 3, rng()) == []
    assert crossings(places, [[1.0], [1.0], [2.0]], [[1.0]] * 3, rng()) == []


def test_curves_that_are_one_for_a_while_cross_in_the_middle_of_it():
    (found,) = crossings([1, 2, 3, 3.9], [[-1.0], [0.0], [0.0], [1.0]], [[0.0]] * 4, rng())
    assert found.at == pytest.approx(2.5)


def test_each_of_several_crossings_is_found():
    places = list(range(1, 14))
    wave = [[np.cos(x / 2)] for x in places]
    found = crossings(places, wave, [[0.0]] * 13, rng())
    assert [f.rises for f in found] == [False, True, False, True][: len(found)]
    assert [f.at for f in found] == [pytest.approx(k * np.pi, rel=0.02) for k in (1, 3)]


@pytest.mark.parametrize(
    ("places", "one", "says"),
    [([1, 2], [[1.0]], "2 places"), ([2, 1], [[1.0], [2.0]], "ascend"), ([1, 2], [[1.0], []], "of both")],
)
def test_what_does_not_fit_together_is_refused(places, one, says):
    with pytest.raises(ValueError, match=says):
        crossings(places, one, [[1.0], [1.0]], rng())
