"""Multi-Paxos: one command for each slot, under faults; and what happens without each safeguard."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import chaos, cut, live_kill, nodes_of, session_of

from polyarch.architectures.multi_paxos import Ballot, MultiPaxos, Server, Vote
from polyarch.blocks.replicas import Command, NotLeader
from polyarch.core import Failure, settle
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


async def leader_of(x: Experimenter, session: SimSession, beside: str = "") -> str:
    """The address of a leader (another than ``beside``) that can answer."""
    while True:
        for address, node in nodes_of(session).items():
            if node.leads and node.chosen >= node.recovered and address != beside:
                return address
        await x.sleep(0.02)


@pytest.mark.parametrize("seed", range(10))
def test_under_faults_the_history_is_linearizable(seed: int) -> None:
    wreckage = chaos(MultiPaxos(), seed=seed, most=3)
    assert wreckage.violations == []
    assert wreckage.ok > 200


def test_a_run_can_be_repeated_exactly() -> None:
    a, b = (chaos(MultiPaxos(), seed=3, seconds=3, most=3).trace_hash for _ in range(2))
    assert a == b


@pytest.mark.local
def test_live_servers_survive_the_kills_of_two() -> None:
    ok, verdicts = live_kill(MultiPaxos(election_timeout=0.2), ["server-0", "server-1"])
    assert ok > 300
    assert [v for v in verdicts if not v.holds] == []


def test_a_stable_leader_needs_one_round_trip_and_no_first_phase() -> None:
    """Two message delays at the proposer, four from the client's request to its answer."""
    architecture = MultiPaxos()
    session = SimSession(architecture, seed=1, network=Network(latency=Constant(0.010)), disk_sync=0.0)

    async def experiment(x: Experimenter) -> tuple[float, int]:
        leader = x.at(await leader_of(x, session), Server)
        before = (await x.control.traffic()).by_method["prepare"]
        session_number = await leader.submit(Command(0, 0, 0, "register"))
        begin = x.now
        await leader.submit(Command(session_number, 0, 0, "put", "a", 1))
        return x.now - begin, (await x.control.traffic()).by_method["prepare"] - before

    seconds, prepares = session.perform(experiment)
    assert seconds == pytest.approx(0.040, abs=0.001)
    assert prepares == 0


def test_a_leader_crash_loses_no_acknowledged_write() -> None:
    session = session_of(MultiPaxos(), seed=4)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        for i in range(30):
            await x.client.put(f"key-{i}", i)
            if i in (10, 20):
                await x.control.crash(await leader_of(x, session))
        return {f"key-{i}": await x.client.get(f"key-{i}") for i in range(30)}

    assert session.perform(experiment) == {f"key-{i}": i for i in range(30)}


def test_a_server_that_is_far_behind_is_brought_up_to_date_in_few_steps() -> None:
    session = session_of(MultiPaxos())

    async def experiment(x: Experimenter) -> None:
        leader = await leader_of(x, session)
        behind = next(a for a in nodes_of(session) if a != leader)
        await x.control.crash(behind)
        for i in range(300):
            await x.client.put("a", i)
        await x.control.restart(behind)
        before = (await x.control.traffic()).by_method["accept"]
        await x.sleep(0.5)
        assert nodes_of(session)[behind].chosen > 300
        assert (await x.control.traffic()).by_method["accept"] - before < 120  # heartbeats included

    session.perform(experiment)


def test_writes_at_the_same_time_share_messages_and_flushes() -> None:
    session = session_of(MultiPaxos())

    async def experiment(x: Experimenter) -> float:
        await leader_of(x, session)
        await x.client.put("a", 0)
        begin, before = x.now, (await x.control.traffic()).by_method["accept"]
        await settle(*(x.client.put(f"key-{i}", i) for i in range(1000)))
        assert (await x.control.traffic()).by_method["accept"] - before < 200
        return x.now - begin

    assert session.perform(experiment) < 0.2


# -- safeguards, removed one by one ----------------------------------------------------------------------


