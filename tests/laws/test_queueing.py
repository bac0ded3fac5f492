"""Laws of queues at small sizes: what they expect by other ways of computing it, and what breaks them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from polyarch.architectures.thread_per_connection import ThreadPerConnection
from polyarch.blocks.durations import Distribution, Durations
from polyarch.blocks.fairness import jain
from polyarch.core import Random
from polyarch.experiment.laws import Law, check
from polyarch.laws.queueing import (
    AnyService,
    FullPool,
    FullQueue,
    LossSystem,
    OneServer,
    Plan,
    SeveralServers,
    SharedCore,
    relative_wait,
    served,
)
from polyarch.laws.queueing_networks import Chain, Closed, Fairness, Little, TailAtScale, Tandem
from polyarch.laws.queueing_theory import erlang_b, erlang_c, full_queue


@pytest.mark.parametrize(
    ("law", "given"),
    [
        (OneServer, {"rho": 0.5, "jobs": 10_000}),
        (SeveralServers, {"c": 3, "rho": 0.6, "jobs": 10_000}),
        (AnyService, {"rho": 0.6, "service": "erlang", "shape": 2, "jobs": 10_000}),
        (AnyService, {"rho": 0.5, "service": "uniform", "server": "event_loop", "jobs": 10_000}),
        (FullQueue, {"k": 4, "rho": 1.0, "jobs": 10_000}),
        (FullQueue, {"k": 1, "rho": 2.0, "jobs": 10_000}),
        (FullPool, {"c": 3, "places": 2, "rho": 1.2, "jobs": 6_000}),
        (LossSystem, {"c": 5, "a": 4.0, "service": "uniform", "jobs": 10_000}),
        (SharedCore, {"rho": 0.6, "service": "uniform", "jobs": 10_000}),
        (Tandem, {"rate": 2.0, "mu1": 4.0, "mu2": 3.0, "mu3": 8.0, "jobs": 10_000}),
        (Closed, {"clients": 3, "think": 2.0, "jobs": 10_000}),
        (Closed, {"clients": 4, "think": 0.0, "jobs": 10_000}),
        (Little, {"server": "thread_pool", "rho": 3.0, "jobs": 2_000}),
        (Little, {"server": "event_loop", "rho": 0.7, "jobs": 2_000}),
        (TailAtScale, {"n": 5, "p": 0.1, "requests": 2_000}),
        (Chain, {"n": 5, "a": 0.9, "requests": 2_000}),
        (Fairness, {"k": 7, "n": 9}),
    ],
)
def test_laws_hold_at_other_settings(law: type[Law], given: dict[str, Any]) -> None:
    record = check(law, 7, given)
    assert record.holds, record.wrong


def test_what_is_expected_of_the_listed_settings_is_what_the_list_says() -> None:
    mm1 = OneServer(rho=0.8).expected()
    for name, value in {"W": 5.0, "p50": 3.466, "p95": 14.98, "p99": 23.03}.items():
        assert mm1[name].value == pytest.approx(value, rel=1e-3)
    listed = {
        (2, 0.8): (0.7111, 1.7778), (4, 0.8): (0.5964, 0.7455), (10, 0.8): (0.4092, 0.2046),
        (10, 0.9): (0.6687, 0.6687), (50, 0.95): (0.6291, 0.2516),
    }  # fmt: skip
    for (c, rho), (waiting, wait) in listed.items():
        expected = SeveralServers(c=c, rho=rho).expected()
        assert expected["P(wait)"].value == pytest.approx(waiting, abs=1e-4)
        assert expected["Wq"].value == pytest.approx(wait, abs=1e-4)
    kinds: dict[Distribution, float] = {
        "deterministic": 2.0, "erlang": 2.5, "uniform": 2.6667, "exponential": 4.0, "hyperexponential": 10.0
    }  # fmt: skip
    for kind, wait in kinds.items():
        assert AnyService(service=kind).expected()["Wq"].value == pytest.approx(wait, abs=1e-4)
    for rho, lost in ((0.8, 0.02349), (1.2, 0.19259)):
        assert FullQueue(rho=rho).expected()["refused"].value == pytest.approx(lost, abs=1e-5)
    assert Tandem().expected()["W"].value == pytest.approx(0.83333, abs=1e-5)
    assert TailAtScale(n=100).expected()["P(slow)"].value == pytest.approx(0.63397, abs=1e-5)
    for n, mean in ((10, 2.92897), (100, 5.18738)):
        assert TailAtScale(n=n).expected()["slowest of n"].value == pytest.approx(mean, abs=1e-5)
    for n, a, answered in ((30, 0.9999, 0.997004), (20, 0.999, 0.980189)):
        assert Chain(n=n, a=a).expected()["answered"].value == pytest.approx(answered, abs=1e-6)
    assert Fairness(k=3, n=10).expected()["index"].value == 0.3


@pytest.mark.parametrize(("c", "a"), [(1, 0.5), (3, 2.0), (10, 8.0), (4, 9.0)])
def test_erlangs_formulas_are_those_of_the_birth_and_death_process(c: int, a: float) -> None:
    states = [a**k / math.factorial(k) for k in range(c + 1)]
    assert erlang_b(c, a) == pytest.approx(states[-1] / sum(states))
    if a < c:
        waiting = states[-1] / (1 - a / c)
        assert erlang_c(c, a / c) == pytest.approx(waiting / (sum(states[:-1]) + waiting))


@pytest.mark.parametrize(("rho", "k"), [(0.5, 1), (0.8, 10), (1.0, 4), (1.2, 10), (3.0, 30)])
def test_a_full_queue_is_that_of_the_formulas_and_of_erlang(rho: float, k: int) -> None:
    shares = [rho**n for n in range(k + 1)]
    full = full_queue(1, k, rho)
    assert full.lost == pytest.approx(shares[-1] / sum(shares))
    there = sum(n * share for n, share in enumerate(shares)) / sum(shares)
    assert full.time == pytest.approx(there / rho / (1 - full.lost))
    assert full_queue(k, k, rho).lost == pytest.approx(erlang_b(k, k * rho))
    assert full_queue(k, k, rho).time == pytest.approx(1.0)
    assert full_queue(k, k, rho).time_spread == pytest.approx(1 / math.sqrt(1 - full_queue(k, k, rho).lost))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_machine_repairman_is_that_of_the_birth_and_death_process(k: int) -> None:
    think = 3.0
    weights = [math.perm(k, n) / think**n for n in range(k + 1)]  # n at the server, k - n think
    expected = Closed(clients=k, think=think).expected()
    assert expected["throughput"].value == pytest.approx(1 - weights[0] / sum(weights))


def test_threads_that_share_a_core_do_not_satisfy_the_law_of_those_that_take_turns() -> None:
    found = served(ThreadPerConnection(threads=10_000), Plan(1, 20_000, 0.8, "deterministic"))
    law = AnyService(service="deterministic", jobs=20_000).expected()["Wq"]
    assert not law.holds(relative_wait([found]))


WAYS: list[tuple[Distribution, float]] = [
    ("deterministic", 1), ("exponential", 1), ("erlang", 3), ("uniform", 1), ("hyperexponential", 6)
]  # fmt: skip


@pytest.mark.parametrize(("distribution", "shape"), WAYS)
def test_durations_have_the_mean_and_the_variability_that_they_say(
    distribution: Distribution, shape: float
) -> None:
    durations, random = Durations(0.2, distribution, shape), Random(5)
    drawn = [durations.draw(random) for _ in range(40_000)]
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(0.2, rel=0.04)
    variance = sum((d - mean) ** 2 for d in drawn) / len(drawn)
    assert variance / mean**2 == pytest.approx(durations.variability, rel=0.1, abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Durations(-1.0),
        lambda: Durations(math.inf),
        lambda: Durations(math.nan),
        lambda: Durations(1.0, "hyperexponential", 0.5),
        lambda: Durations(1.0, "erlang", 2.5),
    ],
)
def test_durations_that_cannot_be_are_refused_with_a_word(wrong: Callable[[], Durations]) -> None:
    with pytest.raises(ValueError, match=r"duration|shape"):
        wrong()


def test_jains_index_is_the_share_of_those_who_share() -> None:
    assert jain([5.0] * 3 + [0.0] * 7) == pytest.approx(0.3)
    assert jain([1.0, 1.0]) == 1.0
    assert jain([]) == jain([0, 0]) == 1.0
    assert jain([1, 2, 3]) == pytest.approx(36 / 42)
