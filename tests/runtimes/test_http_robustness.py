"""What HTTP costs us when clients and servers are slow, wrong, too many or gone; and real clients.

After each test of the server nothing may be left: no connection, body, file descriptor, task or report.
"""

import asyncio
import contextlib
import gc
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polyarch.blocks.switch import Switch
from polyarch.core import Broken, Refused, Request, Response, Web, get, post
from polyarch.core.errors import Failure
from polyarch.core.http import Http
from polyarch.runtimes.local import http_client
from polyarch.runtimes.local.http_client import HttpPool
from polyarch.runtimes.local.http_connection import HttpConnection
from polyarch.runtimes.local.http_links import patience
from polyarch.runtimes.local.http_server import Handler, HttpServer, Limits, Respond
from polyarch.runtimes.local.process import LocalProcess

HOST = b"POST / HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def echo(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
    """Answers with what arrived."""
    respond(200, f"{method} {target} ".encode() + body, "text/plain")


class Held:
    """A handler that answers when the test tells it to."""

    def __init__(self) -> None:
        self.waiting: list[Respond] = []

    def __call__(
        self, method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond
    ) -> None:
        self.waiting.append(respond)

    def answer(self, body: bytes = b"late") -> None:
        waiting, self.waiting = self.waiting, []
        for respond in waiting:
            respond(200, body, "text/plain")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


def files() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def objects() -> int:
    """Connections of servers that somebody holds."""
    gc.collect()
    return sum(type(o) is HttpConnection for o in gc.get_objects())


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Afterwards as many file descriptors and tasks as before, and no complaint of the loop."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    async with bare_server(upstream(b"")) as port:  # a loop keeps a file or two of its first server
        await talk(port, b"")
    await asyncio.sleep(0.01)
    before, tasks = files(), asyncio.all_tasks()
    yield
    await until(lambda: files() <= before and asyncio.all_tasks() <= tasks)
    assert reported == []


def serve(main: Callable[[HttpServer], Awaitable[None]], handler: Handler = echo, **limits: Any) -> None:
    """Run a test against a server, which must have nothing left of it."""

    async def whole() -> None:
        async with nothing_left():
            async with HttpServer(handler, limits=Limits(**limits)) as server:
                await main(server)
                await until(lambda: not server.open and not server.turned_away)
                assert server.held == 0

    before = objects()
    uvloop.run(asyncio.wait_for(whole(), 30))
    assert objects() <= before


class Client:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.send = writer.write

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split(" ")[1]), headers, body

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection, or resets it."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := await self.reader.read(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def vanish(self) -> None:
        """Close with a reset, as the kernel of a killed process may."""
        reset = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def talk(port: int, data: bytes) -> bytes:
    """All that comes back for some bytes, after which nothing follows."""
    async with client(port) as c:
        c.send(data)
        c.writer.write_eof()
        return await c.rest()


# -- slow clients, and those that say nothing -------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        (HOST + b"content-length: 1000\r\n\r\n", b"a"),
        (HOST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["head", "body", "chunks"],
)
def test_a_client_that_sends_drop_by_drop_gets_408_however_steadily_it_drops(
    begin: bytes, drop: bytes
) -> None:
    async def main(server: HttpServer) -> None:
        async with client(server.port) as c:
            c.send(begin)
            ended = asyncio.create_task(c.rest())
            began = time.monotonic()
            while not ended.done():
                c.send(drop)
                await asyncio.sleep(0.01)
                assert time.monotonic() < began + 5
            assert (await ended).startswith(b"HTTP/1.1 408 ")
            assert server.requests == 0

    serve(main, head_time=0.08, body_time=0.08, linger=0.05)


def test_a_connection_that_never_says_a_word_is_closed_sooner_than_one_that_was_useful() -> None:
    async def main(server: HttpServer) -> None:
        async with client(server.port) as mute, client(server.port) as useful:
            useful.send(GET % 1)
            await useful.answer()
            assert await mute.rest() == b""
            useful.send(GET % 2)  # later than the mute one's time
            assert (await useful.answer())[0] == 200
            assert await useful.rest() == b""

    serve(main, head_time=0.05, idle_time=1.0)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", HOST + b"content-length: 9\r\n\r\nabc", GET % 1, GET % 1 * 3],
    ids=["silent", "in the head", "in the body", "waiting", "pipelining"],
)
@pytest.mark.parametrize("how", ["reset", "close", "nothing is heard of it"])
def test_a_client_that_goes_away_leaves_nothing_and_its_answer_reaches_nobody(begun: bytes, how: str) -> None:
    held = Held()

    async def main(server: HttpServer) -> None:
        waits = begun.startswith(b"GET /1")
        async with client(server.port) as c:
            c.send(begun)
            await until(lambda: len(held.waiting) == waits and bool(server.open))
            await until(lambda: server.bytes_received == len(begun))
            if how == "reset":
                c.vanish()
                await until(lambda: not server.open)
            elif how == "close":
                c.writer.close()
            if waits:
                held.answer()
            if how == "nothing is heard of it":  # its connection stays, and it never reads or sends
                while server.open:
                    held.answer()
                    await asyncio.sleep(0.01)
        while server.open or held.waiting:
            held.answer()
            await asyncio.sleep(0.01)

    serve(main, held, head_time=0.05, body_time=0.05, idle_time=0.05, linger=0.05)


