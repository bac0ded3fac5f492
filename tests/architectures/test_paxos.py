"""Paxos: only a single value is chosen, under faults; and what happens without each safeguard."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import chaos, cut, live_kill, nodes_of, session_of

from polyarch.architectures.paxos import Ballot, Choice, Decree, Paxos, Server, Vote
from polyarch.blocks.replicas import Command
from polyarch.core import Failure, settle
from polyarch.runtimes.base import Experimenter


def contradictions(architecture: Paxos, nodes: dict[str, Any]) -> list[str]:
    return list(architecture.invariants(nodes, {}))


@pytest.mark.parametrize("seed", range(8))
def test_under_faults_one_value_is_chosen_and_the_history_is_linearizable(seed: int) -> None:
    wreckage = chaos(Paxos(), seed=seed, most=3)
    assert wreckage.violations == []
    assert wreckage.ok > 100


def test_a_run_can_be_repeated_exactly() -> None:
    a, b = (chaos(Paxos(), seed=3, seconds=3, most=3).trace_hash for _ in range(2))
    assert a == b


@pytest.mark.local
def test_live_servers_survive_the_kills_of_two() -> None:
    ok, verdicts = live_kill(Paxos(), ["server-0", "server-1"])
    assert ok > 200
    assert [v for v in verdicts if not v.holds] == []


def test_the_crash_of_a_server_interrupts_nobody_who_asks_another() -> None:
    session = session_of(Paxos())

    async def experiment(x: Experimenter) -> float:
        await x.client.put("a", 1)
        await x.control.crash("server-4")
        begin = x.now
        await x.client.put("a", 2)
        return x.now - begin

    assert session.perform(experiment) < 0.05


def test_without_a_majority_nothing_is_chosen() -> None:
    session = session_of(Paxos(servers=3))

    async def experiment(x: Experimenter) -> Any:
        for name in ("server-1", "server-2"):
            await x.control.crash(name)
        return await settle(x.client.put("a", 1), x.client.get("a"))

    assert all(isinstance(outcome, Failure) for outcome in session.perform(experiment))


def test_proposers_at_the_same_time_agree() -> None:
    """Section 2.4: they may supersede each other, but not for ever."""
    session = session_of(Paxos())

    async def experiment(x: Experimenter) -> None:
        swap = "compare_and_set"
        swaps = [Command(i, 0, 0, swap, "a", i, None) for i in range(5)]
        asked = (x.at(f"server-{i}", Server, timeout=5).submit(c) for i, c in enumerate(swaps))
        assert sorted(await settle(*asked)) == [False, False, False, False, True]

    session.perform(experiment)


def test_a_server_that_was_away_learns_what_it_has_missed_from_one_promise() -> None:
    session = session_of(Paxos())

    async def experiment(x: Experimenter) -> None:
        await x.control.crash("server-4")
        for i in range(100):
            await x.client.put("a", i)
        await x.control.restart("server-4")
        before = (await x.control.traffic()).by_method["prepare"]
        assert await x.at("server-4", Server).read("a") == 99
        assert (await x.control.traffic()).by_method["prepare"] - before <= 16  # two attempts

    session.perform(experiment)


# -- safeguards, removed one by one ----------------------------------------------------------------------


def two_proposers(without: str = "") -> set[str]:
    """Two proposers hold promises of the same two acceptors, which restart; then both ask them to accept.
    The values that a majority has accepted in one ballot."""
    session = session_of(Paxos(servers=3, without=without))
    decree, old, new = Decree("a", 1), Ballot(1, "old"), Ballot(2, "new")

    async def experiment(x: Experimenter) -> set[str]:
        acceptors = [x.at(f"server-{i}", Server) for i in (0, 1)]
        for ballot in (old, new):
            for acceptor in acceptors:
                assert (await acceptor.prepare(decree, ballot)).vote.promised == ballot
        for i in (0, 1):
            await x.control.crash(f"server-{i}")
            await x.control.restart(f"server-{i}")
        chosen = set()
        for ballot in (old, new):
            accept = (a.accept(decree, ballot, Choice(ballot.proposer, 1, ())) for a in acceptors)
            if all(answer == ballot for answer in await settle(*accept)):
                chosen.add(ballot.proposer)
        return chosen

    return session.perform(experiment)


def test_a_promise_survives_a_restart() -> None:
    assert two_proposers() == {"new"}
    assert two_proposers(without="promise_on_disk") == {"old", "new"}


def after_a_choice(without: str = "") -> list[str]:
    """A value is chosen, but whoever chose it is cut off before the others learn of it; another proposes."""

    class Silent(Server):
        def inform(self, decree: Decree, choice: Choice) -> None:
            pass

    architecture = Paxos(servers=3, without=without)
    session = session_of(architecture, Silent)

    async def experiment(x: Experimenter) -> list[str]:
        await x.control.disturb(["server-0"], ["server-2"], loss=1.0)
        write = x.spawn(x.at("server-0", Server).submit(Command(1, 0, 0, "put", "a", "first")))
        while not nodes_of(session)["server-0"].chosen:
            await x.sleep(0.0001)
        await cut(x, ["server-0"], ["server-1", "server-2"])
        await settle(write)
        await settle(x.at("server-1", Server, timeout=3).submit(Command(2, 0, 0, "put", "a", "second")))
        return contradictions(architecture, nodes_of(session))

    return session.perform(experiment)


def test_a_proposer_adopts_the_newest_value_that_was_accepted() -> None:
    assert after_a_choice() == []
    assert after_a_choice(without="adopt_newest") != []


def test_it_adopts_the_newest_and_not_any() -> None:
    votes = [
        Vote(Ballot(9, ""), Ballot(2, "b"), Choice("b", 1, ())),
        Vote(Ballot(9, ""), Ballot(3, "a"), Choice("a", 1, ())),
        Vote(Ballot(9, ""), None, None),
    ]
    assert Server(servers=()).may_propose(votes, Choice("me", 1, ())).proposer == "a"


def test_less_than_a_majority_chooses_two_values() -> None:
    def split(without: str = "") -> list[str]:
        architecture = Paxos(servers=4, without=without)
        session = session_of(architecture)

        async def experiment(x: Experimenter) -> list[str]:
            await cut(x, ["server-0", "server-1"], ["server-2", "server-3"])
            writes = [Command(i, 0, 0, "put", "a", i) for i in (0, 3)]
            await settle(*(x.at(f"server-{c.client}", Server).submit(c) for c in writes))
            return contradictions(architecture, nodes_of(session))

        return session.perform(experiment)

    assert split() == []
    assert split(without="majority") != []


def test_what_is_accepted_is_on_disk() -> None:
    def all_crash(without: str = "") -> Any:
        session = session_of(Paxos(without=without))

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", 1)
            for node in nodes_of(session).values():
                node.disk.truncate("chosen", 0)  # what was learned is no excuse: the votes must be there
            names = list(nodes_of(session))
            for name in names:
                await x.control.crash(name)
            for name in names:
                await x.control.restart(name)
            return await x.client.get("a")

        return session.perform(experiment)

    assert all_crash() == 1
    assert all_crash(without="sync_before_answer") is None
