"""Two computers that ask each other: each does what the other asks, and neither should stand still for it."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.two_computers import Computer, Letter, Misdelivered, TwoComputers
from polyarch.core import BadArguments, Failure, Timeout, Unreachable, settle
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


def started(**parameters: Any) -> SimSession:
    return SimSession(TwoComputers(**parameters), seed=1)


async def ask_all(x: Experimenter) -> list[Any]:
    c = x.client
    return await settle(c.increment(2**60), c.add(3, 4.5), c.sort((3, 1, 2)), c.block(0.01))


def test_each_asks_the_other_and_both_are_answered() -> None:
    session = started()

    async def experiment(x: Experimenter) -> tuple[list[Any], Any, Any]:
        answers = await ask_all(x)
        return answers, await x.at("a-0", Computer).met(), await x.at("b-0", Computer).met()

    answers, a, b = session.perform(experiment)
    assert answers == [2**60 + 1, 7.5, (1, 2, 3), 0.01]
    assert (a.asked, a.done, b.asked, b.done) == (2, 2, 2, 2)


def test_a_letter_for_somebody_else_is_not_taken_and_one_that_makes_no_sense_is_refused() -> None:
    session = started()

    async def experiment(x: Experimenter) -> list[Any]:
        b = x.at("b-0", Computer)
        return await settle(
            b.ask(Letter("a-0", "a-0", "add", (1, 2))),
            b.ask(Letter("c-0", "b-0", "add", (1, 2))),
            b.ask(Letter("a-0", "b-0", "add", (1,))),
            b.ask(Letter("a-0", "b-0", "add", (1, 2))),
        )

    wrong, stranger, senseless, right = session.perform(experiment)
    assert isinstance(wrong, Misdelivered)
    assert isinstance(stranger, Misdelivered)
    assert isinstance(senseless, BadArguments)
    assert right == Letter("b-0", "a-0", "add", (3,))


@pytest.mark.parametrize("waiting", ["serve", "hold"])
def test_two_that_only_wait_when_both_ask_at_once_wait_for_each_other(waiting: str) -> None:
    session = started(waiting=waiting)

    async def experiment(x: Experimenter) -> tuple[list[Any], float, list[Any]]:
        begun = x.now
        together = await settle(x.client.add(1, 2), x.client.sort((2, 1)))
        took = x.now - begun
        await x.sleep(3.0)
        return together, took, [await x.client.add(1, 2), await x.client.sort((2, 1))]

    together, took, in_turn = session.perform(experiment)
    assert in_turn == [3, (1, 2)]  # one after the other, all is well
    if waiting == "serve":
        assert together == [3, (1, 2)]
        assert took < 0.05
    else:
        assert [type(answer) for answer in together] == [Timeout, Timeout]
        assert took > 0.9


def test_if_one_is_dead_the_other_is_no_use_to_its_users() -> None:
    session = started()

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
        await x.control.crash("a-0")
        alone = await ask_all(x)
        await x.control.restart("a-0")
        return alone, await ask_all(x)

    alone, both = session.perform(experiment)
    assert all(isinstance(answer, Unreachable) for answer in alone)
    assert not any(isinstance(answer, Failure) for answer in both)


@pytest.mark.local
def test_live_two_processes_ask_each_other() -> None:
    with open_session("local", TwoComputers()) as session:
        assert session.perform(ask_all) == [2**60 + 1, 7.5, (1, 2, 3), 0.01]