class Wire:
    """A transport whose other end is the test."""

    def __init__(self, unread: int = 0) -> None:
        self.out = bytearray()
        self.unread = unread
        self.ended = False  # we have closed our half
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.out += data

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = self.closed = True

    def abort(self) -> None:
        self.ended = self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None  # it has no address

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def connected(handler: Handler, wire: Wire, **limits: Any) -> HttpConnection:
    """A connection of a server, without a loop."""
    connection = HttpConnection(HttpServer(handler, limits=Limits(**limits)))
    connection.connection_made(wire)  # type: ignore[arg-type]
    return connection


def test_a_client_that_leaves_the_end_of_its_answer_unread_is_cut() -> None:
    wire = Wire(unread=10)  # too little to stop us writing
    connection = connected(echo, wire, idle_time=1.0)
    connection.data_received(GET % 1)
    connection.check(2.0)
    assert wire.aborted, "a close would wait for it to read"


# -- what is too large, too many or malformed -------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (HOST + b"x: y\r\n" * 99, b"", 200),
        (HOST + b"x: y\r\n" * 100, b"", 431),
        (HOST + b"transfer-encoding: chunked\r\n", b"0\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
        (HOST + b"host: y\r\n", b"", 400),
        (b"GET / HTTP/1.1\r\nhost: x y\r\n", b"", 400),
        (b"GET / HTTP/1.1\r\n", b"", 400),
        (HOST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n", HELLO, 400),
        (HOST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", HELLO, 400),
        (HOST + b"content-length: 5\r\ncontent-length: 6\r\n", b"hello", 400),
        (HOST + b"content-length: 5, 5\r\n", b"hello", 400),
        (HOST + b"content-length: +5\r\n", b"hello", 400),
        (HOST + b"content-length: 0x5\r\n", b"hello", 400),
        (HOST + b"content-length: 5 \t\r\n", b"hello", 200),
        (HOST + b"content-length: 99999999999999999999\r\n", b"", 400),
        (HOST + b"transfer-encoding : chunked\r\n", HELLO, 400),
        (HOST + b"transfer-encoding: xchunked\r\n", HELLO, 501),
        (HOST + b"transfer-encoding: chunked, identity\r\n", HELLO, 400),
        (HOST + b"transfer-encoding: gzip, chunked\r\n", HELLO, 501),
        (HOST + b"transfer-encoding:\r\n chunked\r\n", HELLO, 400),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n", HELLO, 400),
        (HOST + b"transfer-encoding: chunked\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", 400),
        (HOST + b"transfer-encoding: chunked\r\n", b"5\nhello\n0\n\n", 400),
        (HOST + b"transfer-encoding: chunked\r\n", b"5\r\nhelloXX\r\n0\r\n\r\n", 400),
        (HOST + b"transfer-encoding: chunked\r\n", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", 400),
        (HOST + b"x: a\r\n folded\r\n", b"", 400),
        (HOST + b"x: a\x00b\r\n", b"", 400),
        (HOST + b"x: a\rb: c\r\n", b"", 400),
        (HOST + b"x: a\nb: c\r\n", b"", 400),
        (b"GET /a b HTTP/1.1\r\nhost: x\r\n", b"", 400),
        (b"FOO / HTTP/1.1\r\nhost: x\r\n", b"", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n", b"", 501),
        (b"TRACE / HTTP/1.1\r\nhost: x\r\n", b"", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"", 400),
    ],
)
def test_a_request_whose_end_two_readers_could_see_in_two_places_is_refused_and_nothing_after_it_is_read(
    head: bytes, body: bytes, status: int
) -> None:
    wire = Wire()
    connection = connected(echo, wire)
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    connection.data_received(head + b"\r\n" + body + smuggled)
    answers = statuses(bytes(wire.out))
    if status == 200:
        assert answers == [200, 200]
    else:
        assert answers == [status]
        assert wire.ended
        assert connection._server.requests == 0


def statuses(stream: bytes) -> list[int]:
    """The statuses of the answers that a stream consists of, each of them whole."""
    found = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        line = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert end, head
        assert line, head
        found.append(int(line[1]))
        length = re.search(rb"\ncontent-length: (\d+)", head)
        if length is None:
            assert found[-1] in (100, 204, 304)
        else:
            assert len(stream) >= int(length[1])
            stream = stream[int(length[1]) :]
    return found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HOST + b"x: " + b"y" * 40_000, 431),
        (HOST + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 40_000, 400),
    ],
    ids=["a header", "a chunk extension"],
)
def test_what_does_not_end_is_refused_before_its_end(data: bytes, status: int) -> None:
    wire = Wire()
    connection = connected(echo, wire)
    for i in range(0, len(data), 1000):
        connection.data_received(data[i : i + 1000])
    assert statuses(bytes(wire.out)) == [status]


