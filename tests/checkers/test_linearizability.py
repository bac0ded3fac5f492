"""The linearizability checker: known verdicts, and agreement with trying all orders."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyarch.checkers.linearizability import KV, REGISTER, Call, check, explain, read_history, whole

HISTORIES = Path("/work/shared/data/histories")
VERDICTS = json.loads((HISTORIES / "verdicts.json").read_text()) if HISTORIES.exists() else {}
PORCUPINE = {"kv_c01_ok.txt": True, "kv_c10_ok.txt": True, "kv_c10_bad.txt": False}


def write(value: int, start: float, end: float = math.inf) -> Call:
    return Call("write", (value,), start, end)


def read(value: int | None, start: float, end: float) -> Call:
    return Call("read", (), start, end, value)


def test_a_read_may_see_a_write_that_overlaps_it() -> None:
    for seen in (None, 1):
        assert check([write(1, 0, 10), read(seen, 1, 2)], REGISTER).holds


def test_a_read_may_not_miss_a_write_that_has_returned() -> None:
    outcome = check([write(1, 0, 1), read(None, 2, 3)], REGISTER)
    assert outcome.holds is False
    assert outcome.stuck == read(None, 2, 3)


def test_reads_may_not_go_back_in_time() -> None:
    history = [write(1, 0, 10), read(1, 1, 2), read(None, 3, 4), read(1, 5, 6)]
    outcome = check(history, REGISTER)
    assert outcome.holds is False
    assert outcome.stuck == history[2]


def test_what_timed_out_may_happen_later_or_never() -> None:
    lost = write(1, 0)
    assert check([lost, read(None, 5, 6), read(1, 7, 8), read(1, 9, 10)], REGISTER).holds
    assert check([lost, read(None, 5, 6)], REGISTER).holds
    assert check([lost, read(1, 7, 8), read(None, 9, 10)], REGISTER).holds is False
    assert check([write(1, 7), read(1, 5, 6)], REGISTER).holds is False


def test_operations_that_touch_in_time_overlap() -> None:
    assert check([write(1, 0, 1), read(None, 1, 2)], REGISTER).holds


def test_a_compare_and_set_that_found_another_value_is_an_answer() -> None:
    assert check([write(1, 0, 1), Call("cas", (2, 3), 2, 3, False)], REGISTER).holds
    assert check([write(1, 0, 1), Call("cas", (1, 3), 2, 3, False)], REGISTER).holds is False


def test_a_compare_and_set_that_never_returned_may_have_happened_whatever_stands_as_its_result() -> None:
    lost = Call("cas", (0, 2), 0, math.inf, False)
    assert check([write(0, 0, 0), lost, read(2, 1, 1)], REGISTER).holds


def test_the_bad_key_is_named() -> None:
    calls = [Call("put", (1,), 0, 1, None, key) for key in "ab"]
    calls += [Call("get", (), 2, 3, 1, "a"), Call("get", (), 2, 3, None, "b", 7)]
    outcome = check(calls, KV)
    assert outcome.key == "b"
    assert outcome.detail == "key 'b': no order allows client 7: get() = None from 2 to 3"


def test_too_hard_is_unknown_and_not_true() -> None:
    overlapping = [write(i, 0, 10) for i in range(14)] + [read(99, 0, 10)]
    outcome = check(overlapping, REGISTER, budget=1000)
    assert outcome.holds is None
    assert "undecided" in outcome.detail


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "read", "cas"]),
            st.integers(0, 2),
            st.integers(0, 6),
            st.integers(0, 4) | st.just(math.inf),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_it_agrees_with_trying_every_order(operations: list[tuple[str, int, int, float, bool]]) -> None:
    calls = []
    for name, value, start, length, done in operations:
        arguments = {"write": (value,), "read": (), "cas": (value, 2 - value)}[name]
        result = {"write": None, "read": value or None, "cas": done}[name]
        calls.append(Call(name, arguments, start, start + length, result))

    def possible(order: tuple[Call, ...]) -> bool:
        state = None
        for i, call in enumerate(order):
            if any(later.end < call.start for later in order[i + 1 :]):
                return False
            state, result = REGISTER.apply(state, call.name, call.arguments)
            if call.end != math.inf and result != call.result:
                return False
        return True

    done_, open_ = [c for c in calls if c.end != math.inf], [c for c in calls if c.end == math.inf]
    truth = any(
        possible(order)
        for keep in range(1 << len(open_))
        for order in permutations(done_ + [c for i, c in enumerate(open_) if keep >> i & 1])
    )
    outcome = check(calls, REGISTER)
    assert outcome.holds is truth
    if outcome.stuck is not None:  # what has returned before is in order without it
        before = [c if c.end < outcome.stuck.end else Call(c.name, c.arguments, c.start) for c in calls]
        assert check([c for c in before if c.start < outcome.stuck.end], REGISTER).holds


@pytest.mark.skipif(not VERDICTS, reason="the shared histories are not on this machine")
@pytest.mark.parametrize(("name", "linearizable"), [*VERDICTS.items(), *PORCUPINE.items()])
def test_real_histories_get_their_verdicts(name: str, linearizable: bool) -> None:
    calls = read_history((HISTORIES / name).read_text().splitlines())
    assert check(calls, REGISTER if name.startswith("etcd") else KV).holds is linearizable


def test_a_log_that_makes_no_sense_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2: process 1 ends read, which it has not begun"):
        read_history(["some other line", "INFO  jepsen.util - 1\t:ok\t:read\t3"])
    with pytest.raises(ValueError, match="line 1: 'x' is no value"):
        read_history(["INFO  jepsen.util - 1\t:invoke\t:write\tx"])


def test_the_prefix_is_the_shortest_of_all_keys() -> None:
    late = [Call("put", (1,), 0, 1, None, "a"), Call("get", (), 8, 9, None, "a")]
    early = [Call("put", (1,), 0, 1, None, "b"), Call("get", (), 2, 3, None, "b")]
    for history in (late + early, early + late):
        outcome = check(history, KV)
        assert (outcome.key, outcome.prefix) == ("b", 6)


@pytest.mark.skipif(not HISTORIES.exists(), reason="the shared histories are not here")
@pytest.mark.parametrize("name", [n for n, holds in {**VERDICTS, **PORCUPINE}.items() if not holds])
def test_what_explains_a_verdict_cannot_be_ordered(name: str) -> None:
    model = KV if name.startswith("kv") else REGISTER
    calls = read_history((HISTORIES / name).read_text().splitlines())
    outcome = check(calls, model)
    conflict = explain(calls, model, outcome, budget=50_000)
    assert outcome.stuck in conflict
    assert len(conflict) < len(calls) / 2
    assert not check(conflict, model, budget=100_000).holds


def test_nothing_of_an_explanation_can_be_left_out() -> None:
    history = [write(v, v, v + 0.5) for v in range(20)]  # one after another
    history += [read(v, v + 0.6, v + 0.7) for v in range(20)]
    history += [write(50, 3), read(2, 30, 31)]
    outcome = check(history, REGISTER)
    conflict = explain(history, REGISTER, outcome)
    assert read(2, 30, 31) in conflict
    assert len(conflict) <= 4
    for call in conflict:
        if call.end != math.inf and call is not outcome.stuck:
            rest = [c for c in conflict if c is not call]
            if call.name == "write":  # it may have happened all the same
                rest.append(dataclasses.replace(call, end=math.inf))
            assert check(rest, REGISTER).holds, call


def test_all_keys_at_once_give_the_same_verdict() -> None:
    put, get = Call("put", ("a", 1), 0, 1), Call("get", ("a",), 2, 3, 1)
    other = Call("get", ("b",), 2, 3, None)
    assert check([put, get, other], whole(KV)).holds
    assert check([put, get, Call("get", ("b",), 2, 3, 1)], whole(KV)).holds is False
