"""Raft: what figure 3 of the paper promises, under faults; what it does fast, and how it grows and shrinks.

``test_raft_safeguards.py`` leaves out each safeguard; ``raft_chaos.py`` has the mischief.
"""

from __future__ import annotations

from typing import Any

import pytest
import raft_chaos as chaos
from kv_chaos import load

from polyarch.architectures.raft import LEADER, Raft, RaftStore
from polyarch.blocks.replicas import REGISTER, Command, NotLeader, SessionExpired, StateMachine
from polyarch.core import Done, Failure, Refused, Timeout, settle
from polyarch.jobs.kv import Kv
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Exponential, Network
from polyarch.runtimes.sim.session import SimSession


def session_of(*, seed: int = 0, network: Network | None = None, **parameters: Any) -> SimSession:
    links = network or Network(latency=Exponential(0.002, 0.0005))
    return SimSession(RaftStore(**parameters), seed=seed, network=links)


def servers_of(session: SimSession) -> dict[str, Raft]:
    return {a: env.node for a, env in session.kernel.directory.items() if isinstance(env.node, Raft)}


async def leader_of(x: Experimenter, session: SimSession, beside: str = "") -> str:
    """The address of a leader (another than ``beside``) that knows that it leads."""
    while True:
        for address, node in servers_of(session).items():
            if node.role == LEADER and node.has_committed_in_term() and address != beside:
                return address
        await x.sleep(0.02)


def history_of(w: chaos.World, scenario: chaos.Scenario, seconds: float) -> list[Done]:
    assert w.run(scenario, seconds) == []
    return w.history


# -- under faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", [chaos.wreck, chaos.lagging, chaos.deposed, chaos.brief_leaders])
@pytest.mark.parametrize("servers", [3, 5])
def test_under_faults_figure_3_holds_and_the_history_is_linearizable(
    scenario: chaos.Scenario, servers: int
) -> None:
    answered = 0
    for seed in range(6):
        history = history_of(chaos.World(seed, servers=servers), scenario, 3.0)
        answered += sum(done.outcome == "ok" for done in history)
    assert answered > 100


def test_a_run_can_be_repeated_exactly() -> None:
    hashes = []
    for _ in range(2):
        w = chaos.World(3, snapshot_every=10, read_by="lease")
        history_of(w, chaos.wreck, 2.0)
        hashes.append(w.session.kernel.trace_hash)
    assert hashes[0] == hashes[1]


def test_a_leader_crash_loses_no_acknowledged_write() -> None:
    session = session_of(seed=4)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        await leader_of(x, session)
        for i in range(30):
            await x.client.put(f"key-{i}", i)
            if i in (10, 20):
                await x.control.crash(await leader_of(x, session))
        return {f"key-{i}": await x.client.get(f"key-{i}") for i in range(30)}

    assert session.perform(experiment) == {f"key-{i}": i for i in range(30)}


def test_what_is_acknowledged_survives_a_crash_of_all() -> None:
    session = session_of(seed=1)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", 1)
        for name in servers_of(session):
            await x.control.crash(name)
        for name in list(session.kernel.processes):
            if name.startswith("server"):
                await x.control.restart(name)
        return await x.client.get("a")

    assert session.perform(experiment) == 1


def test_without_a_majority_nothing_is_answered_and_nothing_is_said_to_be_certain() -> None:
    session = session_of(servers=3)

    async def experiment(x: Experimenter) -> list[Any]:
        await x.client.put("a", 0)
        leader = await leader_of(x, session)
        for name in servers_of(session):
            if name != leader:
                await x.control.crash(name)
        return await settle(x.client.put("a", 1), x.client.get("a"))

    put, get = session.perform(experiment)
    assert isinstance(put, Timeout)  # the leader has it in its log
    assert isinstance(get, Failure)


@pytest.mark.local
def test_live_servers_survive_the_kill_of_their_leader() -> None:
    architecture, job = RaftStore(election_timeout=0.2, snapshot_every=500), Kv(keys=10)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[Done]:
            await architecture.ready(x)
            loading = x.spawn(load(x, job, 8, x.now + 3.0))
            for _ in range(2):
                await x.sleep(0.8)
                status = await settle(*(x.at(f"server-{i}", Raft).status() for i in range(5)))
                leader = f"server-{[getattr(s, 'role', 'dead') for s in status].index(LEADER)}"
                await x.control.crash(leader)
                await x.sleep(0.8)
                await x.control.restart(leader)
            history: list[Done] = await loading
            return history

        history = session.perform(experiment)
    assert sum(done.outcome == "ok" for done in history) > 500
    assert [v.detail for v in job.check(history, None) if not v.holds] == []


