"""Who waits for the answer to the message that a node is handling, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from polyarch.core.tasks import Suspension, Task

__all__ = ["Asker", "asker"]


class Asker:
    """Whoever sent the message that is being handled: ``who = await asker()``, and later ``who.left``.

    A caller that has given up does not say so; but its call says how long it will wait, as gRPC's do.  In a
    simulation every call carries its deadline.  On ``local`` HTTP requests do: those of our nodes, and those
    of others that have RFC 7240's ``Prefer: wait=10``; besides, a client that has closed its connection, or
    its half of it, waits no more.  Of who says nothing, nothing is known.
    """

    __slots__ = ("_gone", "_now", "_until")

    def __init__(
        self, now: Callable[[], float], until: float = math.inf, gone: Callable[[], bool] | None = None
    ) -> None:
        """``until``: by the clock ``now`` of the node that was asked; ``gone``: whether it has hung up."""
        self._now = now
        self._until = until
        self._gone = gone

    @property
    def left(self) -> float:
        """Seconds that it will still wait, as far as can be known here: 0 if it does not wait any more,
        infinity if it has not said."""
        if self._gone is not None and self._gone():
            return 0.0
        return max(0.0, self._until - self._now())


class _Asking(Suspension):
    __slots__ = ()

    def suspend(self, task: Task) -> None:
        task.resume(task.env.asker(task))


async def asker() -> Asker:
    """Who waits for this handler's answer.  To be asked by the handler itself, not by a task that it spawned
    (for which nobody waits)."""
    who: Any = await _Asking()
    assert isinstance(who, Asker)
    return who
