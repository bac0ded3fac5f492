"""One connection of the HTTP server: from bytes to requests, and from answers to bytes.

The stream is cut into requests by httptools' parser.  Where two readers of one stream could come to cut it
differently (which is how requests are smuggled past a switch), we are stricter than it: see `_trouble`.
"""

from __future__ import annotations

import asyncio
import enum
import http
import re
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from polyarch.runtimes.local.http_headers import METHODS, encode_headers, header_line

if TYPE_CHECKING:
    from polyarch.runtimes.local.http_server import HttpServer

__all__ = ["HttpConnection", "Limits", "Respond"]

_LATER = encode_headers({"retry-after": "1"})  # seconds; goes with every 503
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
_BODILESS = (204, 304)
_COPIED = 64 << 10  # bytes of a body that are cheaper to copy than to write apart
_ORIGIN = re.compile(r"https?://[^/?]*/?", re.IGNORECASE)


class Limits(NamedTuple):
    """What clients may ask of the server: sizes in bytes, times in seconds."""

    target: int = 8 << 10
    """Longest request target; beyond it 414."""
    head: int = 16 << 10
    """Largest request line with headers; beyond it 431."""
    fields: int = 100
    """Header lines of a request; beyond it 431."""
    body: int = 1 << 20
    """Largest body; beyond it 413."""
    head_time: float = 10.0
    """From the first byte of a request to the end of its headers; beyond it 408.  Also from the beginning
    of a connection to that first byte; beyond it the connection is closed."""
    body_time: float = 30.0
    """From there to the end of its body, beyond it 408; also how long an answer may wait to be read."""
    idle_time: float = 75.0
    """Between two requests; then the connection is closed."""
    linger: float = 2.0
    """How long a client gets to read the last answer before its connection is cut."""
    pipelined: int = 16
    """Requests of one connection that wait for their turn, about; beyond it we parse and read no more from it
    until the first ones are answered.  So too when their bodies are more than `body`."""
    slice: int = 16 << 10
    """What is parsed at a time: a small request is 25 bytes on the wire, and 20 times that in memory."""
    held: int = 64 << 20
    """Bodies of all connections that are being received or wait for their turn; beyond it 503.  A body
    whose turn has come is the application's."""
    connections: int = 4096
    """Open ones, but no more than half of the file descriptors that the process may have; beyond it 503 and
    the end of the connection."""
    turned_away: int = 64
    """Connections that are open only to be told 503; beyond it newcomers are cut without a word."""


class Respond:
    """The answer to one request.  Call it once, now or later, on the server's loop."""

    __slots__ = ("_connection", "_request")

    def __init__(self, connection: HttpConnection, request: _Request) -> None:
        self._connection: HttpConnection | None = connection
        self._request = request

    @property
    def client(self) -> str:
        """Host of who waits for the answer; empty: it has had it."""
        return "" if self._connection is None else self._connection.client

    @property
    def gone(self) -> bool:
        """Whether nobody may wait any more: the client has closed its connection, or its half of it (most
        that do, have gone; one that reads on is right to)."""
        return self._connection is None or self._connection.left

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


class _Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    version: str


class _Phase(enum.Enum):
    """What a connection is reading."""

    NOTHING = 1
    HEAD = 2
    BODY = 3