def test_a_target_as_proxies_get_it_is_the_same_resource_and_cookies_in_two_lines_are_one() -> None:
    seen: list[tuple[str, str]] = []

    def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
        seen.append((target, headers.get("cookie", "")))
        respond(200)

    connection = connected(handler, Wire())
    for target in (b"http://x:80/a?b", b"HTTP://x", b"http://x?q", b"/http://x"):
        connection.data_received(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % target)
    connection.data_received(b"GET * HTTP/1.1\r\nhost: x\r\ncookie: a=1\r\ncookie: b=2\r\n\r\n")
    assert seen == [("/a?b", ""), ("/", ""), ("/?q", ""), ("/http://x", ""), ("*", "a=1; b=2")]


# -- bounds on all clients together -----------------------------------------------------------------------


def test_connections_beyond_the_bound_are_told_503_and_when_to_come_back_and_the_others_are_served() -> None:
    async def main(server: HttpServer) -> None:
        async with contextlib.AsyncExitStack() as inside:
            served = [await inside.enter_async_context(client(server.port)) for _ in range(3)]
            await until(lambda: server.connections == 3)
            before = files()
            flood = []
            for _ in range(40):
                async with asyncio.timeout(5):
                    flood.append(await inside.enter_async_context(client(server.port)))
                flood[-1].send(GET % 1)
            told = 0
            for c in flood:
                answer = await c.rest()
                if answer:
                    assert answer.startswith(b"HTTP/1.1 503 ")
                    assert b"\r\nretry-after: 1\r\n" in answer
                    assert b"\r\nconnection: close\r\n" in answer
                    told += 1
            assert told >= 5
            assert server.connections == 3
            assert len(server.turned_away) <= 5
            assert files() <= before + len(flood) + 5, "ours and theirs are in this process"
            for c in served:
                c.send(GET % 1)
                assert (await c.answer())[0] == 200
            served[0].writer.close()
            await until(lambda: server.connections == 2)
            async with client(server.port) as c:
                c.send(GET % 1)
                assert (await c.answer())[0] == 200
        assert server.requests == 4

    serve(main, connections=3, turned_away=5, linger=1.0)


def test_no_more_connections_are_taken_than_half_of_the_files_that_the_process_may_open() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert HttpServer(echo).most == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bodies_that_are_under_way_are_bounded_in_sum_and_what_exceeds_it_gets_503() -> None:
    async def main(server: HttpServer) -> None:
        async with contextlib.AsyncExitStack() as inside:
            uploads = []
            for i in range(10):
                uploads.append(await inside.enter_async_context(client(server.port)))
                uploads[i].send(HOST + b"content-length: 20000\r\n\r\n" + bytes(19_000))
                expected = min(5, i + 1) * 19_000
                await until(partial(lambda least: server.held >= least, expected))
            ends = await asyncio.gather(*(c.answer() for c in uploads[5:]))
            assert [(status, headers["retry-after"]) for status, headers, _ in ends] == [(503, "1")] * 5
            assert server.held == 95_000
            for c in uploads[:5]:
                c.send(bytes(1000))
                assert (await c.answer())[0] == 200
            assert server.held == 0

    serve(main, held=100_000, linger=0.2)


def test_pipelined_bodies_wait_at_their_sender_and_not_in_our_memory_and_come_in_order() -> None:
    held = Held()
    size = 50_000

    async def main(server: HttpServer) -> None:
        async with client(server.port) as c:
            request = HOST + b"content-length: %d\r\n\r\n" % size + bytes(size)
            c.send(request * 15)
            await until(lambda: bool(held.waiting))
            most = 0
            for i in range(15):
                await until(lambda: bool(held.waiting))
                if i < 5:
                    await asyncio.sleep(0.02)  # time to read more than it should
                most = max(most, server.held)
                held.answer(b"%d" % i)
            assert [(await c.answer())[2] for _ in range(15)] == [b"%d" % i for i in range(15)]
            assert most <= 100_000 + (256 << 10), "what it may hold, and what one read brought"

    serve(main, held, body=100_000)


