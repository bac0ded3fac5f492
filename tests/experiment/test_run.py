"""One run: its record agrees with its history, and a simulation's figures depend on nothing but the seed."""

from __future__ import annotations

import msgspec
import pytest
from small_systems import Draw, Well

from polyarch.architectures.raft import RaftStore
from polyarch.experiment.run import Question, Trial, load_of, run
from polyarch.faults.spec import BadFault
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import SessionError


def test_a_record_adds_up_and_agrees_with_the_history():
    question = Question(
        Well(service=0.003), Draw(), rate=300.0, duration=3.0, faults=["crash:server-0@1-1.2"]
    )
    record = run(question)
    trial = Trial(question)
    trial.load(load_of(question), faults=trial.faults)
    history = trial.history()
    trial.close()
    operations = record.operations
    assert operations.attempted == operations.ok + operations.failed + operations.unknown == len(history)
    assert operations.failed > 0
    good = sorted((d.end - d.intended) * 1e3 for d in history if d.outcome == "ok")
    assert record.latency_ms.p50 == pytest.approx(good[len(good) // 2 - 1], rel=0.01)
    assert record.latency_ms.p99 == pytest.approx(good[-(len(good) // 100) - 1], rel=0.01)
    assert record.latency_ms.max == pytest.approx(good[-1])
    assert record.throughput_per_s == pytest.approx(len(good) / 3.0, rel=0.01)
    assert record.cost_per_operation.messages == 2
    assert record.cost_per_operation.hops == 2
    assert record.nodes == {"server": 1, "idle": 1}
    assert record.parameters["service"] == 0.003
    assert record.faults == ("crash:server-0@1-1.2",)


def test_two_simulations_with_one_seed_give_one_record_and_another_seed_another():
    def record(seed: int):
        made = run(Question(RaftStore(), Kv(), seed=seed, duration=1.0, faults=["crash:any:server@0.2-0.5"]))
        return msgspec.structs.replace(made, wall_s=0.0)

    assert record(1) == record(1)
    assert record(1).trace_hash != record(2).trace_hash


def test_only_a_simulation_has_a_trace_hash_and_a_live_run_has_processes_and_memory():
    simulated = run(Question(Well(), Draw(), duration=0.2))
    assert simulated.trace_hash
    assert simulated.processes is None


@pytest.mark.local
def test_a_live_run_has_processes_and_memory_and_no_trace_hash():
    record = run(Question(Well(), Draw(), runtime="local", duration=0.3))
    assert record.trace_hash is None
    assert record.processes == 2
    assert record.memory_mb > 1
    assert record.holds


def test_a_fault_that_outlasts_the_load_ends_with_it():
    record = run(Question(Well(), Draw(), duration=1.0, faults=["crash:server@0.5-1000", "loss:1@0.9-99"]))
    assert record.holds
    assert record.operations.failed > 0


def test_a_fault_that_begins_after_the_load_is_refused():
    with pytest.raises(BadFault, match="the load of 1 s is over"):
        run(Question(Well(), Draw(), duration=1.0, faults=["crash:server@1"]))


def test_a_system_that_never_gets_ready_is_given_up():
    class Never(Well):
        async def ready(self, x):
            while True:
                await x.sleep(10.0)

    with pytest.raises(SessionError, match="not ready"):
        run(Question(Never(), Draw(), duration=1.0))


def test_a_wrong_answer_is_a_verdict_that_does_not_hold():
    record = run(Question(Well(lie=True), Draw(), duration=0.2))
    assert not record.holds
    assert [v.name for v in record.verdicts if not v.holds] == ["what is drawn is what was asked for"]


def test_progress_is_told_in_virtual_time_of_the_total():
    told = []
    question = Question(Well(), Draw(), rate=3000.0, duration=20.0)
    question.progress = lambda *what: told.append(what)
    run(question)
    loading = [(done, total) for phase, done, total in told if phase == "well: load"]
    assert len(loading) > 2
    assert all(0 <= done <= 20.0 == total for done, total in loading)
    assert [done for done, _ in loading] == sorted(done for done, _ in loading)
