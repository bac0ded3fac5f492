"""Bytes of connections: measured, or absent."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from polyarch.components.traffic import SocketMeter


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_connection_that_was_closed_has_no_bytes_to_tell_and_raises_nothing(loop_factory) -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        meter = SocketMeter(writer.transport)
        assert meter.take() is not None
        writer.transport.abort()
        await asyncio.sleep(0.05)
        assert meter.take() is None
        server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