def test_pipelined_requests_that_are_too_many_are_not_even_read_until_their_turn_is_near() -> None:
    held = Held()

    async def main(server: HttpServer) -> None:
        async with client(server.port) as c:
            c.send(GET % 1 * 100_000)
            await until(lambda: bool(held.waiting))
            await asyncio.sleep(0.05)  # time to read more than it should
            assert server.bytes_received <= 2 * (256 << 10), "one read brings more than may wait"
            c.vanish()
        while server.open or held.waiting:
            held.answer()
            await asyncio.sleep(0.01)

    serve(main, held)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"polyarch-patience": "0.25"}, 0.25),
        ({"polyarch-patience": "1e9", "prefer": "wait=1"}, math.inf),
        ({"prefer": "wait=10"}, 10.0),  # RFC 7240, 4.3
        ({"prefer": "respond-async, Wait = 3; x=y"}, 3.0),
        ({"prefer": "await=10"}, math.inf),
        ({"prefer": "wait=-1"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_request_may_say_how_long_its_sender_waits(headers: dict[str, str], seconds: float) -> None:
    assert patience(headers) == seconds


@pytest.mark.parametrize("last", [200, 0], ids=["whole", "not whole"])
def test_what_was_sent_before_a_client_closed_its_half_is_answered_and_then_we_close(last: int) -> None:
    first: list[Respond] = []

    def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
        if first:
            respond(200)
        else:
            first.append(respond)

    wire = Wire()
    connection = connected(handler, wire, body=60, slice=64)  # so that most of it is not parsed at once
    request = HOST + b"content-length: 60\r\n\r\n" + bytes(60)
    connection.data_received(request * 3 + request[: last or -1])
    assert not first[0].gone
    assert connection.eof_received(), "we have still to answer"
    assert first[0].gone, "most clients that have nothing to say any more do not listen either"
    first[0](200)
    assert statuses(bytes(wire.out)) == ([200] * 4 if last else [200] * 3)
    assert wire.ended


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost:\r\n\r\n" * 10_000,
        HOST + b"a:\r\n" * 95,
        HOST + b"x: " + b"y" * 250_000,
        HOST + b"transfer-encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * 36_000,
        HOST + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 250_000,
    ],
    ids=["pipelined", "short headers", "a long header", "short chunks", "a chunk extension"],
)
def test_one_read_of_the_worst_kind_costs_no_more_memory_than_three_times_itself_or_a_megabyte(
    data: bytes,
) -> None:
    connected(Held(), Wire()).data_received(GET % 1)
    held = Held()
    tracemalloc.start()
    try:
        connection = connected(held, Wire())
        connection.data_received(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < max(3 * len(data), 1 << 20)
    connection.connection_lost(None)


# -- whatever bytes arrive --------------------------------------------------------------------------------

pieces = st.lists(
    st.binary(max_size=20)
    | st.sampled_from(
        [
            *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"HEAD / HTTP/1.0\r\n", b"PUT * HTTP/1.1\r\n"),
            *(
                b"CONNECT a:1 HTTP/1.1\r\n",
                b"GET http://x/ HTTP/1.1\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ),
            *(b"host: x\r\n", b"host: x\r\n", b"host: x\r\n\r\n", b"content-length: 5\r\n"),
            *(b"content-length: 70\r\n", b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n"),
            *(b"connection: upgrade\r\nupgrade: websocket\r\n", b"connection: close\r\n", b"x: " + b"y" * 50),
            *(b"connection: keep-alive\r\n", b"expect: 100-continue\r\n", b"\r\n", b"\r\n\r\n", b"\n"),
            *(
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b"0\r\nt: u\r\n\r\n",
                b"hello",
                b"\x00",
                GET % 1,
                HOST + b"\r\n",
            ),
        ]
    ),
    max_size=12,
)


def put(stream: list[bytes], *, answers_later: bool) -> tuple[Wire, HttpServer]:
    """Send bytes, read by read, and let all of a client's times pass."""
    held = Held()
    wire = Wire()
    limits = {"head": 200, "target": 40, "body": 60, "fields": 6, "pipelined": 3, "slice": 64}
    connection = connected(held if answers_later else echo, wire, **limits)
    for part in stream:
        connection.data_received(part)
        held.answer()
    while held.waiting:
        held.answer()
    for now in (1e3, 2e3, 3e3):
        connection._server.now = now
        connection.check(now)
    assert wire.closed, "it would wait for ever"
    connection.connection_lost(None)
    return wire, connection._server


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces, st.booleans(), st.integers(1, 9))
@example(
    [b"GET / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n", b"hello"], True, 1
)
def test_whatever_arrives_there_is_a_status_or_a_close_and_the_reads_that_bring_it_make_no_difference(
    parts: list[bytes], answers_later: bool, size: int
) -> None:
    whole = b"".join(parts)
    wire, server = put([whole], answers_later=answers_later)
    found = statuses(bytes(wire.out)) if b"HEAD" not in whole else []
    final = [status for status in found if status != 100]
    if found:
        assert len(final) - server.requests in (0, 1)
        assert set(final[: server.requests]) <= {200}
    assert server.held == 0
    cut = [whole[i : i + size] for i in range(0, len(whole), size)]
    again, server_again = put(cut, answers_later=answers_later)
    assert server_again.requests == server.requests
    if found:
        assert [s for s in statuses(bytes(again.out)) if s != 100] == final


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.binary(max_size=20)
        | st.sampled_from(
            [
                *(
                    b"HTTP/1.1 200 OK\r\n",
                    b"HTTP/1.1 100 Continue\r\n\r\n",
                    b"HTTP/1.1 299 \r\n",
                    b"HTTP/1.0 200\r\n",
                ),
                *(b"content-length: 5\r\n", b"content-length: 0\r\n\r\n", b"transfer-encoding: chunked\r\n"),
                *(
                    b"polyarch-cost: x\r\n",
                    b"connection: close\r\n",
                    b"\r\n",
                    b"hello",
                    b"5\r\nhello\r\n",
                    b"0\r\n\r\n",
                ),
            ]
        ),
        max_size=8,
    )
)
@example([b"HTTP/1.1 200 OK\r\n", b"content-length: 5\r\n", b"\r\n", b"hello"])
def test_whatever_a_server_answers_each_request_ends_once(parts: list[bytes]) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(parts))
            await writer.drain()
        writer.close()

    async def main() -> None:
        ends: list[tuple[int, Failure | None]] = []
        async with bare_server(upstream) as port, HttpPool("127.0.0.1", port, reads_headers=True) as pool:
            pool.request("GET", "/", b"", b"", lambda s, b, f: ends.append((s, f)), timeout=5)
            await until(lambda: bool(ends))
            await until(lambda: not pool.connections)
        assert len(ends) == 1
        status, failure = ends[0]
        assert (status >= 200) if failure is None else isinstance(failure, Broken)

    uvloop.run(main())


