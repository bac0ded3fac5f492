"""A central index: one hop, every holder is right, and nothing without the index."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.central_index import CentralIndex, Index, NoIndex, Peer
from polyarch.core import BadArguments, Failure, settle
from polyarch.jobs.lookup import Holder, Lookup, NotFound, holders, place_of
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

KEYS = tuple(f"key-{i}" for i in range(200))


def started(nodes: int = 16, **parameters: Any) -> tuple[CentralIndex, SimSession]:
    architecture = CentralIndex(nodes=nodes, **parameters)
    session = SimSession(architecture, seed=3)

    async def fill(x: Experimenter) -> None:
        await architecture.ready(x)
        await Lookup(keys=len(KEYS)).prepare(x.client)

    session.perform(fill)
    return architecture, session


async def ask_all(x: Experimenter) -> list[Holder | Failure]:
    return await settle(*(x.client.lookup(key) for key in KEYS))


def holders_of(key: str, nodes: int, copies: int) -> list[str]:
    return holders(place_of(key, 32), [f"peer-{i}" for i in range(nodes)], copies)


def test_every_answer_is_a_holder_at_one_hop_and_all_copies_are_used() -> None:
    _, session = started()
    answered: dict[str, set[str]] = {}
    for _ in range(8):
        for key, answer in zip(KEYS, session.perform(ask_all)):
            assert isinstance(answer, Holder)
            assert answer.address in holders_of(key, 16, 3)
            assert answer.hops == 1
            answered.setdefault(key, set()).add(answer.address)
    assert sum(len(named) for named in answered.values()) > 2.7 * len(KEYS)


def test_what_nobody_has_published_is_not_found() -> None:
    _, session = started()
    with pytest.raises(NotFound):
        session.perform(lambda x: x.client.lookup("nobody has this"))
    with pytest.raises(BadArguments):
        session.perform(lambda x: x.client.lookup(("no", "key")))
    with pytest.raises(BadArguments, match="is not of 32 bits"):
        session.perform(lambda x: x.client.lookup(1 << 32))


def test_nothing_is_found_without_the_index_and_everything_when_it_is_back() -> None:
    architecture, session = started()

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any], bool]:
        await x.control.crash("index-0")
        without = await ask_all(x)
        await x.control.restart("index-0")
        empty = await settle(x.client.lookup(KEYS[0]))
        await x.sleep(1.5)  # one round of signs of life: the index asks for what it has forgotten
        assert (await architecture.is_known(x)).holds
        return without, empty, all(isinstance(a, Holder) for a in await ask_all(x))

    without, empty, found = session.perform(experiment)
    assert {type(a) for a in without} == {NoIndex}
    assert isinstance(empty[0], NotFound | Holder)
    assert found


def test_the_dead_are_passed_over_and_then_forgotten() -> None:
    _, session = started()

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any], int]:
        for i in range(4):
            await x.control.crash(f"peer-{i}")
        soon = await ask_all(x)
        await x.sleep(5)
        return soon, await ask_all(x), (await x.at("index-0", Index).standing()).links

    soon, later, known = session.perform(experiment)
    dead = [f"peer-{i}" for i in range(4)]
    for key, first, second in zip(KEYS, soon, later):
        alive = [a for a in holders_of(key, 16, 3) if a not in dead]
        for answer in (first, second):
            if alive:
                assert isinstance(answer, Holder)
                assert answer.address in alive
            else:
                assert isinstance(answer, NotFound)
    assert sum(a.timeouts for a in soon if isinstance(a, Holder)) > 0
    assert sum(a.timeouts for a in later if isinstance(a, Holder)) == 0
    assert known == 12


def test_who_leaves_is_forgotten_at_once_and_who_comes_back_has_its_content() -> None:
    _, session = started(nodes=8, copies=1)

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
        await x.at("peer-3", Peer).leave()
        await x.control.crash("peer-3")
        gone = await ask_all(x)
        await x.control.restart("peer-3")
        await x.sleep(1)
        return gone, await ask_all(x)

    gone, back = session.perform(experiment)
    for key, answer in zip(KEYS, gone):
        assert isinstance(answer, NotFound) == (holders_of(key, 8, 1) == ["peer-3"])
    assert all(isinstance(a, Holder) and a.timeouts == 0 for a in back)
    assert all(a.timeouts == 0 for a in gone if isinstance(a, Holder))


def test_the_index_does_as_much_as_all_peers_together() -> None:
    architecture, session = started(nodes=50)

    async def experiment(x: Experimenter) -> dict[str, Any]:
        for _ in range(5):
            await ask_all(x)
        return (await architecture.observe(x))[0]

    metrics = session.perform(experiment)
    # 51 nodes; of L lookups' 2 L messages the index handles L.
    assert metrics["imbalance"] == pytest.approx(51 / 2)
    assert metrics["hops"] == 1
    # Each peer asks once a second, and is answered.
    assert metrics["upkeep"] == pytest.approx(2 * 50 / 51, rel=0.05)


@pytest.mark.local
def test_live_peers_lose_the_index_and_find_everything_when_it_is_back() -> None:
    architecture = CentralIndex(nodes=5, refresh=0.3)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[int]:
            await architecture.ready(x)
            await Lookup(keys=len(KEYS)).prepare(x.client)
            found = []
            found.append(sum(isinstance(a, Holder) for a in await ask_all(x)))
            await x.control.crash("index-0")
            found.append(sum(isinstance(a, Holder) for a in await ask_all(x)))
            await x.control.restart("index-0")
            await architecture.ready(x)
            found.append(sum(isinstance(a, Holder) for a in await ask_all(x)))
            return found

        before, without, after = session.perform(experiment)
    assert before == after == len(KEYS)
    assert without == 0
