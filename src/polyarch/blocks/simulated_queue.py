"""A message broker for simulations: what takes NATS's place behind the queue port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from polyarch.blocks.queue import Delivery, M, Queue
from polyarch.core import Env, Failure, Future, Node, Record, Timeout, Unreachable, oneway, rpc

__all__ = ["Broker", "SimQueue"]


class Published(Record, array_like=True):
    """A message in the log."""

    topic: str
    id: str
    data: bytes


class Acknowledged(Record, array_like=True):
    """What a group need not get again, in the log."""

    topic: str
    group: str
    place: int


class Taken(Record, array_like=True):
    """A message on its way to a consumer."""

    place: int
    id: str
    data: bytes
    attempt: int


class _Group:
    """How far a group of consumers has come in a topic."""

    def __init__(self) -> None:
        self.next = 0
        """The first message that nobody of the group has taken."""
        self.under_way: dict[int, tuple[float, int]] = {}
        """Place of a message: when it is given to somebody else, and how often it was given."""
        self.done: set[int] = set()


class Broker(Node):
    """Durable topics with consumer groups."""

    timeout = 2.0
    publish_seconds: float = 90e-6
    """Core seconds to store a message.  NATS with JetStream in files, one in flight, on the 2-core machine of
    the design's section 6: 11,400 messages/s."""
    take_seconds: float = 25e-6
    """Core seconds to deliver one; many in flight: 40,700 messages/s there."""
    ack_wait: float = 5.0
    """Seconds until a message that was taken and not acknowledged is given to somebody again."""

    async def start(self) -> None:
        self.topics: dict[str, list[Published]] = {}
        self.ids: set[tuple[str, str]] = set()
        self.groups: dict[tuple[str, str], _Group] = {}
        self.news: dict[str, Future[None]] = {}
        for message in self.disk.entries("messages", Published):
            self._store(message)
        for ack in self.disk.entries("acknowledged", Acknowledged):
            self._group(ack.topic, ack.group).done.add(ack.place)

    @rpc
    async def publish(self, topic: str, id: str, data: bytes) -> None:
        """Store a message, unless one with its id is there."""
        await self.work(self.publish_seconds)
        if (topic, id) not in self.ids:
            message = Published(topic, id, data)
            self._store(message)
            self.disk.append("messages", message)
        await self.disk.sync()  # a second attempt must not be answered before the first is safe
        news = self.news.pop(topic, None)
        if news is not None:
            news.set(None)

    @rpc
    async def take(self, topic: str, group: str, at_most: int, wait: float) -> tuple[Taken, ...]:
        """Messages for somebody of a group; waits for the first."""
        end = self.now + wait
        while True:
            taken = self._next(topic, self._group(topic, group), at_most)
            left = end - self.now
            if taken or left < 1e-6:  # less than a clock's step would be waited for without end
                await self.work(self.take_seconds * (1 + len(taken)))
                return taken
            news = self.news.get(topic)
            if news is None:
                news = self.news[topic] = self.future()
            try:
                # Not longer than until something may be due again.
                await news.within(min(left, self.ack_wait / 10))
            except Timeout:
                pass

    @oneway
    def acknowledge(self, topic: str, group: str, place: int) -> None:
        """A message is done with.  Not synced by itself: what is lost comes again."""
        here = self._group(topic, group)
        here.under_way.pop(place, None)
        if place not in here.done:
            here.done.add(place)
            self.disk.append("acknowledged", Acknowledged(topic, group, place))

    def _store(self, message: Published) -> None:
        self.topics.setdefault(message.topic, []).append(message)
        self.ids.add((message.topic, message.id))

    def _group(self, topic: str, group: str) -> _Group:
        return self.groups.setdefault((topic, group), _Group())

    def _next(self, topic: str, group: _Group, at_most: int) -> tuple[Taken, ...]:
        messages = self.topics.get(topic, [])
        places = [p for p, (due, _) in group.under_way.items() if due <= self.now][:at_most]
        while len(places) < at_most and group.next < len(messages):
            if group.next not in group.done:
                places.append(group.next)
            group.next += 1
        taken = []
        for place in places:
            attempt = group.under_way.get(place, (0.0, 0))[1] + 1
            group.under_way[place] = (self.now + self.ack_wait, attempt)
            taken.append(Taken(place, messages[place].id, messages[place].data, attempt))
        return tuple(taken)


class SimQueue(Queue):
    """The queue port on a ``Broker``."""

    def __init__(self, broker: Any, env: Env) -> None:
        self._broker = broker
        self._env = env

    async def publish(self, topic: str, message: Record, *, id: str) -> None:
        await self._broker.publish(topic, id, msgspec.msgpack.encode(message))

    async def take(
        self, topic: str, group: str, of: type[M], *, at_most: int = 16, wait: float = 1.0
    ) -> Sequence[Delivery[M]]:
        try:
            taken = await self._broker.take(topic, group, at_most, wait)
        except Failure as failure:
            # Whatever was on its way comes again.
            raise Unreachable(str(failure)) from None
        decode = msgspec.msgpack.Decoder(of).decode
        return [_Delivery(self._broker, topic, group, t, decode(t.data)) for t in taken]


class _Delivery(Delivery[M]):
    def __init__(self, broker: Any, topic: str, group: str, taken: Taken, message: M) -> None:
        self._broker = broker
        self._where = topic, group, taken.place
        self.id = taken.id
        self.message = message
        self.attempt = taken.attempt

    async def ack(self) -> None:
        self._broker.acknowledge(*self._where)
