"""An HTTP/1.1 server of callbacks: it survives what clients send, and hands on what is a request.

One request of a connection is handled at a time, so that pipelined ones are answered in order and take
effect in order (RFC 9112, 9.3.2).  A client that is slow, large, wrong or gone costs its own connection
and nothing else.
"""

from __future__ import annotations

import asyncio
import enum
import http
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from polyarch.runtimes.local.http_headers import header_line

__all__ = ["Handler", "HttpServer", "Limits", "Respond"]

_QUEUED = 16  # pipelined requests of one connection that wait before reading pauses
_LINGER = 2.0  # seconds that a client gets to read a last answer before its connection is cut
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
_BODILESS = (204, 304)
_COPIED = 64 << 10  # bytes of a body that are cheaper to copy than to write apart


class Limits(NamedTuple):
    """What a client may ask of the server: sizes in bytes, times in seconds."""

    target: int = 8 << 10
    """Longest request target; beyond it 414."""
    head: int = 16 << 10
    """Largest request line with headers; beyond it 431."""
    body: int = 1 << 20
    """Largest body; beyond it 413."""
    head_time: float = 10.0
    """From the first byte of a request to the end of its headers; beyond it 408."""
    body_time: float = 30.0
    """From there to the end of its body, beyond it 408; also how long an answer may wait to be read."""
    idle_time: float = 75.0
    """Between two requests; then the connection is closed."""


class Respond:
    """The answer to one request.  Call it once, now or later, on the server's loop."""

    __slots__ = ("_connection", "_request")

    def __init__(self, connection: _Connection, request: _Request) -> None:
        self._connection: _Connection | None = connection
        self._request = request

    def __call__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: bytes = b"",
    ) -> None:
        """Send it.  `headers` are lines that `encode_headers` made.  When the client has gone, nothing
        happens.  RuntimeError for a second answer, ValueError for one that HTTP does not allow."""
        connection = self._connection
        if connection is None:
            raise RuntimeError("this request was answered already")
        closes = connection.closes_after(self._request)
        data = connection.encode(self._request, status, body, content_type, headers, closes)
        self._connection = None
        connection.answer(data, closes)


Handler = Callable[[str, str, dict[str, str], bytes, Respond], None]
"""``handler(method, target, headers, body, respond)``, with header names in lower case.  An exception
before the answer becomes 500."""