class Shelf(Web):
    """A front to be asked anything."""

    @get("/things/{number}")
    async def thing(self, number: int, colour: str = "red") -> str:
        """One thing."""
        if number < 0:
            raise Refused("no such thing")
        return colour * min(number, 3)

    @post("/things")
    async def put(self, number: int, names: tuple[str, ...] = (), more: dict[str, int] | None = None) -> int:
        """A new thing."""
        return number


def ask(request: Request) -> Response:
    """What the front answers; it does not wait for anything."""
    try:
        Shelf().http(request).send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


targets = st.one_of(
    st.sampled_from(["/", "/things", "/things/7", "/things/-1?colour=blue", "/things/x", "/nothing", "*"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20).map("/things/".__add__),
)
values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda s: st.lists(s, max_size=3),
    max_leaves=4,
)
bodies = st.binary(max_size=30) | st.dictionaries(
    st.sampled_from(["number", "names", "more", "other"]), values, max_size=3
).map(lambda fields: json.dumps(fields).encode())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["GET", "POST", "HEAD", "DELETE"]), targets, bodies)
@example("POST", "/things", b'{"number": ' + b"[" * 200_000)
@example("POST", "/things", b'{"number": ' + b"9" * 10_000 + b"}")
@example("GET", "/things/%F0%28%8C%28", b"")
def test_whatever_is_asked_of_a_front_its_answer_says_what_was_wrong(
    method: str, target: str, body: bytes
) -> None:
    response = ask(Request(method, target, body))
    assert response.status in (200, 400, 404, 405, 409)
    if response.status != 200:
        assert set(json.loads(response.body)) == {"error", "detail"}
    if response.status == 405:
        assert response.headers["allow"] in ("GET", "POST", "GET, POST")


# -- a switch, and what is behind it ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bare_server(behave: Callable[..., Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server that does what a test needs; its port."""
    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def upstream(*scripts: bytes | None) -> Callable[..., Awaitable[None]]:
    """A server that answers request after request with these bytes and closes; None: with nothing, ever."""
    left = list(scripts)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            script = left.pop(0) if len(left) > 1 else left[0]
            if script is None:
                await reader.read()
            elif script == b"echo":
                body = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head)
                writer.write(body)
            else:
                writer.write(script)
        writer.close()

    return behave


def switch(
    main: Callable[[int], Awaitable[None]],
    *upstreams: Callable[..., Awaitable[None]],
    node: Http | None = None,
    tmp_path: Path,
    **settings: Any,
) -> list[str]:
    """Run a test against our switch on a live process, with these servers behind it; its bugs."""

    async def whole() -> list[str]:
        async with nothing_left(), contextlib.AsyncExitStack() as running:
            process = LocalProcess("switch-0", seed=1, epoch=time.monotonic_ns(), folder=tmp_path)
            names = tuple(f"upstream-{i}" for i in range(len(upstreams)))
            for name, behave in zip(names, upstreams):
                process.http_ports[name] = await running.enter_async_context(bare_server(behave))
            running.push_async_callback(process.close)
            process.add("switch-0", node or Switch(backends=names, **settings))
            await process.listen()
            process.boot(lambda env, wire: wire)
            await main(process.http_ports["switch-0"])
            server = process._servers[0]
            assert isinstance(server, HttpServer)
            await until(lambda: not server.open)
            return process.bugs

    return uvloop.run(asyncio.wait_for(whole(), 20))


