"""CAP and PACELC: one partition, on a store that chooses consistency and on one that chooses availability."""

from __future__ import annotations

from functools import cache

import pytest

from polyarch.architectures.quorum import Quorum
from polyarch.architectures.raft import RaftStore
from polyarch.architectures.single_server import SingleServer
from polyarch.core import Done, Random
from polyarch.core.system import Architecture, System
from polyarch.experiment.compare import Pace, compare
from polyarch.experiment.record import RunRecord
from polyarch.experiment.run import Question, run
from polyarch.experiment.sides import Sides, sides_of
from polyarch.faults.spec import Fault, over, parse
from polyarch.jobs.kv import LINEARIZABLE, Kv
from polyarch.report.verdict import sentence, sentences

CUT = "partition:server-0,server-1|server-2,server-3,server-4@1-4"


@cache
def recorded(name: str, seed: int = 0) -> RunRecord:
    architecture: Architecture = {
        "raft": RaftStore(),
        "sloppy": Quorum(sloppy=True),
        "fast": Quorum(r=1, w=1, versions="last-writer-wins"),
    }[name]
    question = Question(architecture=architecture, job=Kv(keys=20), duration=6.0, faults=[CUT], seed=seed)
    return run(question)


@pytest.mark.parametrize("seed", range(3))
def test_a_consistent_store_answers_nobody_in_the_minority_and_all_others(seed: int) -> None:
    record = recorded("raft", seed)
    figures = record.metrics
    assert figures["side_1"] == "server-0, server-1"
    assert set(figures["side_1_answered"].values()) == {0.0}
    assert min(figures["side_2_answered"].values()) > 0.75, "but for a moment, if the leader was cut off"
    assert figures["keys_written_on_both_sides"] == 0
    assert "agreed_again_after_s" not in figures
    (verdict,) = [v for v in record.verdicts if v.name == LINEARIZABLE]
    assert verdict.holds, verdict.detail


@pytest.mark.parametrize("seed", range(3))
def test_an_available_store_answers_on_both_sides_diverges_and_heals(seed: int) -> None:
    record = recorded("sloppy", seed)
    figures = record.metrics
    for side in ("side_1_answered", "side_2_answered"):
        assert min(figures[side][kind] for kind in ("get", "put")) > 0.5
    assert figures["keys_written_on_both_sides"] > 3
    assert 0 <= figures["agreed_again_after_s"] < 5
    (verdict,) = [v for v in record.verdicts if v.name == LINEARIZABLE]
    assert not verdict.holds
    assert record.holds, "for it does not promise that"


def test_consistency_costs_latency_even_without_a_partition() -> None:
    consistent, fast = (recorded(name).metrics["side_2_p50_before_ms"] for name in ("raft", "fast"))
    assert consistent["put"] > fast["put"]
    assert consistent["get"] >= fast["get"]


def test_the_figures_of_the_whole_load_are_those_of_its_own_clients() -> None:
    assert 500 < recorded("raft").operations.attempted < 700


def test_the_comparison_says_what_each_side_got() -> None:
    questions = [
        Question(architecture=a, job=Kv(keys=20), duration=6.0, faults=[CUT])
        for a in (RaftStore(), Quorum(sloppy=True))
    ]
    pace = Pace(rounds=1, saturation=0.2, clients=4, steady=6.0, kills=False)
    raft, quorum = sentences(compare(questions, pace))
    assert "clients with server-0, server-1 got answers to compare_and_set 0 %, get 0 %, put 0 %" in raft
    assert "no key was written on both sides" in raft
    assert "were written on both sides, which agreed again" in quorum
    assert "without a partition the median was" in quorum


def test_without_a_partition_of_servers_there_are_no_sides() -> None:
    system = System()
    RaftStore().build(system)
    roles = {role.name: role.process_names() for role in system.roles.values()}

    def sides(text: str, runtime: str = "sim") -> Sides | None:
        return sides_of([parse(text, roles, Random(0))], runtime)

    assert sides(CUT) is not None
    assert sides(CUT, "local") is None, "there is one process of clients"
    for other in (
        "crash:server-0@1-2",
        "partition:server-0>server-1@1-2",
        "partition:client|server-1@1-2",
        "partition:server-0,server-1|server-1,server-2@1-2",
    ):
        assert sides(other) is None
    record = run(Question(architecture=SingleServer(), job=Kv(), duration=0.5))
    assert "side_1" not in record.metrics
    assert "partition" not in sentence(record, [record])


def test_an_answer_after_the_partition_is_no_answer_during_it() -> None:
    fault = Fault("partition", ("a",), ("b",), True, 1.0, 1.0, 3.0, "")
    sides = Sides(fault)
    assert sides.put_behind([fault])[0].sources == ("a", "client-1")
    sides.cut, sides.healed = 1.0, 3.0

    def put(key: str, at: float, end: float, client: int = 0) -> Done:
        return Done(client, "put", (key, 1), at, at, end, "ok")

    sides.histories = [
        [put("x", 0.5, 0.7), put("y", 1.5, 1.6), put("x", 2.0, 4.0)],
        [put("x", 2.0, 2.1), put("y", 2.5, 2.6)],
    ]
    figures = sides.metrics()
    assert figures["side_1_answered"] == {"put": 0.5}
    assert figures["side_2_answered"] == {"put": 1.0}
    assert figures["side_1_p50_before_ms"] == {"put": 200.0}
    assert figures["side_2_p50_before_ms"] == {}
    assert figures["keys_written_on_both_sides"] == 1
    assert "agreed_again_after_s" not in figures


def test_the_end_of_the_last_fault_is_known_before_there_is_a_system() -> None:
    assert over([]) == 0
    assert over([CUT, "crash:server-0@500ms", "what@is-this"]) == 4.0
    assert over(["loss:0.1@0-5.5"]) == 5.5
