"""Policies: each chooses as its definition says."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.blocks.balancing import (
    Balancer,
    BoundedHash,
    Maglev,
    PolicyName,
    WeightedRoundRobin,
    balancer,
    maglev_size,
)
from polyarch.core import Random

POLICIES = PolicyName.__args__  # type: ignore[attr-defined]
ABC = ("a", "b", "c")


def made(policy: str, names: tuple[str, ...] = ABC, **more: object) -> Balancer:
    balance = balancer(policy, Random(1), **more)  # type: ignore[arg-type]
    balance.members(names)
    return balance


@given(st.sampled_from(POLICIES), st.integers(1, 12), st.data())
def test_every_policy_picks_one_that_is_usable(policy: str, count: int, data: st.DataObject) -> None:
    names = tuple(f"s{i}" for i in range(count))
    usable = tuple(data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
    load = {name: data.draw(st.integers(0, 9)) for name in names}
    balance = made(policy, names)
    for key in data.draw(st.lists(st.text(max_size=4), min_size=1, max_size=5)):
        assert balance.pick(usable, load, key) in usable


@pytest.mark.parametrize("policy", ["round_robin", "weighted"])
def test_a_second_try_does_not_change_whose_turn_it_is(policy: str) -> None:
    balance = made(policy, ("bad", "good"))
    load = {"bad": 0, "good": 0}
    tries = [balance.pick(("bad", "good"), load, "")]
    for _ in range(9):
        if tries[-1] == "bad":
            assert balance.pick(("good",), load, "") == "good"
        tries.append(balance.pick(("bad", "good"), load, ""))
    assert Counter(tries) == {"bad": 5, "good": 5}


def test_weighted_round_robin_is_smooth() -> None:
    balance = WeightedRoundRobin(Random(1), {"a": 5})
    balance.members(ABC)
    load = dict.fromkeys(ABC, 0)
    assert "".join(balance.pick(ABC, load, "") for _ in range(14)) == "aabacaa" * 2


def test_least_connections_shares_by_weight_and_the_shortest_queue_does_not() -> None:
    for policy, wanted in (("least_connections", {"a": 6, "b": 2, "c": 2}), ("join_shortest_queue", None)):
        balance = made(policy, weights={"a": 3})
        load = dict.fromkeys(ABC, 0)
        for _ in range(10):
            load[balance.pick(ABC, load, "")] += 1
        assert max(load.values()) - min(load.values()) <= 1 if wanted is None else load == wanted


def test_the_choices_are_as_many_as_asked_for() -> None:
    names = tuple(f"s{i}" for i in range(10))
    load = {name: i for i, name in enumerate(names)}
    for d in (1, 3, 10, 20):
        balance = made("two_choices", names, choices=d)
        picks = [load[balance.pick(names, load, "")] for _ in range(2000)]
        # The least of d drawn without replacement from 0 .. 9: (10 - d) / (d + 1) on average.
        assert sum(picks) / 2000 == pytest.approx(max(0, 10 - d) / (d + 1), abs=0.25)


@pytest.mark.parametrize("policy", ["consistent_hash", "rendezvous", "maglev"])
def test_a_key_stays_where_it_is_and_only_keys_of_who_left_move(policy: str) -> None:
    names = tuple(f"s{i}" for i in range(10))
    balance = made(policy, names)
    load = dict.fromkeys(names, 0)
    keys = [f"key {i}" for i in range(500)]
    before = [balance.pick(names, load, key) for key in keys]
    assert before == [balance.pick(names, load, key) for key in keys]
    assert min(Counter(before).values()) > 20
    left = names[:4] + names[5:]
    while_it_is_ill = [balance.pick(left, load, key) for key in keys]
    assert all(b == a for b, a in zip(before, while_it_is_ill) if b != "s4")
    assert "s4" not in while_it_is_ill


def test_consistent_hashing_overloads_nobody() -> None:
    names = tuple(f"s{i}" for i in range(10))
    balance = made("consistent_hash", names, bound=1.5)
    load = dict.fromkeys(names, 0)
    for i in range(1000):
        load[balance.pick(names, load, "the same key")] += 1  # it would all go to one
        assert max(load.values()) <= math.ceil(1.5 * (i + 1) / 10)


def test_the_bound_of_a_backend_goes_with_its_weight() -> None:
    balance = made("consistent_hash", weights={"a": 6.0}, bound=1.2)
    load = dict.fromkeys(ABC, 0)
    for i in range(800):
        load[balance.pick(ABC, load, f"key-{i}")] += 1
    assert 540 <= load["a"] <= 720, "three quarters of all, and not 1.2 thirds"


def test_rendezvous_and_the_ring_follow_weights() -> None:
    for policy in ("rendezvous", "consistent_hash"):
        balance = made(policy, weights={"a": 2})
        if isinstance(balance, BoundedHash):
            balance.bound = math.inf
        counts = Counter(balance.pick(ABC, dict.fromkeys(ABC, 0), str(i)) for i in range(4000))
        assert counts["a"] / 4000 == pytest.approx(0.5, abs=0.08)


@given(st.integers(1, 40), st.integers(1, 60))
def test_maglev_has_as_many_entries_for_each_give_or_take_one(count: int, more: int) -> None:
    balance = Maglev(Random(1))
    balance.size = maglev_size(count + more)
    balance.members([f"s{i}" for i in range(count)])
    entries = Counter(balance.table)
    assert set(entries) == set(range(count))
    assert max(entries.values()) - min(entries.values()) <= 1


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="weight of -1"):
        balancer("weighted", Random(1), {"a": -1})
    with pytest.raises(ValueError, match="0 choices"):
        balancer("two_choices", Random(1), choices=0)
    with pytest.raises(ValueError, match="must be more than 1"):
        balancer("consistent_hash", Random(1), bound=1.0)
    for size, problem in ((100, "prime"), (2, "too small")):
        balance = Maglev(Random(1))
        balance.size = size
        with pytest.raises(ValueError, match=problem):
            balance.members(ABC)
