"""Weaker models: the classic histories that tell them apart."""

from __future__ import annotations

import math

from polyarch.checkers.consistency import (
    bank,
    causal,
    converges,
    monotonic_reads,
    read_your_writes,
    sequential,
    serializable,
)
from polyarch.checkers.linearizability import REGISTER, Call, check


def write(client: int, key: str, value: int, start: float, end: float | None = None) -> Call:
    return Call("write", (value,), start, start + 0.5 if end is None else end, None, key, client)


def read(client: int, key: str, value: int | None, start: float) -> Call:
    return Call("read", (), start, start + 0.5, value, key, client)


STALE = [write(0, "x", 1, 0), read(1, "x", None, 1)]
"""A read that misses a write of somebody else: not linearizable, but sequential."""
DEKKER = [write(0, "x", 1, 0), read(0, "y", None, 1), write(1, "y", 2, 0), read(1, "x", None, 1)]
"""Each misses the other's write: not sequential, but causal."""
UNCAUSAL = [
    write(0, "x", 1, 0),
    read(1, "x", 1, 1),
    write(1, "y", 2, 2),
    read(2, "y", 2, 3),
    read(2, "x", None, 4),
]
"""The effect is seen, its cause is not."""
DISAGREE = [
    write(0, "x", 1, 0), write(1, "x", 2, 0),
    read(2, "x", 1, 1), read(2, "x", 2, 2), read(3, "x", 2, 1), read(3, "x", 1, 2),
]  # fmt: skip
"""Two see two concurrent writes in different orders: causal, not sequential."""


def test_sequential_consistency_knows_no_clock() -> None:
    assert check(STALE, REGISTER).holds is False
    assert sequential(STALE, REGISTER).holds


def test_sequential_consistency_is_one_order_for_all() -> None:
    assert sequential(DEKKER, REGISTER).holds is False
    assert sequential(DISAGREE, REGISTER).holds is False


def test_what_never_returned_may_have_happened_or_not() -> None:
    lost = write(0, "x", 1, 0, math.inf)
    assert sequential([lost, read(1, "x", 1, 1)], REGISTER).holds
    assert sequential([lost, read(1, "x", None, 1)], REGISTER).holds
    assert sequential([lost, read(1, "x", 1, 1), read(1, "x", None, 2)], REGISTER).holds is False


def test_sequential_consistency_out_of_its_budget_is_not_decided() -> None:
    assert (
        sequential([write(c, "x", c, 0) for c in range(9)] + [read(9, "x", 77, 1)], REGISTER, budget=50).holds
        is None
    )


def test_causal_consistency_wants_causes_before_effects_and_nothing_else() -> None:
    assert causal(DEKKER).holds
    assert causal(DISAGREE).holds
    found = causal(UNCAUSAL)
    assert found.holds is False
    assert found.calls == (UNCAUSAL[0], UNCAUSAL[4])


def test_nobody_reads_what_nobody_wrote() -> None:
    assert causal([read(0, "x", 5, 0)]).holds is False


def test_a_client_reads_its_own_writes() -> None:
    assert read_your_writes([write(0, "x", 1, 0), read(0, "x", None, 1)]).holds is False
    assert read_your_writes([write(0, "x", 1, 0), write(0, "x", 2, 1), read(0, "x", 1, 2)]).holds is False
    # Somebody else's concurrent write may have won.
    assert read_your_writes([write(0, "x", 1, 0), write(1, "x", 2, 0), read(0, "x", 2, 1)]).holds
    assert read_your_writes(STALE).holds


def test_reads_of_a_client_do_not_go_back() -> None:
    both = [write(0, "x", 1, 0), write(0, "x", 2, 1)]
    assert monotonic_reads([*both, read(1, "x", 2, 2), read(1, "x", 1, 3)]).holds is False
    assert monotonic_reads([*both, read(1, "x", 2, 2), read(1, "x", None, 3)]).holds is False
    assert monotonic_reads([*both, read(1, "x", 1, 2), read(1, "x", 2, 3)]).holds
    assert monotonic_reads([*both, read(1, "x", 2, 2), read(2, "x", 1, 3)]).holds  # another client


def test_reads_do_not_go_to_and_fro_between_concurrent_writes() -> None:
    two = [write(0, "x", 1, 0), write(1, "x", 2, 0)]
    seen = [read(2, "x", 1, 1), read(2, "x", 2, 2)]
    assert monotonic_reads([*two, *seen]).holds
    assert monotonic_reads([*two, *seen, read(2, "x", 1, 3)]).holds is False


def test_all_converge_when_nothing_is_written_any_more() -> None:
    two = [write(0, "x", 1, 0), write(1, "x", 2, 0)]
    assert converges([*two, read(2, "x", 1, 5), read(3, "x", 2, 6)]).holds is False
    assert converges([*two, read(2, "x", 1, 5), read(3, "x", 2, 6)], settle=5).holds
    assert converges([*two, read(2, "x", 2, 5), read(3, "x", 2, 6)]).holds


def transfer(client: int, a: str, b: str, amount: int, start: float, ok: bool = True) -> Call:
    return Call("transfer", (a, b, amount), start, start + 1, ok, None, client)


def balances(client: int, values: tuple[int, ...], start: float) -> Call:
    return Call("balances", (), start, start + 1, values, None, client)


def test_transfers_are_serializable_if_some_order_explains_what_was_seen() -> None:
    model = bank({"a": 10, "b": 0})
    fine = [transfer(0, "a", "b", 7, 0), transfer(1, "a", "b", 7, 0, ok=False), balances(2, (3, 7), 0)]
    assert serializable(fine, model).holds
    late = [*fine, balances(2, (10, 0), 5)]
    assert serializable(late, model).holds  # it comes before all, whatever the clock says
    assert check(late, model).holds is False


def test_money_that_is_made_or_lost_is_not_serializable() -> None:
    model = bank({"a": 10, "b": 0})
    assert serializable([transfer(0, "a", "b", 7, 0), balances(1, (3, 0), 0)], model).holds is False
    both = [transfer(0, "a", "b", 7, 0), transfer(1, "a", "b", 7, 0)]  # spent twice
    assert serializable(both, model).holds is False
    assert serializable(both, bank({"a": 10, "b": 0}, overdraft=True)).holds
