"""The queue port on NATS JetStream."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Iterator
from itertools import count
from typing import Any

import pytest
from trampoline import drive

from polyarch.components.nats import NatsQueue, NatsServer
from polyarch.core.errors import BadArguments, Timeout, Unreachable
from polyarch.core.records import Record

pytestmark = pytest.mark.local


class Job(Record):
    order: str


class Other(Record):
    number: int


@pytest.fixture(scope="module")
def server(local: Any) -> NatsServer:
    server = NatsServer()
    local.run(server.start(local.janitor, local.janitor.folder / "nats"))
    return server


@pytest.fixture
def queue(local: Any, server: NatsServer) -> Iterator[NatsQueue]:
    queue = NatsQueue(server.url, ack_wait=0.3, time_limit=0.5)
    yield queue
    local.run(queue.close())


@pytest.fixture
def topic(numbers: Iterator[int] = count()) -> str:
    return f"topic-{next(numbers)}"


async def in_task(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.get_running_loop().create_task(work)


async def orders(queue: NatsQueue, topic: str, group: str = "g", **more: Any) -> list[str]:
    """Take messages and acknowledge them."""
    taken = await queue.take(topic, group, Job, **more)
    for delivery in taken:
        await delivery.ack()
        await delivery.ack()
    return [delivery.message.order for delivery in taken]


def test_messages_come_in_order_to_every_group_and_once_to_each(
    local: Any, queue: NatsQueue, topic: str
) -> None:
    async def test() -> None:
        for n in range(5):
            await queue.publish(topic, Job(f"o{n}"), id=str(n))
        assert await orders(queue, topic, "one", at_most=3) == ["o0", "o1", "o2"]
        assert await orders(queue, topic, "one") == ["o3", "o4"]
        assert await orders(queue, topic, "two") == ["o0", "o1", "o2", "o3", "o4"]
        assert await orders(queue, topic, "one", wait=0.4) == [], "acknowledged ones never come again"

    local.drive(test())


def test_a_second_publish_with_the_same_id_is_ignored(local: Any, queue: NatsQueue, topic: str) -> None:
    async def test() -> None:
        for _ in range(3):
            await queue.publish(topic, Job("a"), id="1")
        assert await orders(queue, topic) == ["a"]

    local.drive(test())


def test_what_is_not_acknowledged_comes_again_with_its_id_and_the_attempt(
    local: Any, queue: NatsQueue, topic: str
) -> None:
    async def test() -> None:
        await queue.publish(topic, Job("a"), id="the-id")
        (first,) = await queue.take(topic, "g", Job)
        assert (first.id, first.attempt) == ("the-id", 1)
        assert await queue.take(topic, "g", Job, wait=0.1) == []
        (second,) = await queue.take(topic, "g", Job, wait=1.0)
        assert (second.id, second.attempt, second.message) == ("the-id", 2, Job("a"))
        await second.ack()

    local.drive(test())


def test_who_waits_gets_a_message_as_soon_as_it_is_there(local: Any, queue: NatsQueue, topic: str) -> None:
    async def test() -> None:
        waiting = [drive(orders(queue, topic, wait=20.0)) for _ in range(2)]
        began = time.monotonic()
        assert await queue.take(topic, "other", Job, wait=0.1) == []
        assert 0.1 <= time.monotonic() - began < 5
        await queue.publish(topic, Job("a"), id="1")
        await queue.publish(topic, Job("b"), id="2")
        assert sorted(await waiting[0] + await waiting[1]) == ["a", "b"]
        assert time.monotonic() - began < 10

    local.drive(test())


def test_what_was_published_survives_a_sigkill_and_the_queue_works_again_after_the_restart(
    local: Any, server: NatsServer, queue: NatsQueue, topic: str
) -> None:
    async def test() -> None:
        for n in range(50):
            await queue.publish(topic, Job(f"o{n}"), id=str(n))
        await in_task(server.kill())
        with pytest.raises((Unreachable, Timeout)):
            await queue.publish(topic, Job("x"), id="x")
        for _ in range(2):
            with pytest.raises(Unreachable):
                await queue.publish(topic, Job("x"), id="x")
            with pytest.raises(Unreachable):
                await queue.take(topic, "g", Job)
        await in_task(server.restart())
        await queue.publish(topic, Job("o49"), id="49")
        assert await orders(queue, topic, at_most=100) == [f"o{n}" for n in range(50)]

    local.drive(test())


def test_a_take_under_way_when_the_server_dies_is_unreachable_at_once(
    local: Any, server: NatsServer, queue: NatsQueue, topic: str
) -> None:
    async def test() -> None:
        taking = drive(queue.take(topic, "g", Job, wait=20.0))
        await queue.take(topic, "other", Job, wait=0.1)
        began = time.monotonic()
        await in_task(server.kill())
        with pytest.raises(Unreachable):
            await taking
        assert time.monotonic() - began < 5
        await in_task(server.restart())

    local.drive(test())


def test_a_server_that_does_not_answer_a_publish_is_a_timeout(
    local: Any, server: NatsServer, queue: NatsQueue, topic: str
) -> None:
    async def test() -> None:
        await queue.publish(topic, Job("a"), id="1")
        await in_task(server.kill(signal.SIGSTOP))
        try:
            with pytest.raises(Timeout):
                await queue.publish(topic, Job("b"), id="2")
        finally:
            await in_task(server.kill(signal.SIGCONT))
        await queue.publish(topic, Job("b"), id="2")
        assert await orders(queue, topic) == ["a", "b"]

    local.drive(test())


def test_a_message_of_another_type_is_refused_in_one_line(local: Any, queue: NatsQueue, topic: str) -> None:
    async def test() -> None:
        await queue.publish(topic, Job("a"), id="1")
        with pytest.raises(BadArguments, match=r"message 1 .* is no Other"):
            await queue.take(topic, "g", Other)

    local.drive(test())


def test_messages_and_bytes_are_counted(local: Any, queue: NatsQueue, topic: str) -> None:
    async def test() -> None:
        await queue.publish(topic, Job("a"), id="1")
        seen: list[tuple[int, int | None]] = []
        queue.on_traffic = lambda messages, bytes: seen.append((messages, bytes))
        await queue.publish(topic, Job("b" * 1000), id="2")
        ((messages, bytes),) = seen
        assert messages == 2
        assert bytes is not None
        assert 1000 < bytes < 3000
        assert await orders(queue, topic, at_most=2) == ["a", "b" * 1000]
        assert [messages for messages, _ in seen[1:]] == [3, 1, 1]

    local.drive(test())
