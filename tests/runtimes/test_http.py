"""Our HTTP/1.1 client and server, against each other and against peers that misbehave."""

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyarch.core.errors import Broken, Failure, Refused, Timeout, Unreachable
from polyarch.runtimes.local.http_client import HttpPool
from polyarch.runtimes.local.http_headers import encode_headers
from polyarch.runtimes.local.http_server import HttpServer, Limits, Respond

Main = Coroutine[Any, Any, None]
Run = Callable[[Main], None]

GET = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test on either loop, with a limit of time that only a hang reaches."""
    runner = uvloop.run if request.param == "uvloop" else asyncio.run
    return lambda main: runner(asyncio.wait_for(main, 30))


def echo(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
    """Answers with what arrived."""
    respond(200, f"{method} {target} ".encode() + body, "text/plain")


def later(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
    """The same, some time after the handler returned; earlier requests take longer than later ones."""
    delay = 0.03 / (1 + int(target[1:] or 0))
    asyncio.get_running_loop().call_later(delay, respond, 200, target.encode(), "text/plain")


async def talk(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """Send bytes on a connection of their own; everything that comes back until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if eof:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon; the test's own limit ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def bare_server(behave: Callable[..., Coroutine[Any, Any, None]]) -> AsyncIterator[int]:
    """A TCP server that does what a test needs; its port."""
    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# --- client and server together ------------------------------------------------------------------------


def test_requests_carry_methods_targets_headers_and_bodies(run: Run) -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
        seen.append((method, target, headers["x-order"], body))
        respond(201, b"created", "text/plain", encode_headers({"x-answer": "yes"}))

    async def main() -> None:
        async with HttpServer(handler) as server, HttpPool("127.0.0.1", server.port) as pool:
            answer = await pool.fetch("POST", "/orders?a=1", b"\x00body", encode_headers({"X-Order": "7"}))
            assert answer == (201, b"created")
            assert seen == [("POST", "/orders?a=1", "7", b"\x00body")]

    run(main())


def test_large_bodies_pass_both_ways(run: Run) -> None:
    async def main() -> None:
        limits = Limits(body=8 << 20)
        async with HttpServer(echo, limits=limits) as server, HttpPool("127.0.0.1", server.port) as pool:
            body = bytes(range(256)) * (5 << 12)
            answer = await pool.fetch("PUT", "/", body)
            assert answer.body == b"PUT / " + body

    run(main())


def test_a_pool_opens_connections_up_to_its_limit_and_then_queues_in_order(run: Run) -> None:
    order: list[str] = []
    held: list[Respond] = []

    def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
        order.append(target)
        held.append(respond)

    async def main() -> None:
        async with HttpServer(handler) as server, HttpPool("127.0.0.1", server.port, limit=2) as pool:
            answers = [asyncio.create_task(pool.fetch("GET", f"/{i}")) for i in range(6)]
            await until(lambda: len(held) == 2)
            await asyncio.sleep(0.02)
            assert (len(held), pool.connections, server.connections) == (2, 2, 2)
            for i in range(6):
                held[i](200, b"")
                await until(lambda i=i: len(held) == min(6, i + 3))
            await asyncio.gather(*answers)
            assert pool.connections == 2
            assert sorted(order[:2]) == ["/0", "/1"]
            assert order[2:] == ["/2", "/3", "/4", "/5"]

    run(main())


