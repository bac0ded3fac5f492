"""Logical clocks: the order that they tell is the one that there was; and without the rule it is not."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.logical_clocks import LogicalClocks, Observer, Process, line
from polyarch.core import System
from polyarch.experiment.run import Question, run
from polyarch.jobs.ordering import Event, Happenings, Ordering
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


def system_of(**switches: Any) -> System:
    system = System()
    processes = system.addresses("process", 3)
    system.role("process", Process(processes=processes, **switches), count=3)
    system.clients(Observer(processes=processes))
    return system


def happenings(system: System, acts: list[tuple[int, int]]) -> Happenings:
    async def experiment(x: Experimenter) -> Happenings:
        for one, other in acts:
            await x.client.happen(one, other)
            await x.sleep(0.01)
        return await x.client.happenings()

    return SimSession(system).perform(experiment)


def test_stamps_follow_the_rules_of_the_papers() -> None:
    told = happenings(system_of(), [(0, 0), (0, 1), (1, 2), (2, 2)])
    stamps = {(e.process, e.kind): (e.lamport, e.vector) for e in told.events}
    assert stamps == {
        (0, "local"): (1, (1, 0, 0)),
        (0, "send"): (2, (2, 0, 0)),
        (1, "receive"): (3, (2, 1, 0)),
        (1, "send"): (4, (2, 2, 0)),
        (2, "receive"): (5, (2, 2, 1)),
        (2, "local"): (6, (2, 2, 2)),
    }


def test_without_the_rule_for_arriving_messages_the_order_is_wrong() -> None:
    acts = [(0, 0), (0, 0), (0, 1), (1, 2)]
    assert all(v.holds for v in Ordering().check([], happenings(system_of(), acts)))
    lamport, vector = Ordering().check([], happenings(system_of(receive_rule=False), acts))
    assert not lamport.holds
    assert "happened before" in lamport.detail
    assert not vector.holds


@pytest.mark.parametrize("seed", range(3))
def test_skewed_clocks_losses_and_crashes_change_nothing(seed: int) -> None:
    faults = ["skew:process-1:3600@0.5-5", "loss:20%@1-4", "reorder:30%@1-5", "crash:process-2@2-3"]
    question = Question(LogicalClocks(nodes=4), Ordering(), seed=seed, duration=6.0, rate=40.0, faults=faults)
    record = run(question)
    assert record.holds, record.verdicts
    assert record.metrics["events"] > 150
    assert record.metrics["longest_chain"] < record.metrics["events"]


def test_the_listing_has_a_line_for_each_event_and_a_column_for_each_process() -> None:
    record = run(Question(LogicalClocks(listing=7), Ordering(), duration=3.0))
    lines = record.metrics["space_time"].splitlines()
    assert len(lines) == 7
    sent = Event(1, 4, "send", "1.4", 2, 9, (1, 5, 0))
    assert line(sent, 3).split() == ["9", "|", "1.4>", "|", "to", "2", "(1,", "5,", "0)"]


@pytest.mark.local
def test_live_processes_order_their_events() -> None:
    faults = ["crash:process-1@0.7-1.3"]
    record = run(Question(LogicalClocks(), Ordering(), "local", duration=2.0, rate=50.0, faults=faults))
    assert record.holds, record.verdicts
    assert record.metrics["events"] > 50