def test_a_promise_survives_a_restart() -> None:
    def accepts_the_older(without: str = "") -> bool:
        session = session_of(MultiPaxos(servers=3, without=without))
        old, new = Ballot(98, "old"), Ballot(99, "new")

        async def experiment(x: Experimenter) -> bool:
            acceptor = x.at("server-0", Server)
            assert (await acceptor.prepare(new, 1)).promised == new
            await x.control.crash("server-0")
            await x.control.restart("server-0")
            return (await acceptor.accept(old, 1, (None,), 0)).promised == old

        return session.perform(experiment)

    assert not accepts_the_older()
    assert accepts_the_older(without="promise_on_disk")


def change_of_leader(without: str = "") -> list[str]:
    """A command is chosen by a leader that is cut off before it can say so; another one leads then."""
    architecture = MultiPaxos(servers=3, without=without)
    session = session_of(architecture, seed=2)

    async def experiment(x: Experimenter) -> list[str]:
        await x.client.put("a", "before")
        seen: dict[Any, Any] = {}
        old = await leader_of(x, session)
        node, others = nodes_of(session)[old], [a for a in nodes_of(session) if a != old]
        submit = x.spawn(x.at(old, Server).submit(Command(1, 99, 99, "put", "a", "chosen")))
        slot = node.last
        while node.chosen == slot:
            await x.sleep(0.0001)
        await cut(x, [old], others)
        violations = list(architecture.invariants({old: node}, seen))
        new = await leader_of(x, session, beside=old)
        await settle(submit, x.at(new, Server).submit(Command(1, 100, 100, "put", "a", "after")))
        await x.control.heal()
        await x.sleep(1)
        return violations + list(architecture.invariants(nodes_of(session), seen))

    return session.perform(experiment)


def test_a_new_leader_proposes_again_what_may_have_been_chosen() -> None:
    assert change_of_leader() == []
    assert change_of_leader(without="adopt_newest") != []


def test_of_several_votes_the_newest_counts() -> None:
    old, new = (Command(1, i, 0, "put", "a", i) for i in (1, 2))
    votes = [Vote(7, Ballot(3, "a"), new), Vote(7, Ballot(2, "b"), old)]
    assert Server(servers=()).may_propose(votes) == new
    assert Server(servers=()).may_propose([]) is None


def test_a_gap_in_the_log_is_filled_with_a_no_op() -> None:
    """Section 3: acceptors know of slot 3 but not of 1 and 2; what is in slot 3 can be executed."""
    session = session_of(MultiPaxos(servers=3), seed=1)

    async def experiment(x: Experimenter) -> tuple[Any, Any]:
        ballot = Ballot(1, "server-9")
        for i in range(3):
            command = Command(0, 0, 0, "register")
            assert (await x.at(f"server-{i}", Server).accept(ballot, 3, (command,), 0)).through == 0
        await x.client.put("a", 1)
        node = nodes_of(session)[await leader_of(x, session)]
        return [node.votes[slot].command for slot in (1, 2)], node.votes[3].command.name

    assert session.perform(experiment) == ([None, None], "register")


def test_less_than_a_majority_chooses_two_commands_for_a_slot() -> None:
    few = MultiPaxos(servers=4, without="majority")
    assert any(chaos(few, seed=s, most=3).fails("linearizable") for s in range(8))


def test_a_deposed_leader_does_not_answer_reads() -> None:
    def read_from_deposed(without: str = "") -> Any:
        session = session_of(MultiPaxos(without=without), seed=2)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            old = await leader_of(x, session)
            await cut(x, [old], [a for a in nodes_of(session) if a != old])
            new = x.at(await leader_of(x, session, beside=old), Server)
            number = await new.submit(Command(0, 0, 0, "register"))
            await new.submit(Command(number, 0, 0, "put", "a", "new"))
            return await x.at(old, Server).read("a")

        return session.perform(experiment)

    with pytest.raises((NotLeader, Failure)):
        read_from_deposed()
    assert read_from_deposed(without="confirm_before_read") == "old"
