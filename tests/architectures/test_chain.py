"""Chain replication: the chain is repaired, under faults; and what happens without each safeguard."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import chaos, cut, live_kill, nodes_of, session_of

from polyarch.architectures.chain import Chain, Server
from polyarch.blocks.replicas import Command, NotLeader
from polyarch.core import Failure, settle
from polyarch.jobs.kv import LINEARIZABLE
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

HEAD, MIDDLE, TAIL = ALL = ["server-0", "server-1", "server-2"]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("servers", [3, 5])
def test_under_faults_the_history_is_linearizable(seed: int, servers: int) -> None:
    wreckage = chaos(Chain(servers=servers), seed=seed)
    assert wreckage.violations == []
    assert wreckage.ok > 100


def test_a_run_can_be_repeated_exactly() -> None:
    a, b = (chaos(Chain(), seed=3, seconds=3).trace_hash for _ in range(2))
    assert a == b


@pytest.mark.local
def test_live_servers_survive_the_kills_of_head_and_tail() -> None:
    ok, verdicts = live_kill(Chain(), [HEAD, TAIL])
    assert ok > 200
    assert [v for v in verdicts if not v.holds] == []


@pytest.mark.parametrize("victim", ALL)
def test_the_chain_goes_on_without_any_server_and_takes_it_in_again(victim: str) -> None:
    """Section 3.1: failure of the head, of the tail, and of others; extending a chain."""
    session = session_of(Chain(), seed=1)

    async def experiment(x: Experimenter) -> tuple[str, ...]:
        for i in range(30):
            await x.client.put(f"key-{i}", i)
            if i == 10:
                await x.control.crash(victim)
            if i == 20:
                await x.control.restart(victim)
        await x.sleep(1)
        assert {f"key-{i}": await x.client.get(f"key-{i}") for i in range(30)} == {
            f"key-{i}": i for i in range(30)
        }
        assert all(len(node.log.entries) > 30 for node in nodes_of(session).values())
        return nodes_of(session)[HEAD].view.members

    assert session.perform(experiment) == (*(a for a in ALL if a != victim), victim)


def test_a_write_takes_a_step_for_each_server_and_a_read_one() -> None:
    """Section 4: down the chain and, as the head gives the answer, up again."""
    architecture = Chain(heartbeat=10)
    session = SimSession(architecture, seed=1, network=Network(latency=Constant(0.010)), disk_sync=0.0)

    async def experiment(x: Experimenter) -> tuple[float, float]:
        await x.client.put("a", 1)
        await x.client.get("a")
        begin = x.now
        number = await x.at(HEAD, Server).submit(Command(0, 0, 0, "register"))
        middle = x.now
        await x.at(TAIL, Server).read("a")
        assert number > 0
        return middle - begin, x.now - middle

    write, read = session.perform(experiment)
    assert write == pytest.approx(0.060, abs=0.001)
    assert read == pytest.approx(0.020, abs=0.001)


def test_without_the_master_work_goes_on() -> None:
    session = session_of(Chain())

    async def experiment(x: Experimenter) -> None:
        await x.client.put("a", 1)
        await x.control.crash("master-0")
        await x.sleep(1)
        begin = x.now
        assert await x.client.get("a") == 1
        await x.client.put("a", 2)
        assert x.now - begin < 0.1

    session.perform(experiment)


# -- safeguards, removed one by one ----------------------------------------------------------------------


def test_only_the_tail_answers_reads() -> None:
    def read_before_it_is_done(without: str = "") -> tuple[Any, Any]:
        """A read at the tail, which has a write, and then one at the head, which does not know it is done."""
        session = session_of(Chain(without=without), seed=1)

        async def experiment(x: Experimenter) -> tuple[Any, Any]:
            await x.client.put("a", "old")
            await x.sleep(0.2)
            await x.control.disturb([MIDDLE], [HEAD], loss=1.0)
            write = x.spawn(x.at(HEAD, Server).submit(Command(1, 50, 50, "put", "a", "new")))
            await x.sleep(0.5)
            values = await x.at(TAIL, Server).read("a"), await x.at(HEAD, Server).read("a")
            await settle(write)
            return values

        return session.perform(experiment)

    with pytest.raises(NotLeader):
        read_before_it_is_done()
    assert read_before_it_is_done(without="read_at_tail") == ("new", "old")


def test_a_tail_reads_only_while_it_holds_a_lease() -> None:
    def read_from_removed(without: str = "") -> Any:
        session = session_of(Chain(without=without), seed=2)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            await cut(x, [TAIL], [HEAD, MIDDLE, "master-0", "client"])
            await x.client.put("a", "new")
            return await x.at(TAIL, Server).read("a")

        return session.perform(experiment)

    with pytest.raises(NotLeader):
        read_from_removed()
    assert read_from_removed(without="certain_before_read") == "old"


def test_the_members_of_another_view_do_not_confirm_a_tail() -> None:
    class Confused(Server):
        async def confirm_place(self) -> None:
            if not self.leased():
                try:
                    await self.asking.served()
                except Failure as failure:
                    raise NotLeader("") from failure

    assert any(chaos(Chain(), Confused, seed=s).fails(LINEARIZABLE) for s in range(10))


def test_updates_are_taken_in_order_only() -> None:
    assert any(chaos(Chain(without="in_order"), seed=s).violations for s in range(4))


def middle_dies_with_a_write(without: str = "") -> Any:
    """The head has sent a write to the middle, which dies before it has passed it on."""
    session = session_of(Chain(without=without), seed=1)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", "old")
        await x.sleep(0.2)
        await x.control.disturb([MIDDLE], [TAIL], loss=1.0)
        write = x.spawn(x.at(HEAD, Server, timeout=3).submit(Command(1, 50, 50, "put", "a", "new")))
        await x.sleep(0.1)
        assert nodes_of(session)[MIDDLE].log.last == nodes_of(session)[HEAD].log.last
        await x.control.crash(MIDDLE)
        await settle(write)
        return await x.client.get("a")

    return session.perform(experiment)


def test_a_new_successor_is_sent_what_it_lacks() -> None:
    assert middle_dies_with_a_write() == "new"
    assert middle_dies_with_a_write(without="resend") == "old"


def test_fencing_keeps_an_old_chain_from_changing_the_new_one() -> None:
    def behind_the_masters_back(without: str = "") -> Any:
        """A head is cut off from the master and the clients, but not from its successor."""
        session = session_of(Chain(without=without), seed=2)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            await cut(x, [HEAD], ["master-0", "client"])
            await x.sleep(1)
            await x.client.put("a", "new")
            submit = x.at(HEAD, Server).submit
            await settle(*(submit(Command(1, 50 + i, 50, "put", "a", f"wrong {i}")) for i in range(9)))
            return await x.client.get("a")

        return session.perform(experiment)

    assert behind_the_masters_back() == "new"
    assert behind_the_masters_back(without="fencing") != "new"


def test_answers_wait_for_the_whole_chain() -> None:
    assert any(chaos(Chain(without="whole_group"), seed=s).fails(LINEARIZABLE) for s in range(6))


def test_what_is_acknowledged_is_on_disk() -> None:
    assert any(chaos(Chain(without="sync_before_answer"), seed=s, most=3).violations for s in range(9))


def test_who_is_to_be_the_tail_has_nothing_that_the_chain_does_not_have() -> None:
    def returns_with_more(without: str = "") -> Any:
        """A head is cut off with a write that it could not pass on, and returns as the tail."""
        session = session_of(Chain(without=without), seed=1)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            await cut(x, [HEAD], [MIDDLE, TAIL, "master-0", "client"])
            await settle(x.at(HEAD, Server, timeout=0.5).submit(Command(1, 50, 50, "put", "a", "never")))
            await x.sleep(1)
            before = await x.client.get("a")
            await x.control.heal()
            await x.sleep(1)
            return before, await x.client.get("a")

        return session.perform(experiment)

    assert returns_with_more() == ("old", "old")
    assert returns_with_more(without="begin_with_an_entry") == ("old", "never")
