"""Laws of balancing at small sizes, what they expect by other ways of computing it, and what breaks them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from polyarch.blocks import balancing, switch
from polyarch.experiment.laws import Law, check
from polyarch.laws.balancing import SERVICE, Arrivals, Plan, PolicyOrder, Supermarket, TwoQueues, simulated
from polyarch.laws.hashing import BallsInBins, Imbalance, MaglevSlots, Removal, fullest, imbalance
from polyarch.laws.queueing_theory import (
    central_queue,
    many_servers,
    near_the_limit,
    round_robin,
    shortest_of_two,
    shortest_queue,
    supermarket,
)


@pytest.mark.parametrize(
    ("law", "given"),
    [
        (Supermarket, {"n": 20, "d": 1, "load": 0.5, "jobs": 12_000}),
        (PolicyOrder, {"c": 2, "load": 0.7, "jobs": 12_000}),
        (TwoQueues, {"load": 0.5, "jobs": 12_000}),
        (BallsInBins, {"n": 500, "d": 3, "trials": 40}),
        (MaglevSlots, {"n": 7, "m": 23}),
        (MaglevSlots, {"n": 13, "m": 13}),
        (Imbalance, {"way": "karger", "n": 20, "m": 1000, "views": 50}),
        (Imbalance, {"way": "rendezvous", "n": 20, "m": 1000}),
        (Removal, {"n": 50, "m": 1009, "removed": 3, "keys": 100}),
    ],
)
def test_a_law_holds_at_sizes_that_are_not_listed(law: type[Law], given: dict[str, Any]) -> None:
    record = check(law, 3, given)
    assert record.holds, record.wrong


def test_expected_times_are_those_of_the_literature() -> None:
    # LB-01, LB-03, LB-04; the JSQ figures are of a reference simulation of 4 million jobs.
    assert [round(supermarket(load, 2), 4) for load in (0.5, 0.9, 0.99)] == [1.2657, 2.6141, 5.432]
    assert [round(supermarket(load, 3), 4) for load in (0.5, 0.9, 0.99)] == [1.1252, 2.0279, 3.8578]
    assert round(round_robin(10, 0.9), 2) == 5.66
    assert round(round_robin(10, 0.8), 4) == 2.9223
    assert round(central_queue(10, 0.9), 4) == 1.6687
    assert round(central_queue(2, 0.8), 4) == 2.7778
    assert shortest_of_two(0.8) == pytest.approx(2.93, rel=0.03)
    assert shortest_queue(10, 0.8, steps=1_000_000) == pytest.approx(1.353, abs=0.04)


def test_the_walk_over_queue_lengths_agrees_with_the_chain_of_two_queues() -> None:
    # Two of two servers drawn are both: the same policy, computed in two ways.
    assert shortest_queue(3, 0.5, steps=1_000_000) < shortest_of_two(0.5)
    assert shortest_of_two(1e-6) == pytest.approx(1.0, abs=1e-4)


def test_finitely_many_servers_take_as_much_longer_as_simulations_of_others_say() -> None:
    # Mitzenmacher's table 1 at n = 100 (as remembered), and Gast and Van Houdt's at N = 50, .9: 2.4344 / .9
    # with replacement, which costs 1/n or so more than without.
    for load, time in ((0.5, 1.2673), (0.7, 1.6202), (0.8, 1.9585), (0.9, 2.6454), (0.95, 3.4610)):
        assert near_the_limit(load, 2).time(100) == pytest.approx(time, rel=0.002)
        assert near_the_limit(load, 2).known.time == pytest.approx(supermarket(load, 2))
    # Another way for few: the walk, which knows no limit.
    assert near_the_limit(0.7, 2).time(20) == pytest.approx(shortest_queue(20, 0.7, 2, 2_000_000), rel=0.01)


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_what_chance_does_to_a_mean_of_one_queue_is_what_can_be_computed_by_hand(rho: float) -> None:
    known = many_servers(1, rho)
    assert known.response == pytest.approx(1 / (1 - rho) ** 2)  # time + rho time'
    assert known.loose == pytest.approx((1 + rho) / (1 - rho) ** 2)
    assert known.spread == pytest.approx(math.sqrt(2 * rho) / (1 - rho) ** 2)
    assert many_servers(10, rho).time == pytest.approx(central_queue(10, rho))
    slope = (central_queue(10, rho + 1e-6) - central_queue(10, rho)) / 1e-6
    assert many_servers(10, rho).response == pytest.approx(central_queue(10, rho) + rho * slope, rel=1e-4)


def test_the_fluid_limit_of_balls_in_bins_is_that_of_the_list() -> None:
    assert fullest(65_536, 1)[7] == pytest.approx(0.47, abs=0.05)
    assert fullest(65_536, 2)[3] == pytest.approx(0.68, abs=0.03)
    assert fullest(65_536, 3)[3] == pytest.approx(1.0, abs=1e-5)
    assert sum(fullest(1000, 2).values()) == pytest.approx(1.0)


def test_the_moments_of_a_table_are_those_that_are_counted() -> None:
    for way, views in (("rendezvous", 1), ("karger", 20)):
        law = Imbalance(way=way, n=20, m=2000, views=max(views, 10))
        mean, variance, _ = law.moments()
        assert mean == 100
        bounds = law.expected()["busiest above the mean"]
        found = [imbalance((way, 20, 2000, max(views, 10), seed)) for seed in range(20)]
        inside = sum(bounds.low <= f <= bounds.high for f in found)
        assert inside >= 14  # 18 on average
        assert math.sqrt(variance) / mean < bounds.high


def test_times_behind_a_switch_in_turn_are_those_of_lindleys_recursion_request_by_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[float, float]] = []
    took: dict[int, float] = {}

    async def one(self: Any, front: Any, request: Any, counts: float) -> None:
        number, begin = len(asked), self.now
        asked.append((begin, float(request.target[1:]) * SERVICE))
        await front.http(request)
        took[number] = self.now - begin
        self.open -= 1
        if not self.open:
            self.over.set(None)

    monkeypatch.setattr(Arrivals, "one", one)
    simulated(Plan({"policy": "round_robin"}, True, 3, 0.9, 0, 2000, 100.0, 7))
    free = [0.0] * 3
    for number, (at, service) in enumerate(asked):
        server = number % 3
        free[server] = max(free[server], at) + service
        assert took[number] == pytest.approx(free[server] - at, abs=1e-6)


def test_a_policy_that_is_not_what_it_says_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Random(balancing.ShortestQueue):
        def pick(self, usable: Any, load: Any, key: str) -> str:
            return balancing.RandomChoice.pick(self, usable, load, key)  # type: ignore[arg-type]

    monkeypatch.setitem(balancing._KINDS, "join_shortest_queue", Random)
    record = check(TwoQueues, 3, {"load": 0.7, "jobs": 12_000})
    assert not record.holds
    monkeypatch.undo()
    monkeypatch.setattr(switch.Switch, "release", lambda self, pool, backend: None)  # never gets one back
    record = check(PolicyOrder, 3, {"c": 2, "load": 0.7, "jobs": 2000})
    assert not record.holds
    monkeypatch.undo()
    monkeypatch.setattr(balancing, "hash64", lambda text: len(text))
    assert not check(Imbalance, 3, {"way": "rendezvous", "n": 20, "m": 1000}).holds
