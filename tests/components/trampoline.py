"""Drive coroutines as Polyarch's own tasks do: asyncio's loop runs, but no asyncio task."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Start it; the future has its outcome."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def resume(done: asyncio.Future[Any] | None = None) -> None:
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:  # its node died meanwhile
            return
        try:
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            outcome.set_result(stop.value)
        except Exception as error:
            outcome.set_exception(error)
        else:
            assert asyncio.current_task() is None
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(resume)

    loop.call_soon(resume)  # not here: our caller may be a task of asyncio
    return outcome
