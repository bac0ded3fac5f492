"""Quorum replication: what N, R and W promise, how replicas become equal; and what happens without that."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import chaos, cut, live_kill, nodes_of, session_of

from polyarch.architectures.quorum import Quorum, QuorumClient, Server
from polyarch.blocks.versions import Version
from polyarch.core import Failure, settle
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

AGREE = "all replicas agree when it is quiet"


@pytest.mark.parametrize("seed", range(10))
def test_strict_quorums_under_faults_give_no_stale_read_and_lose_nothing(seed: int) -> None:
    architecture = Quorum()
    assert architecture.disclaims == (LINEARIZABLE,)
    wreckage = chaos(architecture, seed=seed)
    assert wreckage.violations == []
    assert wreckage.ok > 200


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "values",
    [{"r": 1, "w": 1}, {"sloppy": True}, {"versions": "last-writer-wins"}, {"routing": "server"}],
    ids=str,
)
def test_under_faults_all_replicas_agree_in_the_end_and_no_write_is_lost(
    seed: int, values: dict[str, Any]
) -> None:
    wreckage = chaos(Quorum(**values), seed=seed)
    assert not wreckage.fails(AGREE)
    assert not wreckage.fails(NOTHING_LOST)  # as the clocks agree
    assert wreckage.violations == []


def test_a_run_can_be_repeated_exactly() -> None:
    a, b = (chaos(Quorum(), seed=3, seconds=3).trace_hash for _ in range(2))
    assert a == b


@pytest.mark.local
def test_live_servers_survive_the_kills_of_two() -> None:
    ok, verdicts = live_kill(Quorum(), ["server-0", "server-1"])
    assert ok > 300
    assert [v for v in verdicts if not v.holds and v.name != LINEARIZABLE] == []


@pytest.mark.parametrize("wrong", [{"r": 4}, {"w": 4}, {"n": 6}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at most N"):
        Quorum(**wrong)


def test_the_client_that_finds_a_home_itself_saves_a_step() -> None:
    """Section 6.4, table 2."""

    def latency(routing: str) -> float:
        network = Network(latency=Constant(0.010))
        session = SimSession(Quorum(servers=9, routing=routing), seed=1, network=network, disk_sync=0.0)

        async def experiment(x: Experimenter) -> float:
            begin = x.now
            for i in range(50):
                await x.client.get(f"key-{i}")
            return (x.now - begin) / 50

        return session.perform(experiment)

    # To the client's node and back, to the coordinator, and to another home: 60 ms.
    assert latency("client") == pytest.approx(0.060, abs=0.001)
    assert 0.065 < latency("server") < 0.080  # two thirds of the servers are no homes


# -- which version is newer ------------------------------------------------------------------------------


def two_at_the_same_time(versions: str) -> list[Version]:
    """Two clients write without knowledge of each other: what a home holds then."""
    session = session_of(Quorum(servers=3, versions=versions), seed=1)

    async def experiment(x: Experimenter) -> Any:
        await settle(*(x.at(f"server-{i}", Server).put("a", i, ()) for i in range(3)))
        await x.sleep(2)
        held = [node.data["a"] for node in nodes_of(session).values()]
        assert held[0] == held[1] == held[2]
        assert await x.client.get("a") == held[0][-1].value
        await x.client.put("a", "merged")
        await x.sleep(2)
        assert [v.value for v in nodes_of(session)["server-0"].data["a"]] == ["merged"]
        return held[0]

    return session.perform(experiment)


def test_versions_without_knowledge_of_each_other_are_siblings_until_a_client_merges_them() -> None:
    assert len(two_at_the_same_time("vectors")) == 3
    assert len(two_at_the_same_time("last-writer-wins")) == 1


def skewed(versions: str) -> Any:
    """One server's clock is ahead; it coordinates a write, and then another server does."""
    session = session_of(Quorum(servers=3, versions=versions), seed=1)

    async def experiment(x: Experimenter) -> Any:
        await x.control.skew("server-0", offset=10.0)
        client = QuorumClient.value
        for server, value in (("server-0", "first"), ("server-1", "second")):
            seen = await x.at(server, Server).get("a")
            await x.at(server, Server).put("a", value, seen[0].vector if seen else ())
        return client(None, await x.at("server-2", Server).get("a"))  # type: ignore[arg-type]

    return session.perform(experiment)


def test_last_writer_wins_loses_a_write_when_clocks_disagree_and_vectors_do_not() -> None:
    assert skewed("vectors") == "second"
    assert skewed("last-writer-wins") == "first"
    assert NOTHING_LOST in Quorum(versions="last-writer-wins").disclaims


# -- what makes replicas equal, one by one -----------------------------------------------------------------


def test_a_read_repairs_what_it_finds_out_of_date() -> None:
    def repaired(read_repair: bool) -> bool:
        session = session_of(Quorum(servers=3, r=3, w=1, read_repair=read_repair, anti_entropy=0), seed=1)

        async def experiment(x: Experimenter) -> bool:
            await x.client.put("a", 1)
            await x.sleep(1)
            stale = nodes_of(session)["server-2"]
            stale.data.clear()
            assert await x.client.get("a") == 1
            await x.sleep(1)
            return "a" in stale.data

        return session.perform(experiment)

    assert repaired(True)
    assert not repaired(False)


def test_a_write_for_a_home_that_is_away_is_handed_off_when_it_is_back() -> None:
    session = session_of(Quorum(servers=4, sloppy=True), seed=1)

    async def experiment(x: Experimenter) -> None:
        away = nodes_of(session)["server-0"].homes("a")[0]
        await x.control.crash(away)
        await x.client.put("a", 1)
        await x.sleep(0.5)
        assert sum(len(node.hints) for node in nodes_of(session).values()) == 1
        await x.control.restart(away)
        await x.sleep(0.5)
        assert [v.value for v in nodes_of(session)[away].data["a"]] == [1]
        assert sum(len(node.hints) for node in nodes_of(session).values()) == 0

    session.perform(experiment)


