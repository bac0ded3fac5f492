"""What the tests of components share: one event loop, one janitor, one PostgreSQL server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import uvloop
from trampoline import drive

from polyarch.components.postgresql import PostgresServer
from polyarch.runtimes.local.guardian import Janitor

T = TypeVar("T")


class Local:
    """An event loop with a janitor."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.janitor = self.run(Janitor.start())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run as a task of asyncio."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run as one of Polyarch's own tasks."""

        async def outcome() -> T:
            return await drive(coroutine)

        return self.run(outcome())

    def close(self) -> None:
        self.run(self.janitor.stop())
        self.loop.close()


@pytest.fixture(scope="session")
def local() -> Iterator[Local]:
    here = Local()
    yield here
    here.close()


@pytest.fixture(scope="session")
def shared_server(local: Local) -> PostgresServer:
    server = PostgresServer()
    local.run(server.start(local.janitor, local.janitor.folder / "pg"))
    return server


@pytest.fixture
def postgresql(local: Local, shared_server: PostgresServer) -> PostgresServer:
    """A server that is running, whatever the test before did to it."""
    if not shared_server.running:
        local.run(shared_server.restart())
    return shared_server
