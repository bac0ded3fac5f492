"""What a load asks for, when, and what it counts: on the simulator, where the truth is known."""

from __future__ import annotations

import itertools
import statistics

import pytest
from small_systems import Draw, Server, Well

from polyarch.core import Refused, gather
from polyarch.experiment.load import Load, LoadResult
from polyarch.experiment.run import Question, Trial, latency_of, load_of, run


def loaded(load: Load, *faults: str, **parameters: object) -> tuple[LoadResult, list]:
    question = Question(Well(**parameters), Draw(), duration=load.duration, faults=faults)
    trial = Trial(question)
    try:
        return trial.load(load, faults=trial.faults), trial.history()
    finally:
        trial.close()


def test_an_open_loop_counts_latency_from_the_intended_start_while_the_server_stalls():
    stalls = [f"pause:server-0@{second}-{second}.2" for second in range(10)]
    result, _ = loaded(Load(duration=10.0, rate=1000.0, arrivals="steady"), *stalls)
    latency, _ = latency_of([result])
    # A fifth of the operations wait for 0 to 200 ms, evenly: p90 is 100 ms, p99 is 190 ms.
    assert latency is not None
    assert latency.p90 == pytest.approx(100, abs=2)
    assert latency.p99 == pytest.approx(190, abs=2)
    assert latency.max == pytest.approx(200, abs=2)
    assert result.ok == result.attempted == 10_000


def test_poisson_arrivals_have_the_rate_that_was_asked_for_and_exponential_gaps():
    result, history = loaded(Load(duration=20.0, rate=1000.0))
    assert abs(result.attempted - 20_000) < 4 * 20_000**0.5
    times = sorted(done.intended for done in history)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)


def test_a_closed_loop_keeps_as_many_operations_in_flight_as_there_are_clients():
    result, history = loaded(Load(duration=2.0, clients=8), service=0.01)
    changes = sorted([(d.start, 1) for d in history] + [(d.end, -1) for d in history])
    flying = most = 0
    for _, change in changes:
        flying += change
        most = max(most, flying)
    assert most == 8
    assert result.in_time / result.seconds == pytest.approx(8 / 0.011, rel=0.02)  # 10 ms and a round trip


def test_a_visit_stops_at_its_first_failed_operation():
    record = run(Question(Well(), Draw(spills=True), duration=1.0))
    assert record.operations.attempted == 2 * record.operations.failed == 2 * record.operations.ok
    assert record.metrics["failures"] == {"refused": record.operations.failed}


@pytest.mark.parametrize("load", [Load(duration=1.0, rate=200.0), Load(duration=1.0, clients=4)])
def test_the_same_seed_asks_for_the_same_visits_whatever_the_architecture(load: Load):
    def asked(**parameters: object) -> list:
        _, history = loaded(load, **parameters)
        return [done.arguments for done in sorted(history, key=lambda d: d.client)]

    fast, slow = asked(), asked(servers=3, service=0.05)
    common = min(len(fast), len(slow))
    assert common > 50
    assert fast[:common] == slow[:common]


@pytest.mark.local
def test_a_live_system_is_asked_for_the_same_visits_as_a_simulated_one():
    def asked(runtime: str) -> list:
        trial = Trial(Question(Well(), Draw(), runtime=runtime, duration=0.5))
        try:
            trial.load(Load(duration=0.5, rate=100.0))
            return sorted((d.client, d.arguments) for d in trial.history())
        finally:
            trial.close()

    assert asked("sim") == asked("local")


@pytest.mark.parametrize(
    ("speedup", "duration", "expected"),
    [
        (10.0, None, [0.0, 0.1, 0.4]),  # to the end of the trace
        (10.0, 0.2, [0.0, 0.1]),  # cut off
        (None, 2.0, [0.0, 0.5, 2.0]),  # fitted into the duration, the last one too
    ],
)
def test_a_trace_is_replayed_at_its_own_times(tmp_path, speedup, duration, expected):
    file = tmp_path / "trace"
    file.write_text("0 1 4")
    question = Question(Well(), Draw(), trace=str(file), speedup=speedup, duration=duration)
    trial = Trial(question)
    begin = trial.session.kernel.now * 1e-9
    trial.load(load_of(question))
    assert [done.intended - begin for done in trial.history()] == pytest.approx(expected, abs=1e-3)
    trial.close()


def test_a_client_that_is_answered_in_no_time_does_not_stop_the_clock():
    class Instant(Well):
        def build(self, system):
            super().build(system)
            system.clients(Server())

    record = run(Question(Instant(), Draw(), duration=0.001, clients=2))
    assert 0 < record.operations.ok <= 2100


def test_a_closed_loop_may_have_thousands_of_clients():
    result, _ = loaded(Load(duration=0.05, clients=3000), service=0.01)
    assert result.ok == result.attempted >= 3000


def test_a_task_that_is_done_can_be_awaited_with_thousands_of_others_and_its_failure_is_raised():
    trial = Trial(Question(Well(), Draw()))

    async def count(x):
        async def one(number):
            if number == 4999:
                raise Refused("the last one")
            return number

        tasks = [x.spawn(one(n)) for n in range(5000)]
        total = 0
        try:
            for task in tasks:
                total += await task
        except Refused as refused:
            return total, refused.detail

    assert trial.perform(count) == (sum(range(4999)), "the last one")
    trial.close()


def test_a_task_may_wait_a_thousand_times_for_others_that_are_done_at_once():
    trial = Trial(Question(Well(), Draw()))

    async def count(x):
        async def one(number):
            return number

        return sum([sum(await gather(one(n), one(-n), one(1))) for n in range(3000)])

    assert trial.perform(count) == 3000
    trial.close()
