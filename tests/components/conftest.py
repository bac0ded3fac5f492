"""What the tests of components share: one event loop and one janitor for a file of tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import uvloop
from trampoline import drive

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


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    here = Local()
    yield here
    here.close()
