"""An HTTP/1.1 server of callbacks: it survives what clients send, and hands on what is a request.

One request of a connection is handled at a time, so that pipelined ones are answered in order and take
effect in order (RFC 9112, 9.3.2).  A client that is slow, large, wrong or gone costs its own connection
and nothing else; what all of them together may cost is in `Limits`.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from email.utils import formatdate

from polyarch.runtimes.local.http_connection import HttpConnection, Limits, Respond

__all__ = ["Handler", "HttpServer", "Limits", "Respond"]

Handler = Callable[[str, str, dict[str, str], bytes, Respond], None]
"""``handler(method, target, headers, body, respond)``, with header names in lower case.  An exception
before the answer becomes 500."""


class HttpServer:
    """Listens, and calls the handler for every request.

    Counts over the server's life: `requests` handed to the handler, `bytes_received`, `bytes_sent`.
    """

    def __init__(
        self, handler: Handler, host: str = "127.0.0.1", port: int = 0, *, limits: Limits | None = None
    ) -> None:
        self.handler = handler
        self.host = host
        self.port = port
        """The port asked for; after `start`, the real one."""
        self.limits = limits or Limits()
        self.requests = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = self.limits.connections
        """Connections that may be open."""
        if files != resource.RLIM_INFINITY:
            self.most = min(self.most, files // 2)
        # What its connections share.
        self.now = 0.0
        """A clock for limits, as coarse as the sweep: it costs nothing to read."""
        self.date = b""
        self.closing = False
        self.open: set[HttpConnection] = set()
        self.empty = asyncio.Event()
        """Set when the last one is closed."""
        self.turned_away: set[HttpConnection] = set()
        self.held = 0
        """Bytes of bodies now that no handler has yet."""
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen.  OSError when the port is in use."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: HttpConnection(self), self.host, self.port, backlog=1024
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        self._sweep()

    async def close(self, grace: float = 5.0) -> None:
        """Accept nobody, close idle connections, and give requests in progress `grace` seconds."""
        if self._listener is None:
            return
        self._listener.close()
        self.closing = True
        for connection in list(self.open):
            connection.close_when_idle()
        if self.open:
            try:
                await asyncio.wait_for(self.empty.wait(), grace)
            except TimeoutError:
                pass
        for connection in [*self.open, *self.turned_away]:
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._listener.wait_closed()

    @property
    def connections(self) -> int:
        """Open connections now, without those that were turned away."""
        return len(self.open)

    async def __aenter__(self) -> HttpServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _sweep(self) -> None:
        """Move the coarse clock, and look for clients that took too long."""
        self.now = time.monotonic()
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        limits = self.limits
        shortest = min(limits.head_time, limits.body_time, limits.idle_time, limits.linger)
        self._sweeper = asyncio.get_running_loop().call_later(min(1.0, shortest / 4), self._sweep)
        for connection in [*self.open, *self.turned_away]:
            connection.check(self.now)
