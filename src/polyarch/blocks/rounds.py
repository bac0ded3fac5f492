"""Work that many wait for: one run of it serves all who asked before it began, as a bus serves those who
stand at the stop.  Group commit, and heartbeats that confirm a leader to all its readers at once, are such.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from polyarch.core.errors import Failure
from polyarch.core.node import Node
from polyarch.core.tasks import Future

__all__ = ["Rounds"]


class Rounds:
    """Runs ``work`` again and again, one run at a time, for as long as somebody waits."""

    def __init__(self, node: Node, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.node = node
        self.work = work
        self.waiting: list[Future[None]] = []
        self.running = False

    async def served(self) -> None:
        """Returns after a run that began after this call; fails with what it failed with."""
        mine: Future[None] = self.node.future()
        self.waiting.append(mine)
        if not self.running:
            self.node.spawn(self._run())
        await mine

    async def _run(self) -> None:
        self.running = True
        try:
            while self.waiting:
                served, self.waiting = self.waiting, []
                try:
                    await self.work()
                except Failure as failure:
                    for one in served:
                        one.fail(failure)
                for one in served:
                    one.set(None)
        finally:
            self.running = False