# -- elections ----------------------------------------------------------------------------------------------


def terms_after_a_server_was_cut_off(**parameters: Any) -> int:
    session = session_of(**parameters)

    async def experiment(x: Experimenter) -> int:
        leader = await leader_of(x, session)
        term = servers_of(session)[leader].current_term
        alone = next(a for a in servers_of(session) if a != leader)
        others = [a for a in servers_of(session) if a != alone]
        await x.control.disturb([alone], others, loss=1.0)
        await x.control.disturb(others, [alone], loss=1.0)
        await x.sleep(5)
        await x.control.heal()
        await x.sleep(2)
        return servers_of(session)[await leader_of(x, session)].current_term - term

    return session.perform(experiment)


def test_with_pre_votes_a_server_that_was_cut_off_does_not_depose_the_leader() -> None:  # thesis, 9.6
    assert terms_after_a_server_was_cut_off() == 0
    assert terms_after_a_server_was_cut_off(pre_vote=False) > 5


def test_a_leader_that_reaches_no_majority_gives_up() -> None:  # thesis, 6.2
    session = session_of()

    async def experiment(x: Experimenter) -> str:
        leader = await leader_of(x, session)
        await x.control.disturb(None, [leader], loss=1.0)
        await x.sleep(1.5)
        return servers_of(session)[leader].role

    assert session.perform(experiment) == "follower"


# -- replication --------------------------------------------------------------------------------------------


def test_a_log_that_is_far_behind_is_repaired_in_few_steps() -> None:
    session = session_of(batch=100)

    async def experiment(x: Experimenter) -> None:
        leader = await leader_of(x, session)
        behind = next(a for a in servers_of(session) if a != leader)
        await x.control.crash(behind)
        for i in range(500):
            await x.client.put("a", i)
        await x.control.restart(behind)
        before = (await x.control.traffic()).by_method["append_entries"]
        await x.sleep(0.5)
        sent = (await x.control.traffic()).by_method["append_entries"] - before
        assert servers_of(session)[behind].log.last_index > 500
        assert sent < 150  # heartbeats of half a second included

    session.perform(experiment)


def test_writes_at_the_same_time_share_messages_and_flushes() -> None:
    session = session_of()

    async def experiment(x: Experimenter) -> float:
        await x.client.put("a", 0)
        begin, before = x.now, (await x.control.traffic()).by_method["append_entries"]
        await settle(*(x.client.put(f"key-{i}", i) for i in range(1000)))
        assert (await x.control.traffic()).by_method["append_entries"] - before < 200
        return x.now - begin

    assert session.perform(experiment) < 0.2


def test_entries_that_are_too_large_for_one_message_go_in_several() -> None:
    session = session_of()

    async def experiment(x: Experimenter) -> None:
        await x.client.put("a", 0)
        await settle(*(x.client.put(f"key-{i}", "x" * 3_000_000) for i in range(12)))
        await x.sleep(1.0)
        assert [len(node.machine.data) for node in servers_of(session).values()] == [13] * 5

    session.perform(experiment)


def seconds_for_writes_far_away(window: int) -> float:
    session = session_of(network=Network(latency=Constant(0.05)), window=window, batch=10, servers=3)

    async def experiment(x: Experimenter) -> float:
        await x.client.put("a", 0)
        begin = x.now
        await settle(*(x.client.put(f"key-{i}", i) for i in range(200)))
        return x.now - begin

    return session.perform(experiment)


def test_pipelining_keeps_a_long_link_busy() -> None:  # thesis, 10.2.1
    assert seconds_for_writes_far_away(10) < 0.25 * seconds_for_writes_far_away(1)


def test_a_write_costs_one_round_trip_to_the_nearest_majority() -> None:  # section 9.3
    session = SimSession(RaftStore(heartbeat=10.0, election_timeout=20.0), disk_sync=0.0)

    async def experiment(x: Experimenter) -> tuple[float, int]:
        leader = await leader_of(x, session)
        await x.client.put("a", 0)
        others = [a for a in servers_of(session) if a != leader]
        for i, other in enumerate(others, 1):  # round trips of 10, 20, 30 and 40 ms
            await x.control.disturb([leader], [other], delay=0.010 * i - 0.001)
        await x.sleep(1.0)
        begin, before = x.now, (await x.control.traffic()).by_method["append_entries"]
        await x.client.put("a", 1)
        took = x.now - begin
        await x.sleep(1.0)
        return took, (await x.control.traffic()).by_method["append_entries"] - before

    took, messages = session.perform(experiment)
    assert took == pytest.approx(0.020 + 4 * 0.0005)  # and two hops from and to the experimenter
    assert messages == 8  # two for each follower


