"""What each kind of fault does to a system that runs, on every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from polyarch.core import Architecture, Node, System, Timeout, oneway, rpc
from polyarch.core.job import Job
from polyarch.core.randomness import Random
from polyarch.faults.spec import doable, inject, parse
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter

LENGTH = 0.4

runtimes = pytest.mark.parametrize("runtime", ["sim", pytest.param("local", marks=pytest.mark.local)])


class Peer(Node):
    async def start(self) -> None:
        self.heard = 0

    @rpc
    async def links(self) -> int:
        """The second one is the best connected."""
        return int(self.address[-1])

    @rpc
    async def clock(self) -> float:
        return self.now

    @rpc
    async def count(self) -> int:
        return self.heard

    @rpc
    async def reach(self, other: str) -> bool:
        """Whether a request to another and its answer arrive."""
        try:
            await self.at(other, timeout=0.1).count()
        except Timeout:
            return False
        return True

    @rpc
    async def round_trip(self, other: str) -> float:
        begin = self.now
        await self.at(other, timeout=2.0).count()
        return self.now - begin

    @rpc
    async def tell(self, other: str, times: int) -> None:
        for _ in range(times):
            self.at(other).hear()

    @oneway
    def hear(self) -> None:
        self.heard += 1


class Talk(Job):
    """Nothing."""

    name = "talk"
    port = Peer

    def visits(self, random: Random) -> Any:
        return iter(())

    def check(self, history: Sequence[Any], audit: Any) -> list[Any]:
        return []


class Pair(Architecture):
    """Two that talk."""

    family = "none"
    source = "none"
    jobs = (Talk,)

    def build(self, system: System) -> None:
        system.role("peer", Peer(), count=2)
        system.clients(Peer())


def during(runtime: str, text: str, look: Any) -> tuple[Any, Any]:
    """What ``look`` sees while a fault lasts, and after it."""
    system = System()
    Pair().build(system)
    roles = {role.name: role.process_names() for role in system.roles.values()}
    fault = doable(parse(f"{text}@0.05-{0.05 + LENGTH}", roles, Random(1)), system, runtime, 9.0)
    with open_session(runtime, Pair()) as session:

        async def experiment(x: Experimenter) -> tuple[Any, Any]:
            task = x.spawn(inject(x, fault, x.now, x.now + 9.0, system))
            await x.sleep(0.15)
            inside = await look(x)
            await task
            return inside, await look(x)

        return session.perform(experiment)


async def alive(x: Experimenter) -> bool:
    return await answers(x, "peer-0")


async def who_lives(x: Experimenter) -> tuple[bool, bool]:
    return await answers(x, "peer-0"), await answers(x, "peer-1")


async def answers(x: Experimenter, address: str) -> bool:
    try:
        await x.at(address, Peer, timeout=0.1).count()
    except Exception:
        return False
    return True


async def reaches(x: Experimenter) -> tuple[bool, bool]:
    a = await x.at("peer-0", Peer).reach("peer-1")
    return a, await x.at("peer-1", Peer).reach("peer-0")


async def trip(x: Experimenter) -> float:
    return await x.at("peer-0", Peer).round_trip("peer-1")


async def lead(x: Experimenter) -> float:
    return await x.at("peer-1", Peer).clock() - x.now


async def heard(x: Experimenter) -> int:
    before = await x.at("peer-1", Peer).count()
    await x.at("peer-0", Peer).tell("peer-1", 200)
    await x.sleep(0.1)
    return await x.at("peer-1", Peer).count() - before


@runtimes
@pytest.mark.parametrize("kind", ["crash", "pause"])
def test_what_is_crashed_or_paused_does_not_answer_until_it_is_back(runtime, kind):
    assert during(runtime, f"{kind}:peer-0", alive) == (False, True)


@runtimes
def test_an_attack_hits_those_who_know_the_most_others_when_it_begins(runtime):
    inside, after = during(runtime, "crash:best:50%:peer", who_lives)
    assert (inside, after) == ((True, False), (True, True))


def test_a_share_of_a_role_crashes_at_once():
    inside, after = during("sim", "crash:100%:peer", who_lives)
    assert (inside, after) == ((False, False), (True, True))


@runtimes
@pytest.mark.parametrize("link", ["partition:peer-0|peer-1", "partition:peer-0>peer-1", "loss:100%:*>peer-1"])
def test_nothing_crosses_a_cut_until_it_heals(runtime, link):
    assert during(runtime, link, reaches) == ((False, False), (True, True))


@runtimes
def test_a_one_way_cut_lets_the_other_way_through(runtime):
    inside, after = during(runtime, "partition:peer-1>peer-0", heard)
    assert (inside, after) == (200, 200)
    inside, after = during(runtime, "partition:peer-0>peer-1", heard)
    assert (inside, after) == (0, 200)


@runtimes
def test_a_delay_is_added_each_way(runtime):
    inside, after = during(runtime, "delay:40ms:peer-0|peer-1", trip)
    assert 0.08 <= inside < 0.15
    assert after < 0.04


@runtimes
def test_loss_and_duplication_come_with_their_probability(runtime):
    inside, after = during(runtime, "loss:50%:peer-0>peer-1", heard)
    assert 60 < inside < 140
    assert after == 200
    inside, after = during(runtime, "duplicate:50%:peer-0>peer-1", heard)
    assert 260 < inside < 340
    assert after == 200


@runtimes
def test_a_skewed_clock_is_ahead_until_it_is_set_right(runtime):
    inside, after = during(runtime, "skew:peer-1:5", lead)
    assert inside == pytest.approx(5, abs=0.1)
    assert after == pytest.approx(0, abs=0.1)
