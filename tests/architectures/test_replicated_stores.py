"""What every replicated key-value store does, whatever the protocol."""

from __future__ import annotations

from typing import Any

import pytest
from kv_chaos import nodes_of, session_of

from polyarch.architectures.chain import Chain
from polyarch.architectures.multi_paxos import MultiPaxos
from polyarch.architectures.paxos import Paxos
from polyarch.architectures.primary_backup import PrimaryBackup
from polyarch.architectures.quorum import Quorum
from polyarch.architectures.raft import RaftStore
from polyarch.core import Architecture
from polyarch.runtimes.base import Experimenter

ANY_SIZE = [
    *(kind(servers=size) for kind in (MultiPaxos, Paxos, RaftStore) for size in (1, 2, 3, 4, 7)),
    *(kind(servers=size) for kind in (Chain, PrimaryBackup) for size in (1, 2, 3, 5)),
    Quorum(servers=1, n=1, r=1, w=1),
    Quorum(servers=3, n=3, r=3, w=1),
    Quorum(servers=3, n=3, r=1, w=3),
    Quorum(servers=7, n=5, r=3, w=3),
]


@pytest.mark.parametrize("architecture", ANY_SIZE, ids=lambda a: f"{a.name}-{a.servers}")
def test_any_number_of_servers_answers(architecture: Architecture) -> None:
    async def experiment(x: Experimenter) -> Any:
        await x.client.put("a", 1)
        swapped = [await x.client.compare_and_set("a", 1, 2) for _ in range(2)]
        return await x.client.get("a"), await x.client.get("b"), swapped

    assert session_of(architecture).perform(experiment) == (2, None, [True, False])


@pytest.mark.parametrize("kind", [MultiPaxos, Quorum])
def test_what_is_acknowledged_is_on_disk(kind: type[Architecture]) -> None:
    def all_crash(without: str = "") -> Any:
        session = session_of(kind(without=without), seed=1)

        async def experiment(x: Experimenter) -> Any:
            await x.client.put("a", 1)
            names = list(nodes_of(session))
            for name in names:
                await x.control.crash(name)
            for name in names:
                await x.control.restart(name)
            return await x.client.get("a")

        return session.perform(experiment)

    assert all_crash() == 1
    assert all_crash(without="sync_before_answer") is None
