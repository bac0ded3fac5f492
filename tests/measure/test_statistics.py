import numpy as np
import pytest

from polyarch.measure.statistics import bootstrap_interval, paired_ratio, spread


def test_a_spread_says_runs_median_range_and_quartile_range() -> None:
    assert spread([4, 1, 3, 2, 5]).to_dict() == {
        "runs": 5,
        "median": 3.0,
        "low": 1.0,
        "high": 5.0,
        "quartile_range": 2.0,
    }


def test_the_same_seed_gives_the_same_interval_and_it_holds_the_median() -> None:
    values = np.random.default_rng(1).normal(100, 5, size=30).tolist()
    first = bootstrap_interval(values, np.random.default_rng(7))
    assert first == bootstrap_interval(values, np.random.default_rng(7))
    assert first[0] <= spread(values).median <= first[1]


def test_an_interval_covers_the_true_mean_about_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(
            rng.normal(10, 2, size=30).tolist(), rng, statistic=np.mean, confidence=0.9, resamples=400
        )
        covered += low <= 10 <= high
    assert 0.82 <= covered / 200 <= 0.96


def test_a_ratio_is_taken_pair_by_pair_so_that_a_slow_minute_cancels() -> None:
    assert paired_ratio([200, 20, 2], [100, 10, 1]).to_dict() == spread([2.0, 2.0, 2.0]).to_dict()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no run"):
        spread([])
    with pytest.raises(ValueError, match="no run"):
        bootstrap_interval([], np.random.default_rng(0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1.0], np.random.default_rng(0), confidence=95)
    with pytest.raises(ValueError, match="pair up"):
        paired_ratio([1, 2], [1])
    with pytest.raises(ValueError, match="zero"):
        paired_ratio([1], [0])