async def exchange(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: its answer."""
    async with client(port) as c:
        c.send(data)
        return await c.answer()


CUT = [
    b"",
    b"HTTP/1.1 200 OK\r\ncontent-le",
    b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
    b"this is no HTTP\r\n\r\n",
]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_an_upstream_that_dies_in_the_middle_of_its_answer_is_502_and_the_client_may_go_on(
    tmp_path: Path,
) -> None:
    async def main(port: int) -> None:
        async with client(port) as c:
            for _ in CUT:
                c.send(HOST + b"content-length: 0\r\n\r\n")
                status, _, body = await c.answer()
                assert (status, json.loads(body)["error"]) == (502, "broken")
            c.send(HOST + b"content-length: 0\r\n\r\n")
            assert (await c.answer())[::2] == (200, b"ok")

    assert switch(main, upstream(*CUT, OK), tmp_path=tmp_path) == []


def test_what_may_be_repeated_is_asked_of_another_upstream_and_the_client_notices_nothing(
    tmp_path: Path,
) -> None:
    async def main(port: int) -> None:
        for _ in range(4):
            assert (await exchange(port, GET % 1))[::2] == (200, b"ok")

    assert switch(main, upstream(CUT[2]), upstream(OK), tmp_path=tmp_path) == []


def test_an_upstream_that_never_answers_is_504_and_one_that_is_not_there_is_503(tmp_path: Path) -> None:
    async def silent(port: int) -> None:
        status, _, body = await exchange(port, GET % 1)
        assert (status, json.loads(body)["error"]) == (504, "timeout")

    async def absent(port: int) -> None:
        status, _, body = await exchange(port, GET % 1)
        assert (status, json.loads(body)["error"]) == (503, "unreachable")

    switch(silent, upstream(None), tmp_path=tmp_path, backend_seconds=0.1)
    switch(absent, node=Switch(backends=("nobody",)), tmp_path=tmp_path)


POST = b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


def counted(asked: list[int], *scripts: bytes | None) -> Callable[..., Awaitable[None]]:
    """``upstream``, and how often it was asked."""
    serve = upstream(*scripts)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked[0] += 1
        await serve(reader, writer)

    return behave


def test_a_hedge_saves_who_met_a_silent_server_and_nothing_that_changes_something_is_sent_twice(
    tmp_path: Path,
) -> None:
    silent, quick = [0], [0]

    async def main(port: int) -> None:
        for method, status in ((GET, 200), (POST, 504)):
            begin = time.monotonic()
            statuses = sorted([(await exchange(port, method % i))[0] for i in range(2)])
            assert statuses == [200, status]
            assert (time.monotonic() - begin < 1.0) == (method is GET)
            await asyncio.sleep(1.1)  # it has been given up by now, and is left alone no more

    servers = (counted(silent, None), counted(quick, OK))
    settings = {"hedge_seconds": 0.05, "backend_seconds": 1.0, "shun_seconds": 0.1}
    assert switch(main, *servers, tmp_path=tmp_path, **settings) == []
    assert (silent, quick) == ([2], [3])


def test_who_fails_twice_in_a_row_is_left_alone_until_a_trial_and_retries_end_with_their_budget(
    tmp_path: Path,
) -> None:
    bad, busy, good = [0], [0], [0]
    refusal = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"

    async def breaker(port: int) -> None:
        for i in range(20):
            assert (await exchange(port, GET % i))[0] == 200
        assert bad == [2]
        await asyncio.sleep(1.1)
        for i in range(4):
            assert (await exchange(port, GET % i))[0] == 200
        assert bad == [3], "one trial, which fails"

    async def budget(port: int) -> None:
        found = [(await exchange(port, POST % i))[0] for i in range(40)]
        # 10 retries are saved up, and each of the 40 requests brings a tenth of one.
        assert 12 <= busy[0] + good[0] - 40 <= 14
        assert found[:10] == [200] * 10
        assert found.count(503) == 40 - good[0] >= 6

    patient = {"failures": 2, "shun_seconds": 1.0}
    assert switch(breaker, counted(bad, b""), counted(good, OK), tmp_path=tmp_path, **patient) == []
    assert good == [24]
    good[0] = 0
    poor = {"retries": 0.1, "saved": 10}
    assert switch(budget, counted(busy, refusal), counted(good, OK), tmp_path=tmp_path, **poor) == []


def test_a_client_that_goes_away_while_its_answer_is_computed_leaves_nothing_at_the_switch(
    tmp_path: Path,
) -> None:
    async def main(port: int) -> None:
        for _ in range(20):
            async with client(port) as c:
                c.send(GET % 1)
                await asyncio.sleep(0.002)
                c.vanish()
        await asyncio.sleep(0.15)  # until the switch has given up its upstreams

    assert switch(main, upstream(None), tmp_path=tmp_path, backend_seconds=0.1, retries=0.0) == []


def test_what_is_between_neighbours_ends_at_the_switch_and_head_has_the_length_of_get(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        asked = b"GET /a?b=c HTTP/1.1\r\nhost: x\r\nconnection: close, x-mine\r\nx-mine: 1\r\nx-kept: 2\r\n"
        hops = b"te: trailers\r\nupgrade: h2c\r\nproxy-connection: close\r\nexpect: 100-continue\r\n\r\n"
        status, _, seen = await exchange(port, asked + hops)
        assert status == 200
        lines = seen.lower().split(b"\r\n")
        assert lines[0] == b"get /a?b=c http/1.1"
        assert b"x-kept: 2" in lines
        names = {line.partition(b":")[0] for line in lines[1:] if line and not line.startswith(b"polyarch-")}
        ours = {b"via", b"forwarded", b"x-forwarded-for"}
        assert names == {b"host", b"x-kept", b"content-length"} | ours
        async with client(port) as c:
            c.send(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await c.rest()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert int(re.search(rb"content-length: (\d+)", answer)[1]) > 20  # type: ignore[index]
            assert answer.endswith(b"\r\n\r\n")

    assert switch(main, upstream(b"echo"), tmp_path=tmp_path) == []


def test_a_server_is_told_by_whom_a_request_came_and_the_last_word_on_it_is_the_switchs(
    tmp_path: Path,
) -> None:
    async def main(port: int) -> None:
        lied = b"via: 1.0 fred\r\nx-forwarded-for: 10.0.0.1\r\nforwarded: for=10.0.0.1\r\n\r\n"
        for more, before in ((b"\r\n", b""), (lied, b"10.0.0.1")):
            _, _, seen = await exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n" + more)
            said = dict(line.split(b": ", 1) for line in seen.lower().split(b"\r\n")[1:] if line)
            assert said[b"via"] == (b"1.0 fred, " if before else b"") + b"1.1 switch-0"
            assert said[b"x-forwarded-for"] == (before + b", " if before else b"") + b"127.0.0.1"
            assert said[b"forwarded"] == (b"for=" + before + b", " if before else b"") + b"for=127.0.0.1"

    assert switch(main, upstream(b"echo"), tmp_path=tmp_path) == []


def test_of_an_answer_each_cookie_passes_and_what_was_for_the_switch_alone_does_not(tmp_path: Path) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </style>\r\nset-cookie: early=1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nconnection: keep-alive, X-Mine\r\nx-mine: 1\r\nupgrade: h2c\r\nx-kept: 2\r\n"
    cookies = b"set-cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT\r\nSet-Cookie: b=2\r\n"
    body = b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: late=1\r\nx-late: 1\r\n\r\n"

    async def main(port: int) -> None:
        async with client(port) as c:
            c.send(GET % 1)
            lines = (await c.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            assert await c.reader.readexactly(2) == b"ok"
        said = [line.split(b": ", 1) for line in lines[1:] if line]
        assert [v for n, v in said if n == b"set-cookie"] == [
            b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
            b"b=2",
            b"server=upstream-0; Path=/; HttpOnly",
        ]
        assert {n for n, _ in said} == {b"date", b"set-cookie", b"x-kept", b"content-length"}

    assert switch(main, upstream(early + head + cookies + body), tmp_path=tmp_path, sticky="server") == []


class Odd(Http):
    """Answers what HTTP cannot say, or fails."""

    answers: tuple[Any, ...] = (
        Response(200, headers={"x": "two\r\nlines: injected"}),
        Response(200, headers={"x": "\u20ac"}),
        Response(77),
        Response(200, "text" * 20_000),  # type: ignore[arg-type]
        Response(200, content_type="a\nb"),
        None,
        ZeroDivisionError(),
    )

    async def http(self, request: Request) -> Response:
        answer = self.answers[int(request.target[1:])]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


def test_a_node_that_answers_what_http_cannot_say_has_a_bug_and_its_client_gets_500(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        async with client(port) as c:
            for i in range(len(Odd.answers)):
                c.send(GET % i)
                assert (await c.answer())[0] == 500

    assert len(switch(main, node=Odd(), tmp_path=tmp_path)) == len(Odd.answers)


def test_accounts_that_make_no_sense_cost_nobody_the_answer(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\npolyarch-cost: %b\r\ncontent-length: 2\r\n\r\nok"
    costs = [answer % cost for cost in (b"x", b"1,2", b"-1,2,3", b"9" * 5000 + b",1,1", b"1,2,3")]

    async def main(port: int) -> None:
        for depth in (b"\xb2", b"-1", b"9" * 5000, b"1", b"1"):
            asked = b"GET / HTTP/1.1\r\nhost: x\r\npolyarch-account: %b\r\n\r\n" % depth
            assert (await exchange(port, asked))[::2] == (200, b"ok")

    assert switch(main, upstream(*costs), tmp_path=tmp_path) == []


def test_statuses_without_a_name_and_headers_in_several_lines_pass_the_switch(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 299 Fine\r\nx: a\r\nx: b\r\ncontent-length: 2\r\n\r\nok"

    async def main(port: int) -> None:
        status, headers, body = await exchange(port, GET % 1)
        assert (status, headers["x"], body) == (299, "a, b", b"ok")

    assert switch(main, upstream(answer), tmp_path=tmp_path) == []


@pytest.mark.parametrize("more", ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", "HTTP/1.1 200 OK\r\nx"])
def test_what_a_server_says_beyond_its_answer_is_not_taken_for_the_answer_to_the_next_request(
    more: str,
) -> None:
    async def main() -> None:
        async with bare_server(upstream(OK + more.encode(), OK)) as port:
            async with HttpPool("127.0.0.1", port, limit=1, reads_headers=True) as pool:
                first, second, third = (asyncio.create_task(pool.fetch("GET", f"/{i}")) for i in range(3))
                assert (await first).body == b"ok"
                with pytest.raises(Broken, match="nobody asked for"):
                    await second
                assert (await third).body == b"ok"

    uvloop.run(main())


def test_an_answer_without_end_is_given_up_at_the_largest_size_even_if_it_is_all_header() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nx: ")
            while True:
                writer.write(b"y" * 65536)
                await writer.drain()
        writer.close()

    async def main() -> None:
        async with bare_server(endless) as port, HttpPool("127.0.0.1", port, max_response=100_000) as pool:
            with pytest.raises(Broken, match="larger"):
                await pool.fetch("GET", "/", timeout=5)
            assert pool.bytes_received < 1 << 20

    uvloop.run(main())


def test_a_client_keeps_no_long_heads_for_a_switch_passes_on_no_two_alike() -> None:
    async def main(server: HttpServer) -> None:
        async with HttpPool("127.0.0.1", server.port) as pool:
            for i in range(50):
                await pool.fetch("GET", f"/{i}", headers=b"x: %b\r\n" % (b"y" * 10_000))
            assert sum(map(len, pool._heads.values())) < 50_000

    serve(main)


def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    async def main(server: HttpServer) -> None:
        async with HttpPool("127.0.0.1", server.port) as pool:
            await pool.fetch("GET", "/")
            (old,) = pool._connections
            await pool.fetch("GET", "/")
            assert set(pool._connections) == {old}
            old.free_since -= 5.0  # its server may close it just now
            await pool.fetch("POST", "/", b"charge")
            assert old not in pool._connections
            assert not old.open

    serve(main)


def test_connections_that_nobody_needs_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_FRESH", 0.05)

    async def main(server: HttpServer) -> None:
        async with HttpPool("127.0.0.1", server.port) as pool:
            await asyncio.gather(*(pool.fetch("GET", f"/{i}") for i in range(10)))
            await until(lambda: pool.connections == server.connections == 0)
            assert (await pool.fetch("GET", "/again")).status == 200

    serve(main)


# -- real clients -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """What `polyarch run application_switch compute --serve` brings up: its address."""
    arguments = ["run", "application_switch", "compute", "--servers", "1", "--serve"]
    command = [sys.executable, "-c", "from polyarch.cli.main import main; main()", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" at ")[1].strip().rstrip("/")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.local
def test_curl_speaks_with_what_serve_brings_up(served: str) -> None:
    curl = (program("curl"), "-sS", "--max-time", "10")
    assert run(*curl, f"{served}/increment?value=41") == "42"
    assert run(*curl, "--http1.0", f"{served}/add?a=1&b=2") == "3.0"
    assert run(*curl, f"{served}/increment?value=1", f"{served}/increment?value=2") == "23"
    assert "200 OK" in run(*curl, "-I", f"{served}/increment?value=1")
    numbers = json.dumps({"numbers": [float(i) for i in range(3000, 0, -1)]})
    for how in ("Expect: 100-continue", "Transfer-Encoding: chunked"):
        in_order = json.loads(run(*curl, "-H", how, "-d", numbers, f"{served}/sort"))
        assert in_order == sorted(in_order)
        assert len(in_order) == 3000
    for status, arguments in {
        "400": ["/increment?value=x"],
        "404": ["/nothing"],
        "405": ["-X", "DELETE", "/increment"],
        "413": ["-d", "@-", "/sort"],
        "431": ["-H", "x: " + "y" * 20_000, "/increment?value=1"],
    }.items():
        *options, path = arguments
        options = ["-o", "/dev/null", "-w", "%{http_code}", *options]
        done = subprocess.run(
            [*curl, *options, served + path],
            input="x" * 2_000_000,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == status


@pytest.mark.local
@pytest.mark.parametrize(
    ("name", "arguments", "good"),
    [
        ("wrk", ["-t1", "-c16", "-d1s"], r"(?s)(?!.*(Non-2xx|Socket errors)).*Requests/sec: +[1-9]"),
        ("ab", ["-q", "-n200", "-c8"], r"(?s)(?!.*Non-2xx).*Complete requests: +200\nFailed requests: +0\n"),
        ("ab", ["-q", "-k", "-n200", "-c8"], r"(?s).*Failed requests: +0\nKeep-Alive requests: +200\n"),
        ("hey", ["-n", "200", "-c", "8"], r"(?s)(?!.*Error).*\[200\]\s+200 responses"),
    ],
)
def test_load_generators_of_others_see_no_error(
    served: str, name: str, arguments: list[str], good: str
) -> None:
    out = run(program(name), *arguments, f"{served}/increment?value=1")
    assert re.match(good, out), out
