"""A queue in a table: for systems that have a database and want no further server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from polyarch.blocks.queue import Delivery, M, Queue
from polyarch.blocks.tables import Row, Tables
from polyarch.core import Env, Record
from polyarch.core.node import Attachable

__all__ = ["DeclaredQueue", "TableQueue", "Waiting"]


class Waiting(Row):
    """One message of a ``TableQueue``: a table that its store must have."""

    place: str
    """``topic/id``."""
    topic: str
    """Empty when it is done: the row stays, so that a second publish is known as one."""
    data: bytes
    until: float = 0.0
    """Whoever has it has it until then, by the clocks of those who take.  Clocks that differ much deliver
    a message twice, which any queue may; they lose none."""
    attempt: int = 0
    indexed = ("topic",)


class DeclaredQueue(Queue):
    """Can be given to a node as its queue, and is none itself yet."""

    async def publish(self, topic: str, message: Record, *, id: str) -> None:
        raise TypeError(f"this {type(self).__name__} is declared: only a running node can publish")

    async def take(
        self, topic: str, group: str, of: type[M], *, at_most: int = 16, wait: float = 1.0
    ) -> Sequence[Delivery[M]]:
        raise TypeError(f"this {type(self).__name__} is declared: only a running node can take")


class TableQueue(Attachable, DeclaredQueue):
    """Declares a queue in the tables of ``store``, which must know the row type ``Waiting``.

    One consumer group for each topic.  Consumers look every ``poll_seconds``: what that costs is what a
    queue without a server costs."""

    def __init__(self, store: Any, *, ack_wait: float = 5.0, poll_seconds: float = 0.05) -> None:
        self.store = store
        self.ack_wait = ack_wait
        self.poll_seconds = poll_seconds

    @property
    def role(self) -> str:
        """The role of the store: where a live node is to connect."""
        return getattr(self.store, "role", "")

    def attach(self, env: Env) -> _TableQueue:
        return _TableQueue(self, self.store.attach(env), env)

    def attach_live(self, env: Env, address: str) -> _TableQueue:
        return _TableQueue(self, self.store.attach_live(env, address), env)


class _TableQueue(Queue):
    """One node's end of it."""

    def __init__(self, declared: TableQueue, tables: Tables, env: Env) -> None:
        self._declared = declared
        self._tables = tables
        self._env = env

    async def publish(self, topic: str, message: Record, *, id: str) -> None:
        async with self._tables.transaction() as t:
            await t.insert(Waiting(f"{topic}/{id}", topic, msgspec.msgpack.encode(message)))

    async def take(
        self, topic: str, group: str, of: type[M], *, at_most: int = 16, wait: float = 1.0
    ) -> Sequence[Delivery[M]]:
        end = self._env.now() + wait
        while True:
            taken = await self._take(topic, at_most)
            if taken or self._env.now() >= end:
                return [_Delivery(self._tables, w, msgspec.msgpack.decode(w.data, type=of)) for w in taken]
            # Not all at the same moments.
            await self._env.sleep(self._declared.poll_seconds * (0.5 + self._env.random.random()))

    async def _take(self, topic: str, at_most: int) -> list[Waiting]:
        now = self._env.now()
        async with self._tables.transaction() as t:
            # Enough to find some that nobody else has.
            seen = await t.select(Waiting, topic=topic, limit=4 * at_most)
            places = [w.place for w in seen if w.until <= now][:at_most]
            if not places:
                return []
            locked = await t.get_many(Waiting, places)
            taken = [
                replace(w, until=now + self._declared.ack_wait, attempt=w.attempt + 1)
                for w in locked.values()
                if w.topic and w.until <= now
            ]
            if taken:
                await t.put(*taken)
        return taken


class _Delivery(Delivery[M]):
    def __init__(self, tables: Tables, taken: Waiting, message: M) -> None:
        self._tables = tables
        self._taken = taken
        self.id = taken.place.partition("/")[2]
        self.message = message
        self.attempt = taken.attempt

    async def ack(self) -> None:
        async with self._tables.transaction() as t:
            await t.put(replace(self._taken, topic=""))
