"""A chunk store: what its master promises, what a crash costs, and where chunks go."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.chunk_store import ChunkClient, ChunkServer, ChunkStore, Master, Unavailable
from polyarch.blocks.placement import Placement, Policy
from polyarch.core import Failure, Random, System, settle
from polyarch.experiment.run import Question, run
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


@pytest.mark.parametrize("seed", range(3))
def test_histories_are_linearizable_under_faults(seed: int) -> None:
    faults = ["crash:server-1@1-2", "crash:server-5@1.5-3", "crash:master-0@2-2.5", "loss:5%@3-4"]
    record = run(Question(ChunkStore(), Kv(keys=5, swaps=0.3), seed=seed, duration=5.0, faults=faults))
    assert record.holds, record.verdicts
    assert record.operations.ok > 250


def test_a_value_survives_all_servers_but_one_and_then_is_refused() -> None:
    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", 1)
        await x.control.crash("server-0")
        await x.control.crash("server-1")
        first = await x.client.get("a")
        await x.control.crash("server-2")
        (gone,) = await settle(x.client.get("a"))
        await x.control.restart("server-0")
        return first, gone, await x.client.get("a")

    first, gone, back = SimSession(ChunkStore(nodes=3)).perform(experiment)
    assert (first, back) == (1, 1)
    assert isinstance(gone, Failure)
    assert gone.code == Unavailable.code


def read_then_crash(*, sync_before_answer: bool) -> tuple[Any, Any]:
    """What is read of a write that is on its way to the master's disk; and after a crash of the master."""
    system = System()
    servers = system.addresses("server", 3)
    master = Master(servers=servers, sync_before_answer=sync_before_answer)
    system.role("master", master)
    system.role("server", ChunkServer(), count=3)
    system.clients(ChunkClient(master=master, servers=servers))

    async def experiment(x: Experimenter) -> tuple[Any, Any]:
        (chunk,) = await x.at("master-0", Master).allot(1)
        for server in servers:
            await x.at(server, ChunkServer).write(chunk.id, 7)
        x.spawn(settle(x.at("master-0", Master).assign("a", chunk, None)))
        (seen,) = await settle(x.at("master-0", Master, timeout=0.0015).locate("a"))
        await x.control.crash("master-0")
        await x.control.restart("master-0")
        return seen == chunk, await x.client.get("a")

    return SimSession(system, disk_sync=0.002).perform(experiment)


def test_nobody_is_told_what_a_crash_takes_back() -> None:
    assert read_then_crash(sync_before_answer=True) == (False, None)
    assert read_then_crash(sync_before_answer=False) == (True, None)


@pytest.mark.parametrize("policy", ["random", "copysets"])
def test_a_chunk_has_as_many_different_servers_as_it_should(policy: Policy) -> None:
    placement = Placement(policy, 10, 3, Random(1))
    chosen = [placement.choose() for _ in range(2000)]
    assert all(len(set(servers)) == 3 for servers in chosen)
    assert {server for servers in chosen for server in servers} == set(range(10))


@pytest.mark.parametrize(("width", "sets"), [(2, 3), (4, 6), (5, 9)])
def test_copysets_are_few(width: int, sets: int) -> None:
    placement = Placement("copysets", 9, 3, Random(2), scatter_width=width)
    found = {placement.choose() for _ in range(3000)}
    assert len(found) <= sets
    assert len({tuple(sorted(Placement("random", 9, 3, Random(i)).choose())) for i in range(3000)}) == 84


def test_more_replicas_than_servers_are_refused() -> None:
    with pytest.raises(ValueError, match="only 2 servers"):
        ChunkStore(nodes=2).build(System())