def test_a_pipelined_pool_matches_answers_to_requests(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(later) as server:
            async with HttpPool("127.0.0.1", server.port, limit=2, pipeline=8) as pool:
                answers = await asyncio.gather(*(pool.fetch("GET", f"/{i}") for i in range(50)))
                assert [answer.body for answer in answers] == [f"/{i}".encode() for i in range(50)]
                assert pool.connections == 2

    run(main())


def test_both_sides_count_the_same_bytes_and_each_request_its_own(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server, HttpPool("127.0.0.1", server.port) as pool:
            ended = asyncio.Event()
            exchange = pool.request("POST", "/", b"12345", b"", lambda *_: ended.set())
            await ended.wait()
            assert exchange.sent == pool.bytes_sent == server.bytes_received
            assert exchange.received == pool.bytes_received == server.bytes_sent
            assert server.requests == pool.requests == 1

    run(main())


# --- the client, when things go wrong ------------------------------------------------------------------


def test_a_refused_connection_is_unreachable_which_is_definite(run: Run) -> None:
    async def main() -> None:
        async with bare_server(lambda r, w: asyncio.sleep(0)) as port:
            pass
        async with HttpPool("127.0.0.1", port) as pool:
            with pytest.raises(Unreachable) as caught:
                await pool.fetch("GET", "/")
            assert isinstance(caught.value, Refused)

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end, or cut off?",
        b"SMTP ready\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_a_server_that_dies_in_the_middle_of_an_answer_is_broken_which_may_have_happened(
    run: Run, answer: bytes
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def main() -> None:
        async with bare_server(die) as port, HttpPool("127.0.0.1", port) as pool:
            with pytest.raises(Broken) as caught:
                await pool.fetch("POST", "/", b"charge")
            assert isinstance(caught.value, Timeout)
            assert pool.connections == 0

    run(main())


def test_an_answer_too_late_is_a_timeout_and_the_late_answer_reaches_nobody(run: Run) -> None:
    held: list[Respond] = []

    def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
        if target == "/slow":
            held.append(respond)
        else:
            respond(200, b"quick")

    async def main() -> None:
        async with HttpServer(handler) as server, HttpPool("127.0.0.1", server.port, limit=1) as pool:
            with pytest.raises(Timeout) as caught:
                await pool.fetch("GET", "/slow", timeout=0.05)
            assert caught.type is Timeout
            for respond in held:  # none, if the machine was so slow that the request did not even arrive
                respond(200, b"slow")
            assert (await pool.fetch("GET", "/")).body == b"quick"

    run(main())


def test_a_request_that_waits_too_long_for_a_connection_was_never_sent(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(lambda *_: None) as server:
            async with HttpPool("127.0.0.1", server.port, limit=1) as pool:
                failures: list[Failure | None] = []
                pool.request("GET", "/", b"", b"", lambda *_: None, timeout=20)
                await until(lambda: server.requests == 1)
                second = pool.request("GET", "/", b"", b"", lambda s, b, e: failures.append(e), timeout=0.05)
                await until(lambda: bool(failures))
                assert isinstance(failures[0], Timeout)
                assert second.sent == 0
            await server.close(grace=0)

    run(main())


def test_closing_a_pool_ends_every_request(run: Run) -> None:
    failures: list[Failure | None] = []

    async def main() -> None:
        async with HttpServer(lambda *_: None) as server:
            pool = HttpPool("127.0.0.1", server.port, limit=1)
            for _ in range(2):
                pool.request("GET", "/", b"", b"", lambda s, b, e: failures.append(e))
            await until(lambda: server.requests == 1)
            await pool.close()
            pool.request("GET", "/", b"", b"", lambda s, b, e: failures.append(e))
            await until(lambda: len(failures) == 3)
            assert [type(failure) for failure in failures] == [Broken, Unreachable, Unreachable]
            await server.close(grace=0)

    run(main())


def test_a_callback_that_fails_costs_no_other_request(run: Run) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

        def done(status: int, body: bytes, failure: Failure | None) -> None:
            raise LookupError("the caller's mistake")

        async with HttpServer(echo) as server, HttpPool("127.0.0.1", server.port, limit=1) as pool:
            pool.request("GET", "/", b"", b"", done)
            assert (await pool.fetch("GET", "/")).status == 200
            assert [type(context["exception"]) for context in reported] == [LookupError]

    run(main())


def test_what_would_smuggle_a_second_request_is_refused(run: Run) -> None:
    async def main() -> None:
        pool = HttpPool("127.0.0.1", 9)
        for method, target, headers in [
            ("GET", "/ HTTP/1.1\r\nx: y", b""),
            ("GET", "", b""),
            ("HEAD", "/", b""),
            ("GET", "/", b"x: y"),
        ]:
            with pytest.raises(ValueError, match=r"not a|whole lines"):
                pool.request(method, target, b"", headers, lambda *_: None)
        with pytest.raises(ValueError, match="not an HTTP header"):
            encode_headers({"x": "y\r\nz: injected"})
        await pool.close()

    run(main())


# --- the server, whatever clients do -------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(later) as server:
            requests = b"".join(GET % i for i in range(40))
            answers = await talk(server.port, requests, eof=True)
            bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
            assert bodies == [b"/%d" % i for i in range(40)]

    run(main())


def test_thousands_of_pipelined_requests_neither_overflow_the_stack_nor_get_lost(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            answers = await talk(server.port, GET % 1 * 5_000, eof=True)
            assert answers.count(b"HTTP/1.1 200 OK") == 5_000

    run(main())


HOST = b"GET / HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (HOST + b"no colon\r\n\r\n", 400),
        (HOST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (HOST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        (HOST + b"content-length: -5\r\n\r\n", 400),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 9_000, 414),
        (HOST + b"x: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (HOST + b"x: y\r\n" * 4_000 + b"\r\n", 431),
        (HOST + b"x" * 1_000_000, 431),
        (HOST + b"content-length: 2000000\r\n\r\n", 413),
        (HOST + b"content-length: 2000000\r\nexpect: 100-continue\r\n\r\n", 413),
        (
            HOST + b"transfer-encoding: chunked\r\n\r\n" + b"fffff\r\n" + b"a" * 0xFFFFF + b"\r\n2\r\naa\r\n",
            413,
        ),
        (HOST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"trailer: x\r\n" * 9_000, 431),
        (HOST + b"expect: the impossible\r\n\r\n", 417),
        (HOST + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 3\r\n\r\nabc", 501),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
    ],
)
def test_what_is_malformed_or_too_large_gets_its_status_and_the_end_of_the_connection(
    run: Run, request_bytes: bytes, status: int
) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            answer = await talk(server.port, GET % 1 + request_bytes)
            first, second = answer.split(b"HTTP/1.1 ")[1:]
            assert first.startswith(b"200 ")  # what came before is answered first
            assert second.startswith(b"%d " % status)
            assert b"connection: close" in second
            assert server.requests == 1
            await until(lambda: server.connections == 0)

    run(main())


@pytest.mark.parametrize(
    "unfinished",
    [
        b"GET / HT",
        HOST,
        HOST + b"content-length: 9\r\n\r\nabc",
        HOST + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_slow_client_gets_408(run: Run, unfinished: bytes) -> None:
    async def main() -> None:
        limits = Limits(head_time=0.05, body_time=0.05)
        async with HttpServer(echo, limits=limits) as server:
            assert (await talk(server.port, unfinished)).startswith(b"HTTP/1.1 408 ")
            assert server.requests == 0

    run(main())


def test_an_idle_connection_is_closed_without_a_word_and_one_that_waits_for_us_is_not(run: Run) -> None:
    async def main() -> None:
        def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
            asyncio.get_running_loop().call_later(0.2, respond, 200, b"late")

        async with HttpServer(handler, limits=Limits(head_time=0.05, idle_time=0.05)) as server:
            assert await talk(server.port, b"") == b""
            assert (await talk(server.port, GET % 1)).endswith(b"late")

    run(main())


def test_a_client_that_does_not_read_stops_being_read_and_is_cut(run: Run) -> None:
    async def main() -> None:
        handled = 0

        def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
            nonlocal handled
            handled += 1
            respond(200, bytes(1 << 20))

        async with HttpServer(handler, limits=Limits(body_time=0.1)) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
            writer.write(GET % 1 * 1_000)
            await until(lambda: handled > 0)
            await until(lambda: server.connections == 0)
            assert handled < 100  # the kernel's buffers, not a gigabyte of ours
            writer.transport.abort()

    run(main())


def test_expect_100_continue_is_answered_before_the_body_is_sent(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"PUT /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            writer.write_eof()
            assert (await reader.read()).endswith(b"PUT /x abc")
            writer.close()

    run(main())


def test_head_is_answered_with_the_length_and_without_the_body(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            answer = await talk(server.port, b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n", eof=True)
            assert b"content-length: 8\r\n" in answer
            assert answer.endswith(b"\r\n\r\n")

    run(main())


def test_chunked_bodies_arrive_whole(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
            request = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
            assert (await talk(server.port, request, eof=True)).endswith(b"POST / abcde")

    run(main())


def test_http_1_0_and_connection_close_and_a_wish_to_upgrade_end_after_the_answer(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(echo) as server:
            for request in (
                b"GET / HTTP/1.0\r\n\r\n",
                HOST + b"connection: close\r\n\r\n",
                HOST + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n",
            ):
                answer = await talk(server.port, request + GET % 2)
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert answer.endswith(b"GET / ")
            answer = await talk(
                server.port, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" * 2, eof=True
            )
            assert b"connection: keep-alive" in answer
            assert answer.count(b"200 OK") == 2

    run(main())


def test_a_handler_that_fails_costs_its_own_request_only(run: Run) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

        def handler(method: str, target: str, headers: dict[str, str], body: bytes, respond: Respond) -> None:
            if target == "/bad":
                raise LookupError("a bug")
            respond(200)

        async with HttpServer(handler) as server, HttpPool("127.0.0.1", server.port, limit=1) as pool:
            assert (await pool.fetch("GET", "/bad")).status == 500
            assert (await pool.fetch("GET", "/good")).status == 200
            assert [type(context["exception"]) for context in reported] == [LookupError]

    run(main())


def test_a_second_answer_is_a_mistake_and_an_answer_to_nobody_is_not(run: Run) -> None:
    held: list[Respond] = []

    async def main() -> None:
        async with HttpServer(lambda m, t, h, b, respond: held.append(respond)) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET % 1)
            await until(lambda: bool(held))
            with pytest.raises(ValueError, match="status"):
                held[0](99)
            reset = struct.pack("ii", 1, 0)  # close with a reset, as the kernel of a killed process may
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
            await until(lambda: server.connections == 0)
            held[0](200)
            with pytest.raises(RuntimeError, match="already"):
                held[0](200)

    run(main())


def test_a_graceful_close_finishes_what_is_in_progress_and_refuses_newcomers(run: Run) -> None:
    async def main() -> None:
        async with HttpServer(later) as server, HttpPool("127.0.0.1", server.port) as pool:
            answer = asyncio.create_task(pool.fetch("GET", "/0"))
            await until(lambda: server.requests == 1)
            _, idle = await asyncio.open_connection("127.0.0.1", server.port)
            await until(lambda: server.connections == 2)
            await server.close()
            assert (await answer).body == b"/0"
            assert server.connections == 0
            with pytest.raises(Unreachable):
                await pool.fetch("GET", "/1")
            idle.close()

    run(main())


fragments = st.lists(
    st.binary(max_size=40)
    | st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n",
            b"POST /x HTTP/1.1\r\n",
            b"CONNECT a:1 HTTP/1.1\r\n",
            b"HEAD / HTTP/1.0\r\n",
            b"host: x\r\n",
            b"content-length: 5\r\n",
            b"transfer-encoding: chunked\r\n",
            b"connection: upgrade\r\nupgrade: websocket\r\n",
            b"connection: close\r\n",
            b"expect: 100-continue\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"hello",
            b"\x00",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    ),
    max_size=14,
)


def test_whatever_bytes_arrive_the_server_neither_fails_nor_leaks_a_connection(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))

        async with HttpServer(echo) as server, HttpPool("127.0.0.1", server.port) as pool:

            async def send(parts: list[bytes], abrupt: bool) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0)
                if abrupt:
                    writer.transport.abort()
                    return
                try:
                    if not writer.transport.is_closing():
                        writer.write_eof()
                    await asyncio.wait_for(reader.read(), 10)
                except ConnectionError:
                    pass
                writer.close()

            # Hypothesis runs in a thread beside the loop, so that one server meets all examples.
            @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
            @given(fragments, st.booleans())
            def fuzz(parts: list[bytes], abrupt: bool) -> None:
                asyncio.run_coroutine_threadsafe(send(parts, abrupt), loop).result(15)

            await asyncio.to_thread(fuzz)
            assert (await pool.fetch("GET", "/alive")).body == b"GET /alive "
            assert pool.connections == 1
            await until(lambda: server.connections == 1)
        gc.collect()
        assert reported == []

    run(main())
