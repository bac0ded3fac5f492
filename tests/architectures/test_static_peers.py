"""Static peers: one hop, no upkeep, and the dead are found out by whoever asks them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from overlay_answers import wrong

from polyarch.architectures.static_peers import StaticPeer, StaticPeers
from polyarch.core import BadArguments, Failure, settle
from polyarch.jobs.lookup import Holder
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Network, Regional
from polyarch.runtimes.sim.session import SimSession

KEYS = tuple(f"key-{i}" for i in range(300))


async def ask_all(x: Experimenter) -> list[Holder | Failure]:
    return await settle(*(x.client.lookup(key) for key in KEYS))


@pytest.mark.parametrize("nodes", [1, 2, 3, 40])
def test_every_answer_is_right_at_one_hop(nodes: int) -> None:
    session = SimSession(StaticPeers(nodes=nodes), seed=nodes)
    answers = session.perform(ask_all)
    assert not wrong(list(zip(KEYS, answers)), [f"peer-{i}" for i in range(nodes)])
    hops = sum(a.hops for a in answers if isinstance(a, Holder)) / len(KEYS)
    assert hops == pytest.approx(1 - 1 / nodes, abs=0.1)


def test_the_next_one_answers_for_the_dead_until_they_are_back() -> None:
    session = SimSession(StaticPeers(nodes=40), seed=1)
    everybody = [f"peer-{i}" for i in range(40)]

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
        for i in range(10):
            await x.control.crash(f"peer-{i}")
        without = await ask_all(x)
        for i in range(10):
            await x.control.restart(f"peer-{i}")
        await x.sleep(2.1)
        return without, await ask_all(x)

    without, again = session.perform(experiment)
    assert not wrong(list(zip(KEYS, without)), everybody[10:])
    assert sum(a.timeouts for a in without) > 0
    assert not wrong(list(zip(KEYS, again)), everybody)


def test_who_did_not_answer_is_left_alone_for_a_while() -> None:
    def timeouts(shun: float) -> int:
        session = SimSession(StaticPeers(nodes=10, shun=shun), seed=1)

        async def experiment(x: Experimenter) -> int:
            await x.control.crash("peer-3")
            answers = [a for _ in range(3) for a in await ask_all(x)]
            return sum(a.timeouts for a in answers if isinstance(a, Holder))

        return session.perform(experiment)

    # All of the first 300 are asked at once: nobody knows yet.  Of those that follow, nobody asks the dead.
    assert 0 < timeouts(60.0) < timeouts(0.0) / 2


def test_who_has_left_answers_no_more() -> None:
    session = SimSession(StaticPeers(nodes=10), seed=1)

    async def experiment(x: Experimenter) -> list[Any]:
        await x.at("peer-3", StaticPeer).leave()
        return await ask_all(x)

    assert not wrong(list(zip(KEYS, session.perform(experiment))), [f"peer-{i}" for i in range(10) if i != 3])


def test_every_peer_knows_all_others_and_says_nothing_unasked() -> None:
    architecture = StaticPeers(nodes=50)
    session = SimSession(architecture, seed=1)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        await ask_all(x)
        return (await architecture.observe(x))[0]

    metrics = session.perform(experiment)
    assert metrics["links"] == 49
    assert metrics["upkeep"] == 0
    assert metrics["success"] == 1


def test_peers_of_one_role_are_spread_over_all_regions() -> None:
    session = SimSession(StaticPeers(nodes=20), network=Network(latency=Regional()))
    regions = [session.kernel.processes[f"peer-{i}"].region for i in range(20)]
    assert regions == [*range(10), *range(10)]


def test_bad_questions_get_clear_answers() -> None:
    session = SimSession(StaticPeers(nodes=4))

    async def ask(x: Experimenter, key: int) -> Any:
        return await x.client.lookup(key)

    for key in (1 << 32, -1):
        with pytest.raises(BadArguments, match="is not of 32 bits"):
            session.perform(partial(ask, key=key))
    with pytest.raises(ValueError, match="two of 300 nodes have the same identifier"):
        SimSession(StaticPeers(nodes=300, bits=8))

    async def nobody_left(x: Experimenter) -> Any:
        for i in range(4):
            await x.control.crash(f"peer-{i}")
        return await settle(x.client.lookup("a"))

    (answer,) = session.perform(nobody_left)
    assert isinstance(answer, Failure)
