"""Primary-backup: synchronous it loses nothing, asynchronous it may; and it without each safeguard."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import chaos, cut, live_kill, nodes_of, session_of

from polyarch.architectures.primary_backup import PrimaryBackup, Server
from polyarch.blocks.replicas import Command, NotLeader
from polyarch.core import Failure, settle
from polyarch.jobs.kv import LINEARIZABLE, NOTHING_LOST
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

ALL = ["server-0", "server-1", "server-2"]


async def primary_of(x: Experimenter, session: SimSession, beside: str = "") -> str:
    """The address of a primary (another than ``beside``) that can answer."""
    while True:
        for address, node in nodes_of(session).items():
            if node.is_first and node.committed >= node.begun and address != beside:
                return address
        await x.sleep(0.02)


@pytest.mark.parametrize("seed", range(10))
def test_synchronous_under_faults_the_history_is_linearizable(seed: int) -> None:
    wreckage = chaos(PrimaryBackup(), seed=seed)
    assert wreckage.violations == []
    assert wreckage.ok > 100


@pytest.mark.parametrize("seed", range(10))
def test_asynchronous_under_faults_all_replicas_agree_in_the_end(seed: int) -> None:
    wreckage = chaos(PrimaryBackup(synchronous=False), seed=seed)
    assert wreckage.violations == []
    assert not wreckage.fails("all replicas agree when it is quiet")


def test_asynchronous_it_is_not_always_linearizable_and_does_not_say_so() -> None:
    wreckages = [chaos(PrimaryBackup(synchronous=False), seed=seed) for seed in range(10)]
    assert any(w.fails(LINEARIZABLE) for w in wreckages)


def test_a_run_can_be_repeated_exactly() -> None:
    a, b = (chaos(PrimaryBackup(), seed=3, seconds=3).trace_hash for _ in range(2))
    assert a == b


@pytest.mark.local
def test_live_servers_survive_the_kill_of_their_primary() -> None:
    ok, verdicts = live_kill(PrimaryBackup(), ["server-0", "server-1"])
    assert ok > 200
    assert [v for v in verdicts if not v.holds] == []


def test_one_server_after_another_takes_over_and_those_that_return_become_backups() -> None:
    session = session_of(PrimaryBackup(), seed=4)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        for i in range(40):
            await x.client.put(f"key-{i}", i)
            if i in (10, 20, 30):
                primary = await primary_of(x, session)
                await x.control.crash(primary)
                await primary_of(x, session, beside=primary)
                await x.control.restart(primary)
                await x.sleep(0.5)
        assert all(len(node.view.members) == 3 for node in nodes_of(session).values())
        return {f"key-{i}": await x.client.get(f"key-{i}") for i in range(40)}

    assert session.perform(experiment) == {f"key-{i}": i for i in range(40)}


def lost_by_a_crash(architecture: PrimaryBackup) -> bool:
    """A write is answered while the backups cannot be reached, and then its primary dies: is it lost?"""
    session = session_of(architecture, seed=1)

    async def experiment(x: Experimenter) -> bool:
        await x.client.put("a", "old")
        primary = await primary_of(x, session)
        await x.sleep(0.2)
        await cut(x, [primary], [a for a in ALL if a != primary])
        (outcome,) = await settle(x.spawn(x.client.put("a", "new")))
        await x.control.crash(primary)
        await x.control.heal()
        await primary_of(x, session, beside=primary)
        value = await x.client.get("a")
        await x.control.restart(primary)
        await x.sleep(1)
        assert await x.client.get("a") == value  # and whoever comes back does not change that
        return not isinstance(outcome, Failure) and value == "old"

    return session.perform(experiment)


def test_what_the_asynchronous_one_may_lose() -> None:
    assert not lost_by_a_crash(PrimaryBackup())
    assert lost_by_a_crash(PrimaryBackup(synchronous=False))
    assert NOTHING_LOST in PrimaryBackup(synchronous=False).disclaims
    assert PrimaryBackup().disclaims == ()


def test_without_the_monitor_work_goes_on_but_nobody_is_replaced() -> None:
    session = session_of(PrimaryBackup())

    async def experiment(x: Experimenter) -> None:
        await x.client.put("a", 1)
        await x.control.crash("monitor-0")
        await x.sleep(1)
        begin = x.now
        assert await x.client.get("a") == 1
        await x.client.put("a", 2)
        assert x.now - begin < 0.1
        await x.control.crash(await primary_of(x, session))
        assert isinstance((await settle(x.client.get("a")))[0], Failure)
        await x.control.restart("monitor-0")
        assert await x.client.get("a") == 2

    session.perform(experiment)


# -- safeguards, removed one by one ----------------------------------------------------------------------


def test_answers_wait_for_all_backups() -> None:
    assert lost_by_a_crash(PrimaryBackup(without="whole_group"))


def test_answers_wait_for_the_own_disk() -> None:
    def all_crash(without: str = "") -> Any:
        session = session_of(PrimaryBackup(without=without))

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", 1)
            for name in ALL:
                await x.control.crash(name)
            for name in ALL:
                await x.control.restart(name)
            return await x.client.get("a")

        return session.perform(experiment)

    assert all_crash() == 1
    assert all_crash(without="sync_before_answer") is None


def behind_the_monitors_back(without: str = "") -> Any:
    """A primary is cut off from the monitor and the clients, but not from its backups, and goes on writing
    after another one was appointed and has answered; what is read then?"""
    session = session_of(PrimaryBackup(without=without), seed=2)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", "old")
        old = await primary_of(x, session)
        await cut(x, [old], ["monitor-0", "client"])
        new = await primary_of(x, session, beside=old)
        submit = x.at(old, Server).submit
        entries = [submit(Command(1, 50 + i, 50, "put", "a", f"wrong {i}")) for i in range(9)]
        await settle(*entries[:4], x.client.put("a", "new"), *entries[4:])
        await x.sleep(0.5)
        await x.control.crash(new)
        await x.control.heal()
        return await x.client.get("a")

    return session.perform(experiment)


def test_fencing_keeps_an_old_primary_from_changing_anything() -> None:
    assert behind_the_monitors_back() == "new"
    assert behind_the_monitors_back(without="fencing") != "new"


def test_a_primary_reads_only_while_it_holds_a_lease() -> None:
    def read_from_replaced(without: str = "") -> Any:
        session = session_of(PrimaryBackup(without=without), seed=2)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            old = await primary_of(x, session)
            await cut(x, [old], [*(a for a in ALL if a != old), "monitor-0", "client"])
            await primary_of(x, session, beside=old)
            await x.client.put("a", "new")
            return await x.at(old, Server).read("a")

        return session.perform(experiment)

    with pytest.raises(NotLeader):
        read_from_replaced()
    assert read_from_replaced(without="certain_before_read") == "old"


def test_whoever_begins_to_be_the_first_overwrites_what_others_have_beyond_its_log() -> None:
    """An asynchronous primary returns with a longer log than its successor's, which gets no new command."""

    def agree(without: str = "") -> bool:
        architecture = PrimaryBackup(synchronous=False, without=without)
        session = session_of(architecture, seed=1)

        async def experiment(x: Experimenter) -> bool:
            await x.client.put("a", "old")
            primary = await primary_of(x, session)
            await x.sleep(0.2)
            await cut(x, [primary], [a for a in ALL if a != primary])
            await x.client.put("a", "new")
            await x.control.crash(primary)
            await x.control.heal()
            await primary_of(x, session, beside=primary)
            await x.control.restart(primary)
            return (await architecture.observe(x))[1][0].holds

        return session.perform(experiment)

    assert agree()
    assert not agree(without="begin_with_an_entry")


def test_the_log_is_extended_in_order_only() -> None:
    assert any(chaos(PrimaryBackup(without="in_order"), seed=s, most=3).violations for s in range(8))
