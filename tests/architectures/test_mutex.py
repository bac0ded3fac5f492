"""Mutual exclusion three ways: never two inside, everybody gets in, what an entry costs, what a crash does;
and each safeguard removed."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.central_mutex import CentralMutex, Coordinator, Member
from polyarch.architectures.ricart_agrawala import Process, RicartAgrawala
from polyarch.architectures.token_ring import Station, Token, TokenRing
from polyarch.blocks.critical_section import Resource, SectionClient
from polyarch.core import Architecture, Failure, Random, Refused, System, settle
from polyarch.experiment.run import Question, run
from polyarch.jobs.mutex import Mutex, Turn, Usage
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network, Uniform
from polyarch.runtimes.sim.session import SimSession

WAYS = [CentralMutex, RicartAgrawala, TokenRing]


def name_of(way: type[Architecture]) -> str:
    return way.__name__


everywhere = pytest.mark.parametrize("way", WAYS, ids=name_of)


async def storm(x: Experimenter, count: int, nodes: int, gap: float, stay: float) -> list[Any]:
    """So many requests of random participants, one a ``gap`` on average."""
    random, asked = x.random.fork("storm"), []
    for _ in range(count):
        await x.sleep(random.exponential(gap))
        asked.append(x.spawn(x.client.enter(random.below(nodes), random.exponential(stay))))
    return await settle(*asked)


def perform(system: Architecture | System, experiment: Any, *, seed: int = 1, latency: Any = None) -> Any:
    network = Network(latency=latency or Uniform(0.0005, 0.005))
    session = SimSession(system, seed=seed, network=network)
    result = session.perform(experiment)
    assert session.kernel.bugs == []
    return result


@everywhere
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_everybody_who_asks_gets_in_and_never_two_at_a_time(way: type[Architecture], nodes: int) -> None:
    async def experiment(x: Experimenter) -> tuple[list[Any], Usage]:
        turns = await storm(x, 100, nodes, 0.01, 0.01)
        return turns, await x.client.usage()

    turns, usage = perform(way(nodes=nodes), experiment)
    assert sorted(t.number for t in turns) == list(range(1, 101))
    assert usage.overlaps == ()
    assert usage.last


@everywhere
@pytest.mark.parametrize("seed", range(4))
def test_crashes_and_lost_messages_let_nobody_in_beside_another(way: type[Architecture], seed: int) -> None:
    async def experiment(x: Experimenter) -> Usage:
        names = [n for n in await x.control.resources() if not n.startswith(("client", "resource"))]
        random = Random(seed).fork("wreck")
        load = x.spawn(storm(x, 200, 5, 0.02, 0.005))
        for _ in range(5):
            await x.sleep(random.between(0.1, 0.6))
            victim = random.choice(names)
            await x.control.crash(victim)
            await x.control.disturb(None, None, loss=0.05, duplicate=0.1, reorder=0.2)
            await x.sleep(random.between(0.1, 0.6))
            await x.control.heal()
            await x.control.restart(victim)
        await load
        await x.sleep(5.0)
        return await x.client.usage()

    usage = perform(way(), experiment, seed=seed)
    assert usage.overlaps == ()
    assert usage.last
    assert usage.entries > 50


@everywhere
def test_a_run_measures_the_entries_and_their_messages(way: type[Architecture]) -> None:
    record = run(Question(way(nodes=4), Mutex(), duration=5.0, rate=30.0))
    assert record.holds
    per_entry = {CentralMutex: 3, RicartAgrawala: 6, TokenRing: None}[way]
    if per_entry is not None:
        assert record.metrics["messages_per_entry"] == per_entry
    else:
        assert record.metrics["messages_per_entry"] > 2
    assert record.metrics["longest_wait_s"] >= record.metrics["mean_wait_s"] > 0


@pytest.mark.local
@everywhere
def test_live_processes_survive_a_kill(way: type[Architecture]) -> None:
    victim = {CentralMutex: "member-1", RicartAgrawala: "process-1", TokenRing: "station-1"}[way]
    record = run(
        Question(way(nodes=3), Mutex(), "local", duration=2.5, rate=20.0, faults=[f"crash:{victim}@0.5-1.2"])
    )
    assert record.holds, record.verdicts
    assert record.operations.ok > 15


# -- what a crash costs -----------------------------------------------------------------------------------


def entries_while_away(way: Architecture, victim: str, others: list[int]) -> int:
    """How many of one request of each of the others are granted while a process is away."""

    async def experiment(x: Experimenter) -> int:
        await x.sleep(0.5)
        await x.control.crash(victim)
        asked = [x.spawn(x.client.enter(i, 0.001)) for i in others]
        await x.sleep(5.0)
        return sum(isinstance(task.result, Turn) for task in asked if task.done)

    return perform(way, experiment)


def test_without_its_coordinator_nobody_gets_in_and_without_a_member_all_others_do() -> None:
    assert entries_while_away(CentralMutex(), "coordinator-0", [0, 1, 2, 3, 4]) == 0
    assert entries_while_away(CentralMutex(), "member-4", [0, 1, 2, 3]) == 4


def test_who_must_ask_everybody_gets_in_only_if_everybody_lives() -> None:
    assert entries_while_away(RicartAgrawala(), "process-4", [0, 1, 2, 3]) == 0


def test_a_ring_is_closed_behind_a_dead_station_and_a_lost_token_replaced() -> None:
    assert entries_while_away(TokenRing(), "station-4", [0, 1, 2, 3]) == 4


def dies_inside(way: Architecture, victim: str, number: int, after: float) -> Any:
    """Somebody dies in the critical section: when another one gets in."""

    async def experiment(x: Experimenter) -> float:
        x.spawn(x.client.enter(number, 100.0))
        await x.sleep(0.5)
        await x.control.crash(victim)
        begin = x.now
        await x.client.enter((number + 1) % 5, 0.0)
        await x.sleep(after)
        return x.now - after - begin

    return perform(way, experiment)


def test_a_coordinator_takes_the_section_back_from_who_has_died_in_it() -> None:
    assert dies_inside(CentralMutex(look_every=0.5), "member-2", 2, 0.0) < 1.1
    with pytest.raises(Failure):
        dies_inside(CentralMutex(look_every=50.0), "member-2", 2, 0.0)


def test_a_token_that_has_died_with_its_station_is_replaced_or_not() -> None:
    assert 0.5 < dies_inside(TokenRing(lost_after=1.0), "station-2", 2, 0.0) < 2.0
    with pytest.raises(Failure):
        dies_inside(TokenRing(lost_after=0.0), "station-2", 2, 0.0)


# -- safeguards, removed ------------------------------------------------------------------------------------


def overlaps(system: System, experiment: Any, latency: Any = None) -> int:
    async def whole(x: Experimenter) -> int:
        await experiment(x)
        await x.sleep(1.0)
        return len((await x.at("resource-0", Resource).seen()).overlaps)

    return perform(system, whole, latency=latency or Constant(0.001))


def central(*, remember: bool) -> System:
    system, resource = System(), Resource()
    system.role("coordinator", Coordinator(remember=remember))
    system.role("member", Member(coordinator="coordinator-0", resource=resource), count=3)
    system.role("resource", resource)
    system.clients(SectionClient(participants=system.addresses("member"), resource=resource))
    return system


def test_a_coordinator_that_comes_back_remembers_who_is_inside() -> None:
    async def restarted(x: Experimenter) -> None:
        x.spawn(x.client.enter(0, 2.0))
        await x.sleep(0.2)
        await x.control.crash("coordinator-0")
        await x.control.restart("coordinator-0")
        x.spawn(x.client.enter(1, 0.1))
        await x.sleep(1.0)

    assert overlaps(central(remember=True), restarted) == 0
    assert overlaps(central(remember=False), restarted) == 1


def asking_all(**switches: bool) -> System:
    system, resource = System(), Resource()
    others = system.addresses("process", 3)
    system.role("process", Process(others=others, resource=resource, **switches), count=3)
    system.role("resource", resource)
    system.clients(SectionClient(participants=others, resource=resource))
    return system


def test_a_reply_waits_for_who_asked_before() -> None:
    async def two(x: Experimenter) -> None:
        await settle(x.client.enter(0, 0.1), x.client.enter(1, 0.1))

    assert overlaps(asking_all(), two) == 0
    assert overlaps(asking_all(defer=False), two) == 1


def test_a_process_that_comes_back_learns_the_time_first() -> None:
    async def low_number(x: Experimenter) -> None:
        for _ in range(5):
            await x.client.enter(2, 0.0)  # the clocks go on
        x.spawn(x.client.enter(0, 0.4))  # inside
        await x.sleep(0.1)
        x.spawn(x.client.enter(1, 0.4))  # asks, has the reply of 2, and waits for 0
        await x.sleep(0.1)
        await x.control.crash("process-2")
        await x.control.restart("process-2")
        x.spawn(x.client.enter(2, 0.4))  # with a low number it has the reply of 1
        await x.sleep(2.0)

    assert overlaps(asking_all(), low_number) == 0
    assert overlaps(asking_all(learn=False), low_number) > 0


def ring(*, drop_old: bool) -> System:
    system, resource = System(), Resource()
    stations = system.addresses("station", 3)
    system.role("station", Station(ring=stations, resource=resource, drop_old=drop_old), count=3)
    system.role("resource", resource)
    system.clients(SectionClient(participants=stations, resource=resource))
    return system


def test_a_token_that_comes_twice_counts_once() -> None:
    async def twice(x: Experimenter) -> None:
        await x.sleep(0.1)  # the token has been everywhere
        entering = x.spawn(x.client.enter(1, 0.3))
        await x.sleep(0.1)
        await x.at("station-2", Station).take(Token(1, 1))  # as if it had been sent before, and came late
        await settle(x.client.enter(2, 0.1), entering)

    assert overlaps(ring(drop_old=True), twice) == 0
    assert overlaps(ring(drop_old=False), twice) == 1


def test_an_impossible_participant_is_refused_and_a_resource_that_dies_is_no_grant() -> None:
    async def experiment(x: Experimenter) -> tuple[Any, Any]:
        (wrong,) = await settle(x.client.enter("two", 0.1))
        await x.control.crash("resource-0")
        (gone,) = await settle(x.client.enter(0, 0.1))
        return wrong, gone

    wrong, gone = perform(CentralMutex(), experiment)
    assert isinstance(wrong, Refused)
    assert isinstance(gone, Failure)
