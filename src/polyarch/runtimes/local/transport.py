"""Framed MessagePack over TCP between live processes.

One connection leads from each process to each other one that it calls; answers come back on it.  Frames
made while the process handles one event leave in one write at its end.  ``core/wire.py`` says what is in
them.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, cast

import msgspec

from polyarch.core.wire import HEADER, MAX_FRAME

if TYPE_CHECKING:
    from polyarch.runtimes.local.process import LocalProcess

__all__ = ["Connection", "Link"]

_BATCH = 32
"""Frames of one read that are handled before what they made leaves."""

_decode = msgspec.msgpack.Decoder().decode
_LENGTH = struct.Struct(">I")


class Connection(asyncio.Protocol):
    """One TCP connection that carries frames, either end of it."""

    def __init__(self, process: LocalProcess, link: Link | None = None) -> None:
        self.process = process
        self.link = link
        self.peer = link.name if link is not None else ""
        """The name of the process at the other end; learned from its first frame if it opened this."""
        self.open = False
        self._out: list[bytes] = []
        self._rest = b""
        self._transport: asyncio.Transport

    def send(self, data: bytes) -> None:
        """Send one frame (without its length) at the end of the present event."""
        out = self._out
        if not out:
            self.process.dirty.append(self)
        out.append(len(data).to_bytes(HEADER, "big"))
        out.append(data)

    def flush(self) -> None:
        out, self._out = self._out, []
        if self.open:
            self._transport.write(b"".join(out))

    # -- asyncio --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Above this uvloop writes at once and not when it next looks for events: the peer can begin.
        self._transport.set_write_buffer_limits(high=1)
        self.open = True
        if self.link is None:
            self.process.incoming.add(self)

    def data_received(self, data: bytes) -> None:
        process = self.process
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        handle, length = process.handle, _LENGTH.unpack_from
        frames = 0
        process.enter()
        try:
            while self.open and size - at >= HEADER:
                end = at + HEADER + length(data, at)[0]
                if end > size:
                    if end - at > MAX_FRAME + HEADER:
                        self.close(f"a frame of {end - at} bytes")
                    break
                try:
                    frame = _decode(data[at + HEADER : end])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    self.close("a frame that is not MessagePack")
                    break
                handle(self, frame, end - at)
                at = end
                frames += 1
                if frames == _BATCH and size > at:
                    frames = 0
                    process.flush()  # the other side has something to do while we go on
            self._rest = data[at:] if at < size else b""
        finally:
            process.leave()

    def close(self, reason: str) -> None:
        """Drop the connection: its other end does not speak our language."""
        self.process.complain(f"{self.process.name}: closed a connection that sent {reason}")
        self.open = False
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self.process.incoming.discard(self)
        if self.link is not None:
            self.link.lost(self)


class Link:
    """The way from this process to another one: opens a connection when there is something to send.

    A frame that could not leave because nobody listens is refused (``Unreachable``); what was on a
    connection that died may have happened (``Broken``).
    """

    def __init__(self, process: LocalProcess, name: str) -> None:
        self.process = process
        self.name = name
        self._connection: Connection | None = None
        self._opening = False
        self._waiting: list[tuple[bytes, int]] = []

    def send(self, data: bytes, call: int = 0) -> None:
        """Send a frame; ``call`` is the number of the call that it asks for (0: one-way)."""
        connection = self._connection
        if connection is not None:
            connection.send(data)
            return
        self._waiting.append((data, call))
        if not self._opening:
            self._opening = True
            self.process.keep(self._open())

    async def _open(self) -> None:
        process = self.process
        refused = ""
        try:
            host, port = process.endpoint(self.name)
            _, protocol = await process.loop.create_connection(lambda: Connection(process, self), host, port)
        except (OSError, LookupError) as error:
            known = isinstance(error, OSError)
            refused = f"{self.name} is down" if known else f"nothing is called {self.name}"
        self._opening = False
        waiting, self._waiting = self._waiting, []
        process.enter()
        try:
            if refused:
                for _, call in waiting:
                    process.unreachable(call, refused)
                return
            if not protocol.open:  # it died before we looked
                for _, call in waiting:
                    process.broken(call, f"{self.name} closed the connection")
                return
            self._connection = protocol
            for data, call in waiting:
                self.send(data, call)
        finally:
            process.leave()

    def lost(self, connection: Connection) -> None:
        """The connection has died: nobody knows what became of what was on it."""
        if connection is not self._connection:
            return  # nothing has been sent on it
        self._connection = None
        process = self.process
        process.enter()
        try:
            process.link_lost(self)
        finally:
            process.leave()

    def close(self) -> None:
        if self._connection is not None:
            self._connection._transport.abort()
