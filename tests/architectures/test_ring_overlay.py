"""A ring: right answers after a long way, and repair from the successor list."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from overlay_answers import lookups, wrong

from polyarch.architectures.ring_overlay import RingOverlay, RingPeer
from polyarch.blocks.ring import identifier
from polyarch.core import BadArguments
from polyarch.jobs.lookup import Holder
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


def state(session: SimSession) -> dict[str, Any]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: (n.predecessor, n.successors) for a, n in nodes.items() if isinstance(n, RingPeer)}


def names(count: int) -> list[str]:
    return [f"peer-{i}" for i in range(count)]


@pytest.mark.parametrize("nodes", [1, 2, 3, 9, 60])
def test_joining_and_building_directly_end_in_the_same_state(nodes: int) -> None:
    architecture = RingOverlay(nodes=nodes)
    joined = SimSession(architecture, seed=nodes)

    async def form(x: Experimenter) -> Any:
        await architecture.ready(x)
        await x.sleep(5)
        return await lookups(x, 100)

    assert not wrong(joined.perform(form), names(nodes))
    assert state(joined) == state(SimSession(RingOverlay(nodes=nodes, formation="converged")))


@pytest.mark.parametrize(("ways", "share"), [("one", 1 / 2), ("both", 1 / 4)])
def test_the_way_is_a_half_or_a_quarter_of_the_ring(ways: str, share: float) -> None:
    session = SimSession(RingOverlay(nodes=100, formation="converged", ways=ways, stabilize=0))
    answers = session.perform(lambda x: lookups(x, 400))
    assert not wrong(answers, names(100))
    hops = [a.hops for _, a in answers if isinstance(a, Holder)]
    # The distance is uniform: its deviation is 1/sqrt(12) of the range, over sqrt(400) lookups.
    assert sum(hops) / len(hops) == pytest.approx(share * 100, abs=3.3 * 2 * share * 100 / 12**0.5 / 400**0.5)


def crash_some(neighbours: int, ways: str) -> list[Any]:
    """The wrong answers right after every third of 60 peers has crashed, without any upkeep."""
    architecture = RingOverlay(nodes=60, formation="converged", neighbours=neighbours, stabilize=0, ways=ways)
    session = SimSession(architecture, seed=2)
    dead = names(60)[::3]

    async def experiment(x: Experimenter) -> list[Any]:
        for name in dead:
            await x.control.crash(name)
        return wrong(await lookups(x, 100), [n for n in names(60) if n not in dead])

    return session.perform(experiment)


@pytest.mark.parametrize("ways", ["one", "both"])
def test_the_successor_list_bridges_the_dead(ways: str) -> None:
    assert not crash_some(8, ways)


def test_without_a_successor_list_the_ring_breaks() -> None:
    assert crash_some(1, "one")


@pytest.mark.parametrize("seed", range(3))
def test_the_ring_heals_after_crashes_leaves_and_restarts(seed: int) -> None:
    architecture = RingOverlay(nodes=30, formation="converged")
    session = SimSession(architecture, seed=seed)

    async def experiment(x: Experimenter) -> list[Any]:
        victims = x.random.sample(names(30), 8)
        for name in victims[:6]:
            await x.control.crash(name)
            await x.sleep(0.3)
        for name in victims[6:]:
            await x.at(name, RingPeer).leave()
        await x.sleep(3)
        answers = wrong(await lookups(x, 60), [n for n in names(30) if n not in victims])
        for name in victims[:6]:
            await x.control.restart(name)
        await x.sleep(4)
        return answers + wrong(await lookups(x, 60), [n for n in names(30) if n not in victims[6:]])

    assert not session.perform(experiment)
    assert not session.kernel.bugs


def test_who_leaves_tells_both_neighbours() -> None:
    session = SimSession(RingOverlay(nodes=20, formation="converged", stabilize=0))
    ring = sorted(names(20), key=lambda a: identifier(a, 32))

    async def experiment(x: Experimenter) -> list[Any]:
        await x.at(ring[3], RingPeer).leave()
        return [await x.at(ring[2], RingPeer).neighbours(), await x.at(ring[4], RingPeer).neighbours()]

    before, after = session.perform(experiment)
    assert before.successors[0].address == ring[4]
    assert after.predecessor.address == ring[2]


@pytest.mark.local
def test_live_peers_answer_while_some_are_killed() -> None:
    architecture = RingOverlay(nodes=8)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[Any]:
            await architecture.ready(x)
            answers: list[Any] = []
            for i in (2, 7):
                await x.control.crash(f"peer-{i}")
            alive = [n for i, n in enumerate(names(8)) if i not in (2, 7)]
            for _ in range(20):  # a busy machine may be late: right in the end
                answers = wrong(await lookups(x, 100), alive)
                if not answers:
                    break
                await x.sleep(0.5)
            return answers

        assert not session.perform(experiment)


def test_bad_questions_get_clear_answers() -> None:
    session = SimSession(RingOverlay(nodes=4, formation="converged"))

    async def ask(x: Experimenter, key: int) -> Any:
        return await x.client.lookup(key)

    for key in (1 << 32, -1):
        with pytest.raises(BadArguments, match="is not of 32 bits"):
            session.perform(partial(ask, key=key))
    with pytest.raises(ValueError, match="two of 300 nodes have the same identifier"):
        SimSession(RingOverlay(nodes=300, bits=8))
    with pytest.raises(ValueError, match="--formation converged needs none"):
        SimSession(RingOverlay(stabilize=0))
