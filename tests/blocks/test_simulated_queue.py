"""Queues for simulations, with a server and in a table: durable, at least once, each id once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from polyarch.blocks.queue import Queue
from polyarch.blocks.table_queue import TableQueue, Waiting
from polyarch.components.declared import Nats, PostgreSQL
from polyarch.core import Node, Record, System, Unreachable, rpc
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


class Work(Record):
    number: int


class User(Node):
    queue: Queue

    @rpc
    async def publish(self, number: int) -> None:
        await self.queue.publish("work", Work(number), id=str(number))

    @rpc
    async def take(self, at_most: int = 16, wait: float = 0.5, ack: bool = True) -> list[tuple[int, int]]:
        """Numbers and attempts."""
        taken = await self.queue.take("work", "workers", Work, at_most=at_most, wait=wait)
        for delivery in taken if ack else ():
            await delivery.ack()
            await delivery.ack()
        return [(d.message.number, d.attempt) for d in taken]


Test = Callable[[Experimenter, User], Coroutine[Any, Any, None]]


@pytest.fixture(params=["server", "table"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    def perform(test: Test) -> None:
        system = System()
        queue: Any
        if request.param == "server":
            queue = system.component("store", Nats(ack_wait=1.0))
        else:
            queue = TableQueue(system.component("store", PostgreSQL((Waiting,))), ack_wait=1.0)
        system.role("user", User(queue=queue), count=2)
        system.clients(Node())
        with SimSession(system, seed=1) as session:
            session.perform(lambda x: test(x, x.at("user-0", User)))
            assert not session.kernel.bugs

    return perform


def test_messages_come_in_order_and_an_id_counts_once(run: Callable[[Test], None]) -> None:
    async def test(x: Experimenter, user: User) -> None:
        for number in (1, 2, 1, 3):
            await user.publish(number)
        assert await user.take(2) == [(1, 1), (2, 1)]
        assert await user.take() == [(3, 1)]
        await user.publish(2)
        assert await user.take() == []

    run(test)


def test_who_waits_gets_what_comes_and_an_empty_queue_gives_nothing_in_time(
    run: Callable[[Test], None],
) -> None:
    async def test(x: Experimenter, user: User) -> None:
        waiting = x.spawn(x.at("user-1", User).take(wait=0.5))
        await x.sleep(0.2)
        await user.publish(7)
        begin = x.now
        assert await waiting == [(7, 1)]
        assert x.now - begin < 0.1
        assert await user.take(wait=0.3) == []
        assert 0.3 < x.now - begin < 0.5

    run(test)


def test_what_is_not_acknowledged_comes_again_and_what_is_does_not(run: Callable[[Test], None]) -> None:
    async def test(x: Experimenter, user: User) -> None:
        await user.publish(1)
        assert await user.take(ack=False) == [(1, 1)]
        assert await user.take(wait=0.2) == [], "somebody has it"
        await x.sleep(1.0)
        assert await x.at("user-1", User).take() == [(1, 2)]
        await x.sleep(1.5)
        assert await user.take(wait=0.2) == []

    run(test)


def test_a_crash_of_the_store_loses_no_message(run: Callable[[Test], None]) -> None:
    async def test(x: Experimenter, user: User) -> None:
        await user.publish(1)
        await user.publish(2)
        assert await user.take(1) == [(1, 1)]
        await x.sleep(0.1)
        await x.control.crash("store-0")
        with pytest.raises(Unreachable):
            await user.publish(3)
        with pytest.raises(Unreachable):
            await user.take()
        await x.control.restart("store-0")
        await user.publish(2)
        taken = [number for number, _ in await user.take()]
        # A lost acknowledgement may bring the first one again; nothing may take the second away.
        assert taken in ([2], [1, 2])

    run(test)
