"""A transport-layer switch as a simulation sees it: it spreads connections, and looks at nothing in them.

Live, ``components/transport_switch.py`` forwards bytes.  Here its clients' connections are kept as a client's
pool keeps them: a request takes one that is idle, the longest idle first, or opens another.  A connection
leads to one backend for as long as it lives, so the policy chooses for connections and counts connections:
long-lived ones spread requests only as well as they happened to be opened, and a server that joins gets none
of those that exist.
"""

from __future__ import annotations

from collections import deque

from polyarch.blocks.switch import Switch
from polyarch.core import Broken, Failure, Request, Response, Unreachable

__all__ = ["Connections"]


class _Connection:
    """From a client through the switch to a backend."""

    __slots__ = ("backend", "served")

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.served = 0


class Connections(Switch):
    """Passes each connection to one of its backends."""

    affinity: str = "connection"
    """What hashing policies look at: the ``connection`` (live: the client's address and port), or the
    ``client`` (its address): here all clients have one."""
    requests_each: int = 0
    """Requests for which clients use a connection; 0: they never close one."""

    async def start(self) -> None:
        await super().start()
        self.idle: deque[_Connection] = deque()
        self.ever = 0

    async def http(self, request: Request) -> Response:
        self.requests += 1
        connection = self.taken() or await self.opened()
        connection.served += 1
        try:
            return await self.through(connection, request)
        except Failure:
            # There was no answer: the client closes such a connection.
            self.close(connection)
            raise

    def taken(self) -> _Connection | None:
        """An idle connection whose backend is still there (others were closed when it went)."""
        while self.idle:
            connection = self.idle.popleft()
            if connection.backend in self.others.backends and connection.backend not in self.shunned_until:
                return connection
            self.close(connection)
        return None

    async def opened(self, *tried: str) -> _Connection:
        """A new connection, to a backend by the policy."""
        self.ever += not tried
        key = str(self.ever) if self.affinity == "connection" else ""
        backend = await self.choose(self.others, key, tried)
        if not backend:
            # The client was let in, and cut off: it cannot know why.
            self.refused += 1
            raise Broken("the switch closed the connection: no backend can be reached")
        return _Connection(backend)

    async def through(self, connection: _Connection, request: Request) -> Response:
        tried: list[str] = []
        while True:
            try:
                response = await self.ask(connection.backend, request)
                break
            except Unreachable:
                # Nobody has taken it: the switch tries others before a byte was forwarded.
                tried.append(connection.backend)
                self.close(connection)
                connection.backend = (await self.opened(*tried)).backend
        if self.requests_each and connection.served >= self.requests_each:
            self.close(connection)
        else:
            self.idle.append(connection)
        return response

    def close(self, connection: _Connection) -> None:
        backend, connection.backend = connection.backend, ""
        if backend:
            self.release(self.others, backend)