def test_anti_entropy_compares_trees_and_sends_only_what_differs() -> None:
    session = session_of(Quorum(servers=3, anti_entropy=0.2), seed=1)

    async def experiment(x: Experimenter) -> None:
        for i in range(50):
            await x.client.put(f"key-{i}", i)
        await x.sleep(1)
        stores = (await x.control.traffic()).by_method["store"]
        lost = nodes_of(session)["server-2"]
        del lost.data["key-7"]
        await x.sleep(2)
        assert "key-7" in lost.data
        assert (await x.control.traffic()).by_method["store"] - stores <= 2

    session.perform(experiment)


@pytest.mark.parametrize("sloppy", [False, True])
def test_a_partition_stops_the_smaller_side_of_strict_quorums_but_not_of_sloppy_ones(sloppy: bool) -> None:
    architecture = Quorum(servers=5, n=5, r=3, w=3) if not sloppy else Quorum(servers=5, sloppy=True)
    session = session_of(architecture, seed=1)
    small, large = ["server-0", "server-1"], ["server-2", "server-3", "server-4"]

    async def experiment(x: Experimenter) -> None:
        await cut(x, small, large)
        for side, served in ((small, sloppy), (large, True)):
            outcomes = []
            for i in range(10):
                server = x.at(side[i % 2], Server, timeout=3)
                outcomes += await settle(server.put(f"key-{i}", side[0], ()), server.get(f"key-{i}"))
            assert [isinstance(outcome, Failure) for outcome in outcomes] == [not served] * 20
        await x.control.heal()
        (agree,) = (await architecture.observe(x))[1]
        assert agree.holds, agree.detail

    session.perform(experiment)


# -- safeguards, removed one by one ----------------------------------------------------------------------


def test_quorums_that_need_not_meet_give_stale_reads() -> None:
    """R + W > N is the safeguard."""
    assert any(chaos(Quorum(without="quorums_meet"), seed=seed).fails(FRESH) for seed in range(8))
    assert any(chaos(Quorum(r=1, w=1), seed=seed).fails(FRESH) for seed in range(8))
    assert FRESH in Quorum(r=1, w=1).disclaims


def test_sloppy_quorums_give_stale_reads() -> None:

    def read_on_the_other_side(sloppy: bool) -> Any:
        """A write on one side of a partition is answered; what does a read on the other side say?"""
        session = session_of(Quorum(servers=4, sloppy=sloppy), seed=1)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", "old")
            a, b, c, other = nodes_of(session)["server-0"].ring.walk("a")
            await cut(x, [a, other], [b, c])
            (written,) = await settle(x.at(a, Server, timeout=3).put("a", "new", ()))
            read = await x.at(b, Server, timeout=3).get("a")
            return isinstance(written, Failure), [v.value for v in read]

        return session.perform(experiment)

    assert read_on_the_other_side(False) == (True, ["old"])
    assert read_on_the_other_side(True) == (False, ["old"])
    assert FRESH in Quorum(sloppy=True).disclaims


def test_a_writers_count_never_comes_twice() -> None:
    """A home that restarts begins to count again: its old and its new versions must not look alike."""

    def replaced(without: str = "") -> Any:
        session = session_of(Quorum(servers=3, w=2, r=2, without=without), seed=1)

        async def experiment(x: Experimenter) -> Any:
            for i in range(3):
                await x.at("server-0", Server).put(f"key-{i}", "old", ())
            await x.control.crash("server-0")
            await x.control.restart("server-0")
            seen = await x.at("server-0", Server).get("key-2")
            await x.at("server-0", Server).put("key-2", "new", seen[0].vector)
            return [v.value for v in await x.at("server-1", Server).get("key-2")]

        return session.perform(experiment)

    assert replaced() == ["new"]
    assert replaced(without="new_writer_each_life") != ["new"]


def test_a_write_that_may_have_happened_is_not_sent_again() -> None:
    """Its first copy would be another version, and come back after the second was replaced."""

    def sent(without: str = "") -> int:
        session = session_of(Quorum(servers=3, versions="last-writer-wins", without=without), seed=1)

        async def experiment(x: Experimenter) -> int:
            await cut(x, ["server-0"], ["server-1", "server-2"])
            await cut(x, ["server-1"], ["server-2"])
            await settle(x.client.put("a", 1))
            return len({v for node in nodes_of(session).values() for v in node.data.get("a", ())})

        return session.perform(experiment)

    assert sent() == 1
    assert sent(without="write_once") > 1


# -- probabilistically bounded staleness -------------------------------------------------------------------


@pytest.mark.parametrize(("r", "w", "expected"), [(1, 1, 1 / 3), (1, 2, 2 / 3), (2, 1, 2 / 3), (2, 2, 1.0)])
def test_how_often_a_random_quorum_meets_the_last_write(r: int, w: int, expected: float) -> None:
    """Bailis et al., section 3: 1 - C(N-W, R) / C(N, R), with quorums that do not expand."""
    session = session_of(Quorum(servers=3, r=r, w=w, expanding=False, versions="last-writer-wins"), seed=5)

    async def experiment(x: Experimenter) -> float:
        hits, trials = 0, 600
        for i in range(trials):
            await x.client.put("a", i)
            hits += await x.client.get("a") == i
        return hits / trials

    share = session.perform(experiment)
    assert share == pytest.approx(expected, abs=0.0 if expected == 1 else 0.06)
