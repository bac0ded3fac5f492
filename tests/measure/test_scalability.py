"""The Universal Scalability Law (law LB-12 of the list) against its formula, and its fit against planted
coefficients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polyarch.measure.scalability import LINEAR, amdahl, bottleneck, fit, usl

SIZES = [1, 2, 4, 8, 16, 32, 64]


def planted(a: float, b: float, *, noise: float = 0.0, runs: int = 3, seed: int = 0, one: float = 950.0):
    source = np.random.default_rng(seed)
    sizes = [n for n in SIZES for _ in range(runs)]
    return sizes, [one * usl(n, a, b) * (1 + noise * source.normal()) for n in sizes]


def test_the_law_has_the_values_of_the_list():
    found = [round(usl(n, 0.03, 0.0005), 3) for n in (8, 32, 44, 100)]
    assert found == [6.462, 13.19, 13.597, 11.211]
    assert round(amdahl(16, 0.05), 4) == 9.1429 == round(usl(16, 0.05, 0), 4)
    assert round(math.sqrt((1 - 0.03) / 0.0005), 2) == 44.05


@pytest.mark.parametrize(("a", "b"), [(0.03, 0.0005), (0.2, 0.0), (0.0, 0.001), (0.0, 0.0), (0.5, 0.01)])
def test_coefficients_are_found_exactly_where_there_is_no_noise(a, b):
    law = fit(*planted(a, b), np.random.default_rng(1))
    assert law.one.value == pytest.approx(950.0)
    assert law.contention.value == pytest.approx(a, abs=1e-9)
    assert law.coherence.value == pytest.approx(b, abs=1e-9)
    assert law.error < 1e-9
    if b:
        assert law.peak.value == pytest.approx(max(1.0, math.sqrt((1 - a) / b)))
    for n in SIZES:
        assert law.throughput(n) == pytest.approx(950.0 * usl(n, a, b))


def test_with_two_per_cent_of_noise_they_are_found_within_ten_per_cent():
    rng = np.random.default_rng(1)
    found = [fit(*planted(0.03, 0.0005, noise=0.02, runs=5, seed=s), rng) for s in range(8)]
    assert np.mean([f.contention.value for f in found]) == pytest.approx(0.03, rel=0.1)
    assert np.mean([f.coherence.value for f in found]) == pytest.approx(0.0005, rel=0.1)


def test_the_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = {"contention": 0, "coherence": 0, "peak": 0}
    truth = {"contention": 0.05, "coherence": 0.001, "peak": math.sqrt(0.95 / 0.001)}
    rng = np.random.default_rng(1)
    for seed in range(24):
        law = fit(*planted(0.05, 0.001, noise=0.03, seed=seed), rng)
        for name, value in truth.items():
            interval = getattr(law, name)
            covered[name] += interval.low <= value <= interval.high
    assert min(covered.values()) >= 19  # 22.8 are expected


def test_what_falls_from_the_beginning_has_its_peak_at_one():
    sizes = [1, 3, 5, 7]
    law = fit(sizes, [100.0 / n**1.5 for n in sizes], np.random.default_rng(1))
    assert law.peak.value == 1.0
    assert 1 <= law.linear_to() < 2


def test_a_peak_that_the_measurements_do_not_show_may_be_at_infinity():
    sizes, throughputs = planted(0.1, 0.0, noise=0.05, seed=3)
    law = fit(sizes, throughputs, np.random.default_rng(1))
    assert law.peak is None or law.peak.high == math.inf


def test_linear_means_nine_tenths_of_what_so_many_alone_would_do():
    for a, b in (0.03, 0.0005), (0.02, 0.0), (0.0, 0.002):
        law = fit(*planted(a, b), np.random.default_rng(1))
        n = law.linear_to()
        assert usl(n, a, b) == pytest.approx(LINEAR * n, rel=1e-6)
    assert fit(*planted(0.0, 0.0), np.random.default_rng(1)).linear_to() > 1e6


def test_a_bottleneck_is_told_from_the_law():
    sizes = [1, 2, 4, 8, 16, 32]
    knee = bottleneck(sizes, [min(100.0 * n, 600.0) for n in sizes])
    assert (knee.one, knee.cap, knee.error) == pytest.approx((100.0, 600.0, 0.0))
    law = fit(sizes, [min(100.0 * n, 600.0) for n in sizes], np.random.default_rng(1))
    assert law.error > 0.02
    smooth = [100.0 * usl(n, 0.1, 0.001) for n in sizes]
    assert bottleneck(sizes, smooth).error > 0.05
    assert bottleneck([1, 2, 3], [10.0, 5.0, 2.0]) is None


def test_three_runs_of_three_sizes_are_fitted_without_an_interval():
    law = fit([1, 2, 4], [10.0, 18.0, 30.0], np.random.default_rng(1))
    assert law.contention.low is None
    assert [law.throughput(n) for n in (1, 2, 4)] == pytest.approx([10.0, 18.0, 30.0])


@pytest.mark.parametrize(
    ("sizes", "throughputs", "says"),
    [
        ([1, 2], [1.0, 2.0], "three different sizes"),
        ([1, 2, 2, 1], [1.0, 2.0, 2.0, 1.0], "three different sizes"),
        ([1, 2, 3], [1.0, 2.0], "3 sizes, 2 throughputs"),
        ([1, 2, 3], [1.0, 0.0, 2.0], "above 0"),
        ([0, 1, 2], [1.0, 1.0, 2.0], "at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes, throughputs, says):
    with pytest.raises(ValueError, match=says):
        fit(sizes, throughputs, np.random.default_rng(1))