# -- reads --------------------------------------------------------------------------------------------------


def read_cost(**parameters: Any) -> tuple[int, float]:
    session = SimSession(RaftStore(heartbeat=0.1, **parameters), network=Network(latency=Constant(0.01)))

    async def experiment(x: Experimenter) -> tuple[int, float]:
        await x.client.put("a", 1)
        await leader_of(x, session)
        begin, before = x.now, (await x.control.traffic()).messages
        for _ in range(20):
            assert await x.client.get("a") == 1
        return (await x.control.traffic()).messages - before, (x.now - begin) / 20

    return session.perform(experiment)


def test_a_lease_saves_the_messages_of_a_read() -> None:  # thesis, 6.4.1
    (by_index, slow), (by_lease, fast) = read_cost(), read_cost(read_by="lease")
    assert slow == pytest.approx(0.06, rel=0.1)  # experimenter, client, leader, followers; and back
    assert fast == pytest.approx(0.04, rel=0.1)
    assert by_lease < by_index / 2


def test_leases_are_safe_while_clocks_differ_by_no_more_than_the_bound() -> None:
    found = chaos.search(chaos.slow_clock, range(20), read_by="lease", clock_drift=0.1)
    assert found is not None  # the leader's clock is ten times slower
    assert "stale" in "".join(found[1]) or "no order" in "".join(found[1])
    assert chaos.search(chaos.slow_clock, range(20), read_by="lease", clock_drift=9.5) is None
    for scenario in (chaos.usurper, chaos.deposed, chaos.wreck):
        assert chaos.search(scenario, range(8), read_by="lease") is None
    assert chaos.search(chaos.slow_clock, range(10)) is None  # the read index needs no clocks


# -- clients' sessions --------------------------------------------------------------------------------------


def test_a_command_that_is_sent_again_is_executed_once() -> None:
    session = session_of()

    async def experiment(x: Experimenter) -> list[Any]:
        leader = x.at(await leader_of(x, session), Raft)
        number = await leader.submit(REGISTER)
        command = Command(number, 0, 0, "compare_and_set", "a", 1, None)
        return [await leader.submit(command) for _ in range(2)]

    assert session.perform(experiment) == [True, True]


def test_results_are_forgotten_when_the_client_has_them() -> None:
    machine = StateMachine()
    me = machine.apply(REGISTER)
    assert isinstance(me, int)
    for i in range(100):
        machine.apply(Command(me, i, max(0, i - 3), "put", "a", i))
    assert len(machine.sessions[me].results) == 4
    machine.apply(Command(me, 5, 2, "put", "a", "again, much too late"))
    assert machine.data["a"] == 99


def test_the_sessions_used_least_recently_expire_and_their_commands_are_refused() -> None:
    machine = StateMachine(sessions=2)
    first, second = machine.apply(REGISTER), machine.apply(REGISTER)
    machine.apply(Command(first, 0, 0, "put", "a", 1))  # type: ignore[arg-type]
    machine.apply(REGISTER)
    machine.apply(Command(first, 1, 0, "put", "a", 2))  # type: ignore[arg-type]
    with pytest.raises(SessionExpired):
        machine.apply(Command(second, 0, 0, "put", "a", 3))  # type: ignore[arg-type]
    copy = StateMachine(sessions=2)
    copy.restore(machine.snapshot())
    assert copy.snapshot() == machine.snapshot()
    with pytest.raises(SessionExpired):
        copy.apply(Command(second, 0, 0, "put", "a", 3))  # type: ignore[arg-type]


def test_a_client_whose_session_has_expired_opens_another() -> None:
    session = session_of(sessions=2)

    async def experiment(x: Experimenter) -> list[Any]:
        leader = x.at(await leader_of(x, session), Raft)
        await x.client.put("a", 1)
        for _ in range(3):
            await leader.submit(REGISTER)
        await x.client.put("a", 2)
        stale = Command(1, 0, 0, "put", "a", 1)
        return [await x.client.get("a"), *await settle(leader.submit(stale))]

    value, refusal = session.perform(experiment)
    assert value == 2
    assert isinstance(refusal, SessionExpired)