class _Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    version: str


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
        self._now = 0.0  # a clock for limits, as coarse as the sweep: it costs nothing to read
        self._date = b""
        self._closing = False
        self._open: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    async def start(self) -> None:
        """Listen.  OSError when the port is in use."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: _Connection(self), self.host, self.port, backlog=1024
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        self._sweep()

    async def close(self, grace: float = 5.0) -> None:
        """Accept nobody, close idle connections, and give requests in progress `grace` seconds."""
        if self._listener is None:
            return
        self._listener.close()
        self._closing = True
        for connection in list(self._open):
            connection.close_when_idle()
        if self._open:
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                pass
        for connection in list(self._open):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._listener.wait_closed()

    @property
    def connections(self) -> int:
        """Open connections now."""
        return len(self._open)

    async def __aenter__(self) -> HttpServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _sweep(self) -> None:
        """Move the coarse clock, and look for clients that took too long."""
        self._now = time.monotonic()
        self._date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self._open):
            connection.check(self._now)
        shortest = min(self.limits.head_time, self.limits.body_time, self.limits.idle_time)
        self._sweeper = asyncio.get_running_loop().call_later(min(1.0, shortest / 4), self._sweep)


class _Phase(enum.Enum):
    """What a connection is reading."""

    NOTHING = 1
    HEAD = 2
    BODY = 3


class _Connection(asyncio.Protocol):
    """One client.  Parsing fills a queue of requests; they are handled one after the other."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport
        self._parser: HttpRequestParser | None = None
        self._since = server._now  # when the client's present duty began
        # Reading.
        self._phase = _Phase.NOTHING
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_size = 0
        self._body_size = 0
        self._raw = 0  # bytes since the read that ended the last message, whatever the parser made of them
        self._owes_continue = False
        self._rejected = False  # the rest of the stream means nothing
        self._reading = True
        # Answering.
        self._queue: deque[_Request | http.HTTPStatus] = deque()
        self._current: _Request | None = None
        self._advancing = False
        self._writable = True
        self._no_more = False  # the client has finished sending
        self._ending = False  # the last answer was sent

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._parser = HttpRequestParser(self)
        self._server._open.add(self)
        self._server._empty.clear()
        if self._server._closing:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._parser = None  # it holds this object's methods: a cycle
        self._queue.clear()
        self._server._open.discard(self)
        if not self._server._open:
            self._server._empty.set()

    def data_received(self, data: bytes) -> None:
        self._server.bytes_received += len(data)
        if self._ending or self._rejected or self._parser is None:
            return
        self._raw += len(data)
        try:
            self._feed(data)
        except HttpParserError:
            self._reject(http.HTTPStatus.BAD_REQUEST)
        if self._phase is not _Phase.NOTHING:
            self._check_raw()
        if self._queue or self._owes_continue:
            self._advance()

    def eof_received(self) -> bool:
        """A client may close its half and still read the answers to what it sent."""
        self._no_more = True
        return not self._ending and (self._current is not None or bool(self._queue))

    def pause_writing(self) -> None:
        self._writable = False
        self._since = self._server._now
        self._regulate()

    def resume_writing(self) -> None:
        self._writable = True
        self._since = self._server._now
        self._advance()

    # --- reading: httptools calls on_... ---

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # We ignore the wish and answer (RFC 9110, 7.8), but this parser has lost its place in the
            # stream: on_message_complete made this the connection's last request.
            self._rejected = True

    def on_message_begin(self) -> None:
        self._phase = _Phase.HEAD
        self._since = self._server._now
        self._url = b""
        self._headers = {}
        self._head_size = self._body_size = 0

    def on_url(self, part: bytes) -> None:
        self._url += part
        if len(self._url) > self._limits.target:
            self._reject(http.HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size + len(self._url) > self._limits.head:
            self._reject(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._phase is _Phase.HEAD:  # else it is a trailer, and we need none
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers = self._headers
            headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        self._since = self._server._now
        if self._rejected:
            return
        parser, headers = self._parser, self._headers
        assert parser is not None
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._reject(http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif version == "1.1" and "host" not in headers:
            self._reject(http.HTTPStatus.BAD_REQUEST)
        elif int(headers.get("content-length", 0)) > self._limits.body:
            self._reject(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif parser.should_upgrade() and (
            "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        ):
            # The parser would take the body for what comes after the upgrade.
            self._reject(http.HTTPStatus.NOT_IMPLEMENTED)
        elif "expect" in headers and version == "1.1":
            if headers["expect"].lower() == "100-continue":
                self._owes_continue = True
            else:
                self._reject(http.HTTPStatus.EXPECTATION_FAILED)

    def on_body(self, part: bytes) -> None:
        self._owes_continue = False  # it did not wait for our word
        self._body_size += len(part)
        if self._body_size > self._limits.body:
            self._reject(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        self._phase = _Phase.NOTHING
        self._raw = 0
        parser = self._parser
        if self._rejected or parser is None:
            return
        self._owes_continue = False
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        if not keep_alive:
            self._rejected = True  # what follows the last request is not one
        body = b"".join(self._body)
        self._body.clear()
        self._queue.append(
            _Request(
                parser.get_method().decode(),
                self._url.decode("latin-1"),
                self._headers,
                body,
                keep_alive,
                parser.get_http_version(),
            )
        )

    def _check_raw(self) -> None:
        """Bound what the parser holds back: a header that does not end, chunk extensions, trailers."""
        if self._phase is _Phase.HEAD:
            if self._raw > self._limits.head:
                self._reject(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        # A byte in a chunk of its own is six on the wire.
        elif self._raw > 2 * self._limits.head + 8 * self._body_size:
            self._reject(http.HTTPStatus.BAD_REQUEST)

    def _reject(self, status: http.HTTPStatus) -> None:
        """Answer this when its turn comes, and read no more requests from this client."""
        if not self._rejected:
            self._rejected = True
            self._owes_continue = False
            self._body.clear()
            self._queue.append(status)

    # --- answering ---

    def _advance(self) -> None:
        """Handle requests until one has no answer yet.  A loop, since answers often come at once, and
        a recursion would be as deep as the pipeline."""
        if self._advancing:
            return
        self._advancing = True
        while self._queue and self._current is None and self._writable and not self._ending:
            entry = self._queue.popleft()
            if isinstance(entry, http.HTTPStatus):
                self._write(*self.encode(None, entry, entry.phrase.encode(), "text/plain", b"", closes=True))
                self._end()
            else:
                self._handle(entry)
        self._advancing = False
        if self._owes_continue and self._current is None and not self._queue and not self._ending:
            self._owes_continue = False
            self._since = self._server._now
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._regulate()

    def _handle(self, request: _Request) -> None:
        self._current = request
        respond = Respond(self, request)
        server = self._server
        server.requests += 1
        try:
            server.handler(request.method, request.target, request.headers, request.body, respond)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the handler of {request.method} {request.target} failed", "exception": error}
            )
            if respond._connection is not None:
                respond(500, b"Internal Server Error", "text/plain")

    def closes_after(self, request: _Request) -> bool:
        """Whether the answer to a request is the connection's last."""
        if not request.keep_alive:
            return True
        if self._queue:
            return False
        return self._no_more or (self._server._closing and self._phase is _Phase.NOTHING)

    def encode(
        self,
        request: _Request | None,
        status: int,
        body: bytes,
        content_type: str,
        headers: bytes,
        closes: bool,
    ) -> tuple[bytes, ...]:
        """An answer as it goes over the wire; a large body stays apart, since joining would copy it."""
        line = _STATUS_LINES.get(status)
        if line is None or status < 200:
            raise ValueError(f"not the status of an answer: {status}")
        if headers and not headers.endswith(b"\r\n"):
            raise ValueError("headers are whole lines: see encode_headers")
        if closes:
            headers += b"connection: close\r\n"
        elif request is not None and request.version == "1.0":
            headers += b"connection: keep-alive\r\n"
        date = self._server._date
        if status in _BODILESS:
            return (b"%b%b%b\r\n" % (line, date, headers),)
        type_line = header_line("content-type", content_type)
        head = b"%b%b%b%bcontent-length: %d\r\n\r\n" % (line, date, type_line, headers, len(body))
        if request is not None and request.method == "HEAD":
            return (head,)
        return (head + body,) if len(body) < _COPIED else (head, body)

    def answer(self, data: tuple[bytes, ...], closes: bool) -> None:
        """What `encode` made goes out, and the next request comes in."""
        if self._ending:
            return
        self._write(*data)
        self._current = None
        self._since = self._server._now
        if closes:
            self._end()
        elif self._queue or self._owes_continue:
            self._advance()

    def _write(self, *parts: bytes) -> None:
        if self._transport.is_closing():
            return
        self._server.bytes_sent += sum(map(len, parts))
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def _regulate(self) -> None:
        """Read only while the queue is short and the client reads its answers (backpressure)."""
        reading = self._ending or (self._writable and len(self._queue) < _QUEUED)
        if reading != self._reading and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- ending ---

    def _end(self) -> None:
        """Close our half, and read on for a while: closing with unread input would make the kernel send a
        reset, and the client might lose the answer (RFC 9112, 9.6)."""
        self._ending = True
        self._since = self._server._now
        if self._transport.is_closing():
            return
        if self._no_more:
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection
            self._transport.abort()
        self._regulate()

    def close_when_idle(self) -> None:
        """The server closes: now, or after the requests that are in progress."""
        if self._current is None and not self._queue and self._phase is _Phase.NOTHING and not self._ending:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def check(self, now: float) -> None:
        """Called about once a second: has the client taken too long for what it has to do?"""
        waited = now - self._since
        limits = self._limits
        if self._ending:
            unread = self._transport.get_write_buffer_size() > 0
            if waited > (limits.body_time if unread else _LINGER):
                self.abort()
        elif not self._writable:
            if waited > limits.body_time:
                self.abort()
        elif self._current is not None or self._queue:
            self._since = now  # it is our turn, not the client's
        elif self._phase is _Phase.NOTHING:
            if waited > limits.idle_time:
                self._transport.close()
        elif waited > (limits.head_time if self._phase is _Phase.HEAD else limits.body_time):
            self._reject(http.HTTPStatus.REQUEST_TIMEOUT)
            self._advance()
