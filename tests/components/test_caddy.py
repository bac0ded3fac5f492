"""The switch spreads requests, and loses none that could be saved."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polyarch.components.base import free_port
from polyarch.components.caddy import CaddyServer

pytestmark = pytest.mark.local


class Upstream:
    """A tiny HTTP server that says its name, or breaks the connection after it has read a request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.asked = 0
        self.breaks = False

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    def stop(self) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/health" not in head:
                self.asked += 1
                if self.breaks:
                    return
            answer = (
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.name)}\r\nConnection: close\r\n\r\n{self.name}"
            )
            writer.write(answer.encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


async def request(switch: CaddyServer, method: str = "GET") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
    writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


def test_requests_go_round_and_a_dead_server_costs_none_of_them(local: Any) -> None:
    async def test() -> None:
        upstreams = [Upstream(name) for name in "abc"]
        for upstream in upstreams:
            await upstream.start()
        switch = CaddyServer([f"127.0.0.1:{upstream.port}" for upstream in upstreams], shun_seconds=0.3)
        folder: Path = local.janitor.folder / "caddy"
        await switch.start(local.janitor, folder)
        answers = Counter([await request(switch) for _ in range(9)])
        assert answers == {(200, "a"): 3, (200, "b"): 3, (200, "c"): 3}
        upstreams[1].stop()
        answers = Counter([await request(switch, "POST") for _ in range(10)])
        assert set(answers) == {(200, "a"), (200, "c")}
        await upstreams[1].start()
        await asyncio.sleep(0.4)
        assert (200, "b") in [await request(switch) for _ in range(6)]
        await switch.kill()
        assert not await switch.healthy()
        await switch.restart()
        assert (await request(switch))[0] == 200
        await switch.stop()
        assert not switch.running

    local.run(test())


def test_a_post_that_may_have_been_executed_is_not_sent_again_but_a_get_is(local: Any) -> None:
    async def test() -> None:
        bad, good = Upstream("bad"), Upstream("good")
        for upstream in bad, good:
            await upstream.start()
        bad.breaks = True
        switch = CaddyServer(
            [f"127.0.0.1:{bad.port}", f"127.0.0.1:{good.port}"], policy="first", shun_seconds=0.2
        )
        await switch.start(local.janitor, local.janitor.folder / "first")
        assert (await request(switch, "POST"))[0] == 502
        assert (bad.asked, good.asked) == (1, 0)
        await asyncio.sleep(0.3)
        assert await request(switch) == (200, "good")
        assert (bad.asked, good.asked) == (2, 1)
        await switch.stop()

    local.run(test())


def test_when_no_server_is_well_the_answer_says_that_nothing_happened(local: Any) -> None:
    async def test() -> None:
        switch = CaddyServer(
            [f"127.0.0.1:{free_port()}"], health_path="/health", try_seconds=0.2, policy="two_choices"
        )
        await switch.start(local.janitor, local.janitor.folder / "none")
        await asyncio.sleep(0.1)
        assert (await request(switch, "POST"))[0] == 503
        await switch.stop()
        with pytest.raises(ValueError, match="no policy 'best'"):
            CaddyServer([], policy="best")  # type: ignore[arg-type]

    local.run(test())