def test_only_the_leader_serves_and_the_others_know_who_it_is() -> None:
    session = session_of()

    async def experiment(x: Experimenter) -> tuple[str, Any]:
        await x.client.put("a", 1)
        leader = await leader_of(x, session)
        other = next(a for a in servers_of(session) if a != leader)
        (refusal,) = await settle(x.at(other, Raft).read("a"))
        return leader, refusal

    leader, refusal = session.perform(experiment)
    assert isinstance(refusal, NotLeader)
    assert refusal.detail == leader


# -- snapshots (section 7) ----------------------------------------------------------------------------------


def test_the_log_is_discarded_and_who_is_behind_gets_a_snapshot_in_chunks() -> None:
    session = session_of(servers=3, snapshot_every=50, chunk=200)

    async def experiment(x: Experimenter) -> None:
        leader = await leader_of(x, session)
        behind = next(a for a in servers_of(session) if a != leader)
        await x.control.crash(behind)
        for i in range(300):
            await x.client.put(f"key-{i % 40}", i)
        assert len(servers_of(session)[leader].log._entries) < 80
        await x.control.restart(behind)
        await x.sleep(1.0)
        assert (await x.control.traffic()).by_method["install_snapshot"] > 4
        for name in servers_of(session):  # and all start from their snapshots
            await x.control.crash(name)
            await x.control.restart(name)
        assert await x.client.get("key-39") == 279
        await x.sleep(1.0)
        states = [node.machine.data for node in servers_of(session).values()]
        assert states[0] == states[1] == states[2]
        assert len(states[0]) == 40

    session.perform(experiment)


@pytest.mark.parametrize("scenario", [chaos.wreck, chaos.late_snapshots, chaos.power])
def test_with_snapshots_all_the_time_nothing_is_violated(scenario: chaos.Scenario) -> None:
    for snapshot_every, chunk in ((1, 1_000_000), (5, 40)):
        found = chaos.search(scenario, range(6), snapshot_every=snapshot_every, chunk=chunk, think=0.01)
        assert found is None


# -- membership (thesis, chapter 4) -------------------------------------------------------------------------


def test_servers_are_added_and_removed_while_clients_are_served() -> None:
    session = session_of(servers=3, spares=2, snapshot_every=50)

    async def experiment(x: Experimenter) -> None:
        for i in range(200):
            await x.client.put(f"key-{i}", i)
        for spare in ("server-3", "server-4"):
            await x.at(await leader_of(x, session), Raft).add_server(spare)
        for _ in range(2):  # the leaders themselves
            leader = await leader_of(x, session)
            await x.at(leader, Raft).remove_server(leader)
            await leader_of(x, session, beside=leader)
        leader = await leader_of(x, session)
        await x.client.put("key-0", "new")
        members = servers_of(session)[leader].log.members
        assert len(members) == 3
        assert {"server-3", "server-4"} < set(members)
        outsiders = [a for a in servers_of(session) if a not in members]
        for name in outsiders:  # nobody needs them
            await x.control.crash(name)
        await x.sleep(1.0)
        assert [await x.client.get(f"key-{i}") for i in range(3)] == ["new", 1, 2]
        assert servers_of(session)["server-4"].machine.data["key-199"] == 199

    session.perform(experiment)


def test_removed_servers_do_not_disturb_the_others() -> None:  # thesis, 4.2.3
    session = session_of(servers=4, pre_vote=False)

    async def experiment(x: Experimenter) -> None:
        leader = await leader_of(x, session)
        removed = next(a for a in servers_of(session) if a != leader)
        await x.at(leader, Raft).remove_server(removed)
        term = servers_of(session)[leader].current_term
        await x.sleep(10)
        assert servers_of(session)[leader].role == LEADER
        assert servers_of(session)[leader].current_term == term
        assert servers_of(session)[removed].current_term > term  # it has tried

    session.perform(experiment)


def test_a_server_that_does_not_catch_up_is_not_added() -> None:
    session = session_of(servers=3, spares=1)

    async def experiment(x: Experimenter) -> Any:
        leader = await leader_of(x, session)
        await x.control.crash("server-3")
        (refusal,) = await settle(x.at(leader, Raft).add_server("server-3"))
        await x.client.put("a", 1)
        return refusal, servers_of(session)[leader].log.members

    refusal, members = session.perform(experiment)
    assert isinstance(refusal, Refused)
    assert members == ("server-0", "server-1", "server-2")


@pytest.mark.parametrize("servers", [2, 3, 4])
def test_while_the_cluster_changes_nothing_is_violated(servers: int) -> None:
    for snapshot_every in (5, 1000):
        found = chaos.search(
            chaos.reconfigure, range(6), servers=servers, spares=2, snapshot_every=snapshot_every, chunk=100
        )
        assert found is None