class HttpConnection(asyncio.Protocol):
    """One client.  Parsing fills a queue of requests; they are handled one after the other."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport
        self._parser: HttpRequestParser | None = None
        self.client = ""
        """Host of the client."""
        self._since = server.now  # when the client's present duty began
        # Reading.
        self._phase = _Phase.NOTHING
        self._new = True  # it has not begun a request yet
        self._method = self._version = ""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._fields = 0
        self._body = bytearray()  # parts in a list would cost 40 bytes each, however small
        self._held = 0  # bytes of the body that arrives and of those that wait
        self._unparsed = b""  # there is something only while the queue is full
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
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if peer else ""
        server = self._server
        if server.closing:
            self.abort()
        elif len(server.open) < server.most:
            self._parser = HttpRequestParser(self)
            server.open.add(self)
            server.empty.clear()
        elif len(server.turned_away) < self._limits.turned_away:
            server.turned_away.add(self)
            self._reject(http.HTTPStatus.SERVICE_UNAVAILABLE)
            self._advance()
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._parser = None  # it holds this object's methods: a cycle
        self._queue.clear()
        self._body.clear()
        self._unparsed = b""
        self._release(self._held)
        self._server.turned_away.discard(self)
        self._server.open.discard(self)
        if not self._server.open:
            self._server.empty.set()

    def data_received(self, data: bytes) -> None:
        self._server.bytes_received += len(data)
        if self._unparsed or len(data) > self._limits.slice:
            self._unparsed += data
            self._parse_slices()
        else:
            self._parse(data)
        if self._queue or self._owes_continue:
            self._advance()

    def eof_received(self) -> bool:
        """A client may close its half and still read the answers to what it sent."""
        self._no_more = True
        return not self._ending and (self._current is not None or bool(self._queue or self._unparsed))

    @property
    def left(self) -> bool:
        """Whether the client has finished sending, or all is over."""
        return self._no_more or self._ending

    def pause_writing(self) -> None:
        self._writable = False
        self._since = self._server.now
        self._regulate()

    def resume_writing(self) -> None:
        self._writable = True
        self._since = self._server.now
        self._advance()

    # --- reading: httptools calls on_... ---

    def _parse(self, data: bytes) -> None:
        if self._ending or self._rejected or self._parser is None:
            return
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # We ignore the wish and answer (RFC 9110, 7.8), but this parser has lost its place in the
            # stream: on_message_complete made this the connection's last request.
            self._rejected = True
        except HttpParserError:
            self._reject(http.HTTPStatus.BAD_REQUEST)
        if self._phase is not _Phase.NOTHING:
            self._check_raw()

    def _parse_slices(self) -> None:
        """Parse on, slice by slice, until enough requests wait."""
        size = self._limits.slice
        while self._unparsed and not self._full():
            data, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse(data)

    def _full(self) -> bool:
        """Whether as many requests wait as may."""
        waiting = len(self._queue)
        return waiting >= self._limits.pipelined or (waiting > 0 and self._held > self._limits.body)

    def on_message_begin(self) -> None:
        self._phase = _Phase.HEAD
        self._new = False
        self._since = self._server.now
        self._url = b""
        self._headers = {}
        self._head_size = self._body_size = self._fields = 0

    def on_url(self, part: bytes) -> None:
        self._url += part
        if len(self._url) > self._limits.target:
            self._reject(http.HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        self._fields += 1
        limits = self._limits
        if self._head_size + len(self._url) > limits.head or self._fields > limits.fields:
            self._reject(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._phase is _Phase.HEAD:  # else it is a trailer, and we need none
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
            headers = self._headers
            if key in headers:  # RFC 9110, 5.3; for cookies RFC 9113, 8.2.3
                text = f"{headers[key]}; {text}" if key == "cookie" else f"{headers[key]}, {text}"
            headers[key] = text

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        self._since = self._server.now
        parser = self._parser
        if self._rejected or parser is None:
            return
        self._method = parser.get_method().decode()
        self._version = parser.get_http_version()
        trouble = self._trouble(parser, self._version, self._headers)
        if trouble is not None:
            self._reject(trouble)
        elif "expect" in self._headers and self._version == "1.1":
            self._owes_continue = True

    def _trouble(
        self, parser: HttpRequestParser, version: str, headers: dict[str, str]
    ) -> http.HTTPStatus | None:
        """Why a request with this head is not for us."""
        coding = headers.get("transfer-encoding")
        if version not in ("1.1", "1.0"):
            return http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        if self._method not in METHODS:
            return http.HTTPStatus.NOT_IMPLEMENTED
        # RFC 9112, 3.2: exactly one Host (two have become "a, b").
        if " " in headers.get("host", "" if version == "1.0" else " "):
            return http.HTTPStatus.BAD_REQUEST
        # RFC 9112, 6.1: a coding in HTTP/1.0 is an error, and of an unknown one nobody knows the end.
        if coding is not None and version == "1.0":
            return http.HTTPStatus.BAD_REQUEST
        if coding is not None and coding.lower() != "chunked":
            return http.HTTPStatus.NOT_IMPLEMENTED
        if int(headers.get("content-length", 0)) > self._limits.body:
            return http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if parser.should_upgrade() and (coding is not None or headers.get("content-length", "0") != "0"):
            # The parser would take the body for what comes after the upgrade.
            return http.HTTPStatus.NOT_IMPLEMENTED
        if version == "1.1" and headers.get("expect", "100-continue").lower() != "100-continue":
            return http.HTTPStatus.EXPECTATION_FAILED
        return None

    def on_body(self, part: bytes) -> None:
        if self._rejected:
            return
        self._owes_continue = False  # it did not wait for our word
        self._body_size += len(part)
        self._held += len(part)
        self._server.held += len(part)
        if self._body_size > self._limits.body:
            self._reject(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif self._server.held > self._limits.held:
            self._reject(http.HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._body += part

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
        body = b""
        if self._body:
            body = bytes(self._body)
            self._body.clear()
        target = self._url.decode("latin-1")
        if target[:1] not in "/*":  # RFC 9112, 3.2.2: as clients ask a proxy
            target = _ORIGIN.sub("/", target, count=1)
        self._queue.append(_Request(self._method, target, self._headers, body, keep_alive, self._version))

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
            self._release(self._held - sum(len(r.body) for r in self._queue if isinstance(r, _Request)))
            self._queue.append(status)

    def _release(self, size: int) -> None:
        """So many bytes of bodies are held no more."""
        self._held -= size
        self._server.held -= size

    # --- answering ---

    def _advance(self) -> None:
        """Handle requests until one has no answer yet.  A loop, since answers often come at once, and
        a recursion would be as deep as the pipeline."""
        if self._advancing:
            return
        self._advancing = True
        while not self._ending:
            if self._unparsed:
                self._parse_slices()
            if not self._queue or self._current is not None or not self._writable:
                break
            entry = self._queue.popleft()
            if isinstance(entry, http.HTTPStatus):
                headers = _LATER if entry is http.HTTPStatus.SERVICE_UNAVAILABLE else b""
                answer = self.encode(None, entry, entry.phrase.encode(), "text/plain", headers, closes=True)
                self._write(*answer)
                self._end()
            else:
                if entry.body:
                    self._release(len(entry.body))
                self._handle(entry)
        self._advancing = False
        if self._owes_continue and not self._ending and self._current is None and not self._queue:
            self._owes_continue = False
            self._since = self._server.now
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._no_more and not self._ending and self._current is None and not self._queue:
            self._end()  # what it sent last was not a whole request
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
        if self._queue or self._unparsed:
            return False
        return self._no_more or (self._server.closing and self._phase is _Phase.NOTHING)

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
        if not 200 <= status <= 599:
            raise ValueError(f"not the status of an answer: {status}")
        if type(body) is not bytes:
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        if headers and not headers.endswith(b"\r\n"):
            raise ValueError("headers are whole lines: see encode_headers")
        if closes:
            headers += b"connection: close\r\n"
        elif request is not None and request.version == "1.0":
            headers += b"connection: keep-alive\r\n"
        date = self._server.date
        if status in _BODILESS:
            return (b"%b%b%b\r\n" % (line, date, headers),)
        type_line = header_line("content-type", content_type) if content_type else b""
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
        self._since = self._server.now
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
        reading = self._ending or (self._writable and not (self._queue and self._full()))
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
        self._since = self._server.now
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
            if waited > (limits.body_time if unread else limits.linger):
                self.abort()
        elif not self._writable:
            if waited > limits.body_time:
                self.abort()
        elif self._current is not None or self._queue:
            self._since = now  # it is our turn, not the client's
        elif self._phase is _Phase.NOTHING:
            if waited > (limits.head_time if self._new else limits.idle_time):
                if self._transport.get_write_buffer_size():
                    self.abort()  # it does not read: a close would wait for it
                else:
                    self._transport.close()
        elif waited > (limits.head_time if self._phase is _Phase.HEAD else limits.body_time):
            self._reject(http.HTTPStatus.REQUEST_TIMEOUT)
            self._advance()
