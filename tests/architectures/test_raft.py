"""Raft: what figure 3 of the paper promises, under faults; and what happens without each safeguard."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.raft import LEADER, Appended, Entry, Raft, RaftStore, Vote
from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, StateMachine
from polyarch.core import Done, Failure, Random, Refused, System, Timeout, settle
from polyarch.jobs.kv import Kv
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Exponential, Network
from polyarch.runtimes.sim.session import SimSession


def session_of(server: type[Raft] = Raft, *, servers: int = 5, seed: int = 0, **config: Any) -> SimSession:
    """A session of RaftStore with another class of servers."""
    system = System()
    addresses = system.addresses("server", servers)
    system.role("server", server(servers=addresses, **config), count=servers)
    system.clients(LeaderClient(servers=addresses))
    return SimSession(system, seed=seed, network=Network(latency=Exponential(0.002, 0.0005)))


def servers_of(session: SimSession) -> dict[str, Raft]:
    return {a: env.node for a, env in session.kernel.directory.items() if isinstance(env.node, Raft)}


async def leader_of(x: Experimenter, session: SimSession, beside: str = "") -> str:
    """The address of a leader (another than ``beside``) that knows that it leads."""
    while True:
        for address, node in servers_of(session).items():
            committed = node.log[node.commit_index].term == node.current_term
            if node.role == LEADER and committed and address != beside:
                return address
        await x.sleep(0.02)


class Invariants:
    """Figure 3, looked at again and again during a run."""

    def __init__(self, session: SimSession) -> None:
        self.session = session
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, Entry] = {}
        self.violations: list[str] = []

    async def watch(self, x: Experimenter) -> None:
        while True:
            self.look()
            await x.sleep(0.005)

    def look(self) -> None:
        nodes = servers_of(self.session)
        for address, node in nodes.items():
            if node.role == LEADER and self.leaders.setdefault(node.current_term, address) != address:
                self.violations.append(f"election safety: two leaders in term {node.current_term}")
            for index in range(max(1, node.commit_index - 50), node.commit_index + 1):
                if self.committed.setdefault(index, node.log[index]) != node.log[index]:
                    self.violations.append(f"state machine safety: {address} has another entry {index}")

    def compare_logs(self) -> None:
        logs = [node.log for node in servers_of(self.session).values()]
        for a in logs:
            for b in logs:
                same = [i for i in range(min(len(a), len(b))) if a[i].term == b[i].term]
                if same and a[: same[-1] + 1] != b[: same[-1] + 1]:
                    self.violations.append("log matching: equal terms, but other entries before")


async def load(x: Experimenter, job: Kv, clients: int, until: float) -> list[Done]:
    visits, history = job.visits(x.random.fork("load")), []

    async def client(number: int) -> None:
        while x.now < until:
            (operation,), start = next(visits), x.now
            value, outcome = None, "ok"
            try:
                value = await getattr(x.client, operation.name)(*operation.arguments)
            except Failure as failure:
                outcome = "fail" if failure.definite else "info"
            history.append(
                Done(number, operation.name, operation.arguments, start, start, x.now, outcome, value)
            )

    await settle(*map(client, range(clients)))
    return history


async def wreck(x: Experimenter, session: SimSession, random: Random, until: float) -> None:
    """Crash, cut off, and disturb, one after another; more than a minority at times."""
    names = list(servers_of(session))
    while x.now < until:
        await x.sleep(random.between(0.1, 0.8))
        victims = random.sample(names, 1 + random.below(3))
        if random.chance(0.5):
            leaders = [a for a, node in servers_of(session).items() if node.role == LEADER]
            victims = list(dict.fromkeys([*leaders, *victims]))[: len(victims)]
        kind = random.below(4)
        if kind == 0:
            for name in victims:
                await x.control.crash(name)
            await x.sleep(random.between(0.0, 0.8))
            for name in victims:
                await x.control.restart(name)
        elif kind == 1:
            others = [n for n in names if n not in victims]
            await x.control.disturb(victims, others, loss=1.0)
            if random.chance(0.7):
                await x.control.disturb(others, victims, loss=1.0)
            await x.sleep(random.between(0.3, 1.5))
            await x.control.heal()
        elif kind == 2:
            await x.control.disturb(None, None, loss=0.1, duplicate=0.1, reorder=0.3)
            await x.sleep(random.between(0.3, 1.0))
            await x.control.heal()
        else:
            await x.control.pause(victims[0])
            await x.sleep(random.between(0.2, 1.0))
            await x.control.resume(victims[0])


def chaos(server: type[Raft], seed: int, seconds: float = 6.0) -> tuple[list[str], list[Done], SimSession]:
    """A run with faults: the violations of all kinds, and the history."""
    session = session_of(server, seed=seed)
    invariants = Invariants(session)
    job = Kv(keys=5, reads=0.4, swaps=0.2)

    async def experiment(x: Experimenter) -> list[Done]:
        watching = x.spawn(invariants.watch(x))
        wrecking = x.spawn(wreck(x, session, Random(seed).fork("wreck"), seconds - 1))
        history = await load(x, job, 6, seconds)
        await wrecking
        watching.cancel()
        return history

    history = session.perform(experiment)
    invariants.compare_logs()
    verdicts = [v.detail for v in job.check(history, None) if not v.holds]
    bugs = [str(bug) for bug in session.kernel.bugs]
    return invariants.violations + verdicts + bugs, history, session


@pytest.mark.parametrize("seed", range(12))
def test_under_faults_the_promises_of_figure_3_hold_and_the_history_is_linearizable(seed: int) -> None:
    violations, history, _ = chaos(Raft, seed)
    assert violations == []
    assert sum(done.outcome == "ok" for done in history) > 500


def test_a_run_can_be_repeated_exactly() -> None:
    first, second = (chaos(Raft, 3, 3.0)[2].kernel.trace_hash for _ in range(2))
    assert first == second


def test_a_leader_crash_loses_no_acknowledged_write() -> None:
    architecture = RaftStore()
    session = SimSession(architecture, seed=4)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        await architecture.ready(x)
        for i in range(30):
            await x.client.put(f"key-{i}", i)
            if i in (10, 20):
                await x.control.crash(await leader_of(x, session))
        return {f"key-{i}": await x.client.get(f"key-{i}") for i in range(30)}

    assert session.perform(experiment) == {f"key-{i}": i for i in range(30)}


@pytest.mark.local
def test_live_servers_survive_the_kill_of_their_leader() -> None:
    architecture, job = RaftStore(election_timeout=0.2), Kv(keys=10)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[Done]:
            await architecture.ready(x)
            loading = x.spawn(load(x, job, 8, x.now + 3.0))
            for _ in range(2):
                await x.sleep(0.8)
                status = await settle(*(x.at(f"server-{i}", Raft).status() for i in range(5)))
                roles = [getattr(s, "role", "dead") for s in status]
                leader = f"server-{roles.index(LEADER)}"
                await x.control.crash(leader)
                await x.sleep(0.8)
                await x.control.restart(leader)
            return await loading

        history = session.perform(experiment)
    assert sum(done.outcome == "ok" for done in history) > 500
    (verdict,) = job.check(history, None)
    assert verdict.holds, verdict.detail


def test_without_a_majority_nothing_is_answered_and_nothing_is_said_to_be_certain() -> None:
    session = session_of(servers=3)

    async def experiment(x: Experimenter) -> list[Any]:
        leader = await leader_of(x, session)
        for name in servers_of(session):
            if name != leader:
                await x.control.crash(name)
        return await settle(x.client.put("a", 1), x.client.get("a"))

    put, get = session.perform(experiment)
    assert isinstance(put, Timeout)  # the leader has it in its log
    assert isinstance(get, Failure)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_any_number_of_servers_elects_a_leader_and_answers(size: int) -> None:
    session = session_of(servers=size)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", 1)
        swapped = [await x.client.compare_and_set("a", 1, 2) for _ in range(2)]
        return await x.client.get("a"), await x.client.get("b"), swapped

    assert session.perform(experiment) == (2, None, [True, False])


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
        assert len(servers_of(session)[behind].log) > 500
        assert sent < 150  # heartbeats of half a second included

    session.perform(experiment)


def test_writes_at_the_same_time_share_messages_and_flushes() -> None:
    session = session_of()

    async def experiment(x: Experimenter) -> float:
        await leader_of(x, session)
        begin, before = x.now, (await x.control.traffic()).by_method["append_entries"]
        await settle(*(x.client.put(f"key-{i}", i) for i in range(1000)))
        assert (await x.control.traffic()).by_method["append_entries"] - before < 200
        return x.now - begin

    assert session.perform(experiment) < 0.2


# -- safeguards, removed one by one ---------------------------------------------------------------------


def vote_after_restart(server: type[Raft]) -> tuple[Vote, Vote, Vote]:
    session = session_of(server, servers=3)

    async def experiment(x: Experimenter) -> tuple[Vote, Vote, Vote]:
        voter = x.at("server-0", Raft)
        first = await voter.request_vote(99, "server-1", 1000, 99)
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        rival = await voter.request_vote(99, "server-2", 1000, 99)
        return first, rival, await voter.request_vote(99, "server-1", 1000, 99)

    return session.perform(experiment)


def test_a_vote_survives_a_restart() -> None:
    class Forgetful(Raft):
        def write_ballot(self) -> None:
            pass

    assert [v.granted for v in vote_after_restart(Raft)] == [True, False, True]
    assert vote_after_restart(Forgetful)[1].granted


def all_crash(server: type[Raft]) -> Any:
    session = session_of(server, seed=1)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", 1)
        names = list(servers_of(session))
        for name in names:
            await x.control.crash(name)
        for name in names:
            await x.control.restart(name)
        return await x.client.get("a")

    return session.perform(experiment)


def test_what_is_acknowledged_is_on_disk() -> None:
    class Hasty(Raft):
        async def durable(self) -> None:
            pass

    assert all_crash(Raft) == 1
    assert all_crash(Hasty) is None


def test_only_an_up_to_date_candidate_is_elected() -> None:
    class Generous(Raft):
        def is_up_to_date(self, last_index: int, last_term: int) -> bool:
            return True

    assert any(chaos(Generous, seed)[0] for seed in range(6))


def read_from_a_deposed_leader(server: type[Raft]) -> Any:
    session = session_of(server, seed=2)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", "old")
        old = await leader_of(x, session)
        others = [a for a in servers_of(session) if a != old]
        await x.control.disturb([old], others, loss=1.0)
        await x.control.disturb(others, [old], loss=1.0)
        new = await leader_of(x, session, beside=old)
        write = Command("me", 0, 0, "put", "a", "new")
        await x.at(new, Raft).submit(write)
        return await x.at(old, Raft).read("a")

    return session.perform(experiment)


def test_a_deposed_leader_does_not_answer_reads() -> None:
    class Sure(Raft):
        async def confirm_leadership(self) -> None:
            pass

    with pytest.raises(NotLeader):
        read_from_a_deposed_leader(Raft)
    assert read_from_a_deposed_leader(Sure) == "old"


def same_command_twice(server: type[Raft]) -> list[bool]:
    session = session_of(server)

    async def experiment(x: Experimenter) -> list[bool]:
        command = Command("me", 0, 0, "compare_and_set", "a", 1, None)
        leader = x.at(await leader_of(x, session), Raft)
        return [await leader.submit(command) for _ in range(2)]

    return session.perform(experiment)


def test_a_command_that_is_sent_again_is_executed_once() -> None:
    class Twice(Raft):
        async def start(self) -> None:
            await super().start()
            self.machine.apply = self.machine.execute  # type: ignore[method-assign]

    assert same_command_twice(Raft) == [True, True]
    assert same_command_twice(Twice) == [True, False]


def test_results_are_forgotten_when_the_client_has_them() -> None:
    machine = StateMachine()
    for i in range(100):
        machine.apply(Command("me", i, max(0, i - 3), "put", "a", i))
    assert len(machine.sessions["me"].results) == 4
    machine.apply(Command("me", 5, 2, "put", "a", "again, much too late"))
    assert machine.data["a"] == 99


def figure_8(counting: type[Raft]) -> int:
    """The commit index of a leader of term 4 when an entry of term 2 is on a majority of disks."""

    class Staged(counting):  # type: ignore[misc, valid-type]
        has = 0

        async def start(self) -> None:
            if self.address == "server-0":
                return await super().start()

        async def request_vote(self, term: int, candidate: str, last_index: int, last_term: int) -> Vote:
            return Vote(term, self.address != "server-0" and term >= 4)

        async def append_entries(
            self, term: int, leader: str, prev_index: int, prev_term: int,
            entries: tuple[Entry, ...], leader_commit: int,
        ) -> Appended:  # fmt: skip
            if self.address == "server-0":
                return await super().append_entries(
                    term, leader, prev_index, prev_term, entries, leader_commit
                )
            if any(entry.term == 4 for entry in entries):
                if self.has < 2:
                    return Appended(term, False, 1)  # the leader shall begin with the old entries
                raise Refused("not this one")
            self.has = prev_index + len(entries)
            return Appended(term, True, self.has)

    session = session_of(Staged, servers=3, batch=1)

    async def experiment(x: Experimenter) -> int:
        server = x.at("server-0", Raft)
        old = tuple(Entry(term, Command("me", term, 0, "put", "a", term)) for term in (1, 2))
        await server.append_entries(3, "server-1", 0, 0, old, 0)
        await x.sleep(3)
        node = servers_of(session)["server-0"]
        assert (node.role, node.current_term) == (LEADER, 4)
        assert node.match_index["server-1"] == 2
        return node.commit_index

    return session.perform(experiment)


def test_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    class Eager(Raft):
        def may_count(self, index: int) -> bool:
            return True

    assert figure_8(Raft) == 0
    assert figure_8(Eager) == 2
