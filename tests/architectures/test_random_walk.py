"""Random walks: walkers find what is there, stop when it is found, survive the dead, and leave notes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from statistics import fmean
from typing import Any

import pytest

from polyarch.architectures.random_walk import RandomWalk, RandomWalks
from polyarch.core import Failure, Random, settle
from polyarch.experiment.laws import check, laws
from polyarch.jobs.lookup import Holder, NotFound, holders
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

KEYS = [(k << 20) + 3 for k in range(100)]


def peers(n: int) -> tuple[str, ...]:
    return tuple(f"peer-{i}" for i in range(n))


def overlay(**values: Any) -> RandomWalks:
    standard = {"nodes": 200, "graph": "regular", "formation": "converged", "repair": 0.0}
    return RandomWalks(**{**standard, **values})


def run(
    architecture: RandomWalks, experiment: Callable[[Experimenter], Coroutine[Any, Any, Any]], seed: int = 1
) -> Any:
    session = SimSession(architecture, seed=seed)
    result = session.perform(experiment)
    assert not session.kernel.bugs
    return result


def nodes_of(session: SimSession) -> list[RandomWalk]:
    nodes = [env.node for env in session.kernel.directory.values()]
    return [node for node in nodes if isinstance(node, RandomWalk)]


def wrong(answers: list[Any], keys: list[int], copies: int) -> list[Any]:
    return [
        a
        for a, key in zip(answers, keys)
        if not isinstance(a, Holder) or a.address not in holders(key, peers(200), copies)
    ]


async def lookups(x: Experimenter, keys: list[int] = KEYS) -> list[Holder | Failure]:
    return [(await settle(x.client.lookup(key)))[0] for key in keys]


@pytest.mark.parametrize("graph", ["random", "scale-free", "regular"])
def test_walkers_find_what_is_there(graph: str) -> None:
    answers = run(overlay(graph=graph, copies=5), lookups)
    lonely = {"random": 8, "scale-free": 0, "regular": 0}[graph]  # of a random graph e^-4 are alone
    assert len(wrong(answers, KEYS, 5)) <= lonely
    assert all(isinstance(a, (Holder, NotFound)) for a in answers)


def test_a_walker_takes_as_many_steps_as_there_are_peers_for_each_holder() -> None:
    # 200 peers, 10 holders: 20 steps, of the searches whose first peer has not got the key itself.
    answers = run(
        overlay(degree=8, copies=10, walkers=1, check=0), lambda x: lookups(x, [*KEYS, *range(300)])
    )
    steps = [a.hops for a in answers if isinstance(a, Holder) and a.hops]
    assert len(steps) > 340
    assert fmean(steps) == pytest.approx(20, rel=0.2)


def test_more_walkers_are_quicker_and_not_cheaper() -> None:
    figures = {}
    for walkers in (1, 16):
        architecture = overlay(nodes=200, degree=8, copies=2, walkers=walkers)

        async def experiment(x: Experimenter, architecture: Any = architecture) -> tuple[float, float]:
            answers = await lookups(x)
            measured, _ = await architecture.observe(x)
            return fmean(a.hops for a in answers if isinstance(a, Holder)), measured["messages_per_search"]

        figures[walkers] = run(architecture, experiment)
    assert figures[16][0] < figures[1][0] / 5
    assert figures[16][1] > 0.7 * figures[1][1]


async def walkers_on_the_way(x: Experimenter) -> int:
    """Steps that are still taken in the second after 20 searches."""
    await lookups(x, KEYS[:20])
    before = (await x.control.traffic()).by_method["walk"]
    await x.sleep(1.0)
    return (await x.control.traffic()).by_method["walk"] - before


def test_walkers_stop_soon_after_one_has_found_it_because_they_check() -> None:
    checking = run(overlay(copies=1, ttl=100_000), walkers_on_the_way)
    never = run(overlay(copies=1, ttl=100_000, check=0), walkers_on_the_way)
    assert checking < 16 * 8 < 2000 < never


def test_when_all_walkers_have_come_to_their_end_nobody_waits_any_longer() -> None:
    async def experiment(x: Experimenter) -> tuple[str, float]:
        start = x.now
        (answer,) = await settle(x.client.lookup(1))
        return answer.code, x.now - start

    code, seconds = run(overlay(copies=0, ttl=20), experiment)
    assert code == "nobody-found"
    assert seconds < 0.2  # of the 5 that it waits for walkers that are lost


def survivors() -> list[str]:
    dead = Random(5).sample(peers(200), 60)
    return [p for p in peers(200) if p not in dead]


async def after_a_failure(x: Experimenter) -> list[Any]:
    for victim in Random(5).sample(peers(200), 60):
        await x.control.crash(victim)
    keys = [k for k in KEYS[:40] if any(h in survivors() for h in holders(k, peers(200), 5))]
    return wrong(await lookups(x, keys), keys, 5)


def test_walkers_go_round_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(overlay(copies=5, degree=6, ttl=200), after_a_failure)) <= 1

    async def trusting(self: RandomWalk, walker: Any, sender: str) -> None:
        if self.neighbours:
            n = self.random.choice(self.neighbours)
            await settle(self.at(n).walk(walker, self.address))

    monkeypatch.setattr(RandomWalk, "send_on", trusting)
    assert len(run(overlay(copies=5, degree=6, wait=0.5), after_a_failure)) > 8


# -- replication ------------------------------------------------------------------------------------------


async def popular(x: Experimenter) -> tuple[float, list[Any]]:
    """Hops of the last 50 of 200 searches for one key; what was wrong."""
    answers = await lookups(x, [KEYS[7]] * 200)
    hops = fmean(a.hops for a in answers[150:] if isinstance(a, Holder))
    return hops, wrong(answers, [KEYS[7]] * 200, 1)


def test_notes_make_what_is_asked_for_often_quick_to_find() -> None:
    hops = {}
    for replication in ("none", "owner", "path"):
        hops[replication], failures = run(overlay(replication=replication, walkers=4), popular)
        assert not failures
    assert hops["path"] < hops["none"] / 3
    assert hops["owner"] < hops["none"] / 3


def test_along_the_path_there_are_more_notes_than_at_the_askers() -> None:
    notes = {}
    for replication in ("owner", "path"):
        session = SimSession(overlay(replication=replication, walkers=2), seed=1)
        session.perform(lambda x: lookups(x, KEYS[:30]))
        notes[replication] = sum(len(node.notes) for node in nodes_of(session))
    assert 20 <= notes["owner"] <= 30 < 3 * notes["owner"] < notes["path"]


def test_there_is_room_for_so_many_notes_only() -> None:
    session = SimSession(overlay(replication="path", room=3), seed=1)
    session.perform(lambda x: lookups(x, [*KEYS, *range(100)]))
    assert max(len(node.notes) for node in nodes_of(session)) == 3


@pytest.mark.parametrize("replication", ["owner", "path"])
def test_a_note_of_a_dead_holder_is_not_believed(replication: str) -> None:
    key = KEYS[1]
    (holder,) = holders(key, peers(200), 1)

    async def experiment(x: Experimenter) -> list[Any]:
        await lookups(x, [key] * 50)
        await x.control.crash(holder)
        return await lookups(x, [key] * 30)

    answers = run(overlay(replication=replication, wait=0.5, ttl=100), experiment)
    assert all(isinstance(a, NotFound) for a in answers)


def test_answers_are_right_while_peers_come_and_go() -> None:
    architecture = overlay(graph="random", degree=6, repair=0.5, copies=5, formation="joined", arrival=0.005)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await architecture.ready(x)
        random, failed, bad = Random(9), 0, 0
        for round_ in range(20):
            victim = f"peer-{random.below(200)}"
            await x.at(victim, RandomWalk).leave()
            await x.control.crash(victim)
            answers = await lookups(x, KEYS[round_ * 5 : round_ * 5 + 5])
            failed += sum(isinstance(a, Failure) for a in answers)
            keys = [k for k, a in zip(KEYS[round_ * 5 :], answers) if isinstance(a, Holder)]
            bad += len(wrong([a for a in answers if isinstance(a, Holder)], keys, 5))
            await x.control.restart(victim)
            await x.sleep(1)
        return failed, bad

    failed, bad = run(architecture, experiment)
    assert bad == 0
    assert failed <= 5


@pytest.mark.local
def test_ten_live_peers_find_keys() -> None:
    architecture = RandomWalks(nodes=10, graph="scale-free", copies=2, walkers=4)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> int:
            await architecture.ready(x)
            answers = await settle(*(x.client.lookup(key) for key in KEYS[:40]))
            right = [a for a, k in zip(answers, KEYS) if isinstance(a, Holder)]
            return sum(a.address in holders(k, peers(10), 2) for a, k in zip(right, KEYS))

        assert session.perform(experiment) == 40


@pytest.mark.parametrize(
    ("id", "given"),
    [
        ("UN-B", {"n": 100, "degree": 4, "holders": 10, "walkers": 8, "searches": 300}),
        ("UN-04", {"n": 1000, "m": 1, "formation": "joined"}),
        ("UN-08", {"n": 100, "degree": 2, "sources": 20}),
    ],
)
def test_laws_of_unstructured_overlays_hold_at_other_settings_than_the_listed(
    id: str, given: dict[str, Any]
) -> None:
    record = check(laws()[id], given=given)
    assert record.holds, record.wrong


@pytest.mark.parametrize(
    ("id", "given", "why"),
    [
        ("UN-B", {"n": 100, "holders": 1000}, "more than --holders 1000"),  # everybody has it: no walk ends
        ("UN-05", {"degree": 3}, "--degree 3: a scale-free overlay needs an even degree"),
        ("UN-07", {"n": 10, "degree": 20, "graph": "regular"}, "there are 9 others"),
    ],
)
def test_laws_refuse_overlays_that_cannot_be(id: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        laws()[id](**given)
