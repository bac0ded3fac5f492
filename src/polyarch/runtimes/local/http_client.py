"""An HTTP/1.1 client of callbacks on kept-alive connections, cheap enough to generate load.

One request costs one write, one parse and a few dictionary and deque operations: there is no task and no
timer per request.  It decides what is definite: what never left is `Unreachable`, what left and got no
complete answer may have happened (`Timeout`, `Broken`).  Whether to try again is the caller's business.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from polyarch.core.errors import Broken, Failure, Timeout, Unreachable
from polyarch.runtimes.local.http_headers import METHODS

__all__ = ["Done", "Exchange", "HttpPool", "Response"]

Done = Callable[[int, bytes, Failure | None], None]
"""Called once per request: ``done(status, body, None)``, or ``done(0, b"", failure)``."""

_SWEEP = 0.05  # seconds between two looks for requests whose time is up
_HEADS = 4_096  # request heads kept encoded
_SHORT = 512  # bytes of the longest head that is kept: a switch passes on no two alike
_FRESH = 4.0  # seconds; a connection idle for longer may be about to be closed (Node.js does after 5)
_HEAD = 64 << 10  # bytes that headers, chunks and interim answers may add to the largest body
_TARGET = re.compile(r"[!-~]+")  # visible ASCII: no space or line break may end the request line early


class Response(NamedTuple):
    """What `fetch` returns."""

    status: int
    body: bytes


class Exchange:
    """One request and its answer.

    `content_type`, `cost` (the header Polyarch-Cost), `cookies` (each Set-Cookie line) and other `headers` of
    the application are known in a pool that `reads_headers`.
    `sent` and `received` count bytes, headers included.  `sent == 0` in a request that ended says that it
    never left.  With pipelining, a read that holds several answers counts for the first of them.
    """

    __slots__ = (
        *("_data", "_deadline", "_done", "content_type", "cookies", "cost", "headers", "received", "sent"),
    )

    def __init__(self, data: bytes, done: Done, deadline: float) -> None:
        self._data = data
        self._done: Done | None = done
        self._deadline = deadline
        self.sent = 0
        self.received = 0
        self.forget()

    def forget(self) -> None:
        """No header has come yet."""
        self.content_type = ""
        self.cost = b""
        self.cookies: tuple[str, ...] = ()
        self.headers: dict[str, str] = {}

    def _finish(self, status: int, body: bytes, failure: Failure | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        try:
            done(status, body, failure)
        except Exception as error:  # the caller's mistake must not cost other requests their connection
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the callback of an HTTP request failed", "exception": error}
            )


class HttpPool:
    """Connections to one server, opened when all are busy, up to a limit; beyond it requests wait in order.

    Counts over the pool's life: `requests` begun, `bytes_sent`, `bytes_received`.  Needs a running loop.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limit: int = 64,
        pipeline: int = 1,
        max_response: int = 64 << 20,
        reads_headers: bool = False,
    ) -> None:
        """`limit` connections, each with at most `pipeline` requests in flight; a body of more than
        `max_response` bytes ends its connection and is Broken.  `reads_headers` costs a little."""
        if limit < 1 or pipeline < 1:
            raise ValueError("a pool has at least one connection with one request in flight")
        self.host = host
        self.port = port
        self.limit = limit
        self.pipeline = pipeline
        self.max_response = max_response
        self._connection = _HeaderConnection if reads_headers else _Connection
        self.requests = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        # A connection stands here once for every request that it could take now.  First in, first out,
        # so that work spreads over all connections, and over what a switch put behind them.
        self._free: deque[_Connection] = deque()
        self._waiting: deque[Exchange] = deque()
        self._heads: dict[tuple[str, str, bytes], bytes] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._idler: asyncio.TimerHandle | None = None
        self._closed = False

    def request(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: bytes,
        done: Done,
        timeout: float = 10.0,
    ) -> Exchange:
        """Send a request; `done` is called once, later, never from within this call.

        `headers` are lines that `encode_headers` made; Host and Content-Length are added.  `timeout` is in
        seconds from now, waiting for a connection included, and noticed up to 50 ms late.

        `done` gets Unreachable when no connection could be opened, Timeout when no complete answer came
        in time, Broken when the connection died or the answer made no sense.  An answer that only the end
        of its connection delimits counts as Broken: it cannot be told from one that was cut off.
        ValueError for what cannot be a request.
        """
        head = self._heads.get((method, target, headers)) or self._encode_head(method, target, headers)
        now = time.monotonic()
        exchange = Exchange(b"%b%d\r\n\r\n%b" % (head, len(body), body), done, now + timeout)
        self.requests += 1
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        free = self._free
        while free:
            connection = free.popleft()
            if connection.open:  # one that died stays in the queue until its turn
                if now - connection.free_since > _FRESH and not connection.busy:
                    connection.lose("it was idle")
                    continue
                connection.send(exchange)
                return exchange
        self._waiting.append(exchange)
        self._grow()
        return exchange

    async def fetch(
        self, method: str, target: str, body: bytes = b"", headers: bytes = b"", timeout: float = 10.0
    ) -> Response:
        """The same for a coroutine: the answer, or the failure as an exception."""
        answer: asyncio.Future[Response] = self._loop.create_future()

        def done(status: int, body: bytes, failure: Failure | None) -> None:
            if answer.done():
                return  # the coroutine was cancelled
            if failure is None:
                answer.set_result(Response(status, body))
            else:
                answer.set_exception(failure)

        self.request(method, target, body, headers, done, timeout)
        return await answer

    @property
    def connections(self) -> int:
        """Open connections now."""
        return len(self._connections)

    async def close(self) -> None:
        """Close every connection now.  What is in flight is Broken, what waits is Unreachable."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._idler is not None:
            self._idler.cancel()
            self._idler = None
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._connections):
            connection.lose("the pool was closed")
        self._fail_waiting("the pool was closed")

    async def __aenter__(self) -> HttpPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _encode_head(self, method: str, target: str, headers: bytes) -> bytes:
        """Everything up to the value of Content-Length, which is the last header."""
        if method not in METHODS or method == "HEAD":
            # The parser cannot be told that an answer to HEAD has no body.
            raise ValueError(f"not a method that this client sends: {method!r}")
        if not _TARGET.fullmatch(target):
            raise ValueError(f"not a request target: {target!r}")
        if headers and not headers.endswith(b"\r\n"):
            raise ValueError("headers are whole lines: see encode_headers")
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        host = f"[{self.host}]" if ":" in self.host else self.host
        line = f"{method} {target} HTTP/1.1\r\nhost: {host}:{self.port}\r\n".encode()
        head = line + headers + b"content-length: "
        if len(head) <= _SHORT:
            self._heads[method, target, headers] = head
        return head

    def _grow(self) -> None:
        """Open a connection if somebody waits for one that nobody is opening yet."""
        opening = len(self._opening)
        if self._closed:
            self._loop.call_soon(self._fail_waiting, "the pool was closed")
        elif opening * self.pipeline < len(self._waiting) and len(self._connections) + opening < self.limit:
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        failure: OSError | None = None
        try:
            await self._loop.create_connection(lambda: self._connection(self), self.host, self.port)
        except OSError as error:
            failure = error
        # At once: a request that comes before this task has ended must not count on it.
        self._opening.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if failure is None:
            if self._waiting:  # the connection may be lost again by now
                self._grow()
        elif not self._connections:
            # Those who wait are served by the connections that are open, if there are any.
            self._fail_waiting(f"{self.host}:{self.port}: {failure.strerror or failure}")

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange._finish(0, b"", Unreachable(reason))

    def _offer(self, connection: _Connection) -> None:
        """A connection can take one more request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            connection.free_since = self._loop.time()  # time.monotonic(), which uvloop has read already
            self._free.append(connection)

    def _sweep(self) -> None:
        """End the requests whose time is up.  One look at all of them costs less than a timer for each."""
        now = time.monotonic()
        for connection in [c for c in self._connections if c.expired(now)]:
            connection.lose("another request on its connection took too long", now)
        if any(exchange._deadline <= now for exchange in self._waiting):
            late = [exchange for exchange in self._waiting if exchange._deadline <= now]
            self._waiting = deque(exchange for exchange in self._waiting if exchange._deadline > now)
            for exchange in late:
                exchange._finish(0, b"", Timeout("no connection was free in time; it was not sent"))
        busy = self._waiting or any(connection.busy for connection in self._connections)
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if busy and not self._closed else None

    def _close_idle(self) -> None:
        """Close the connections that nobody has used for a while; look again while any is open."""
        now = time.monotonic()
        for connection in [c for c in self._connections if c.stale(now)]:
            connection.lose("it was idle")
        self._idler = self._loop.call_later(_FRESH, self._close_idle) if self._connections else None


class _Connection(asyncio.Protocol):
    """One connection of a pool; answers come in the order of the requests."""

    def __init__(self, pool: HttpPool) -> None:
        self.open = False
        self.free_since = 0.0
        self._pool = pool
        self._flight: deque[Exchange] = deque()
        self._read_for: Exchange | None = None  # whose answer was expected at the last read
        self._body: list[bytes] = []
        self._size = 0
        self._transport: asyncio.Transport
        self._parser: HttpResponseParser | None = None

    @property
    def busy(self) -> bool:
        return bool(self._flight)

    def expired(self, now: float) -> bool:
        return any(exchange._deadline <= now for exchange in self._flight)

    def stale(self, now: float) -> bool:
        return not self._flight and now - self.free_since > _FRESH

    def send(self, exchange: Exchange) -> None:
        data, exchange._data = exchange._data, b""
        self._flight.append(exchange)
        exchange.sent = len(data)
        self._pool.bytes_sent += exchange.sent
        self._transport.write(data)

    def lose(self, reason: str, now: float = 0.0) -> None:
        """Drop the connection and end what is in flight: Timeout where the time was up, else Broken."""
        if not self.open:
            return
        self.open = False
        pool = self._pool
        pool._connections.discard(self)
        self._transport.abort()
        flight, self._flight = self._flight, deque()
        if pool._waiting:
            pool._grow()
        for exchange in flight:
            if exchange._deadline <= now:
                exchange._finish(0, b"", Timeout("no complete answer in time"))
            else:
                exchange._finish(0, b"", Broken(reason))

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._parser = HttpResponseParser(self)
        pool = self._pool
        if pool._closed:
            self._transport.abort()
            return
        self.open = True
        pool._connections.add(self)
        self.free_since = pool._loop.time()
        if pool._idler is None:
            pool._idler = pool._loop.call_later(_FRESH, pool._close_idle)
        for _ in range(pool.pipeline):
            pool._offer(self)

    def data_received(self, data: bytes) -> None:
        if not self._flight or self._parser is None:
            self.lose("an answer that nobody asked for")
            return
        self._pool.bytes_received += len(data)
        first = self._read_for = self._flight[0]
        first.received += len(data)
        if first.received > self._pool.max_response + _HEAD:
            self.lose(f"the answer is larger than {self._pool.max_response} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.lose(f"not an HTTP answer: {error}")

    def eof_received(self) -> None:
        self.lose("the server closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self._parser = None  # it holds this object's methods: a cycle
        self.lose(f"the connection died: {error}" if error else "the server closed the connection")

    # --- httptools ---

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > self._pool.max_response:
            self._body.clear()
            self.lose(f"the answer is larger than {self._pool.max_response} bytes")

    def on_message_complete(self) -> None:
        parts = self._body
        parser = self._parser
        if parser is None:
            return
        if not self._flight:
            self.lose("an answer that nobody asked for")
            return
        if (status := parser.get_status_code()) < 200:
            self._flight[0].forget()  # 100 Continue and the like only announce the answer
            return
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._body = []
            self._size = 0
        else:
            body = b""
        exchange = self._flight.popleft()
        if parser.should_keep_alive():
            # Before the callback: whoever waited longer than its next request goes first.
            self._pool._offer(self)
        else:
            self.lose("the server closed the connection")
        exchange._finish(status, body, None)


_OF_THE_CONNECTION = frozenset(
    (
        *(b"connection", b"content-length", b"date", b"keep-alive", b"proxy-connection", b"server", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
"""Headers that are not the application's."""


class _HeaderConnection(_Connection):
    """A connection that looks at response headers too."""

    _heads = True  # what comes now are headers, and not trailers, of which we need none
    _named: tuple[str, ...] = ()  # headers that Connection says are for us alone (RFC 9110, 7.6.1)

    def on_message_begin(self) -> None:
        self._heads = True
        flight = self._flight
        if not flight or (flight[0] is not self._read_for and self._pool.pipeline == 1):
            # One answer has ended in this read, and here is another.  Whoever made the server say more than
            # it was asked must not answer the next one, which was sent just now.
            self.lose("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._flight and self._heads:
            exchange, text = self._flight[0], value.decode("latin-1")
            match lower := name.lower():
                case b"content-type":
                    exchange.content_type = text
                case b"polyarch-cost":
                    exchange.cost = value
                case b"set-cookie":
                    exchange.cookies += (text,)
                case b"connection":
                    self._named += tuple(word.strip() for word in text.lower().split(","))
                case _ if lower not in _OF_THE_CONNECTION:
                    key = lower.decode("latin-1")
                    headers = exchange.headers
                    headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        self._heads = False
        if self._named:
            for name in self._named:
                if self._flight:
                    self._flight[0].headers.pop(name, None)
            self._named = ()
