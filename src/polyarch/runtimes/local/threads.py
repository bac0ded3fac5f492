"""Computing and blocking for real: in the node's own thread, and in threads beside it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from queue import SimpleQueue
from typing import TYPE_CHECKING

from polyarch.core.errors import Overloaded
from polyarch.core.tasks import Suspension, Task
from polyarch.core.threads import BUSY, Thread

if TYPE_CHECKING:
    from polyarch.runtimes.local.env import LocalEnv

__all__ = ["LocalThread", "OwnThread", "Shares", "compute"]

_PIECE = bytes(8192)
"""What is hashed again and again: 5 to 20 us.  ``hashlib`` lets go of Python's global lock for it, so that
threads really compute on several cores."""


def compute(seconds: float) -> None:
    """Occupy a core for so many seconds of this thread's processor time: who has to share a core takes
    longer by the clock."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sha256(_PIECE)


class Shares:
    """How a process's own thread divides its time between its nodes' work and its sockets.

    Between two pieces of work the sockets are looked at.  But a flood of requests, each of which is quickly
    refused, would leave no time for those that were let in (the livelock of Mogul and Ramakrishnan,
    "Eliminating receive livelock in an interrupt-driven kernel", USENIX 1996): so work that waits gets as
    much time as the sockets took.
    """

    __slots__ = ("_until", "_used")

    MOST = 0.010
    """Seconds that sockets wait at a time."""

    def __init__(self) -> None:
        self._used = time.thread_time()
        """Processor time of this thread until the last piece of work ended."""
        self._until = 0.0

    def looked(self) -> None:
        """The sockets were looked at, and a piece of work begins."""
        took = min(self.MOST, time.thread_time() - self._used)
        self._until = time.monotonic() + took

    def worked(self) -> None:
        """A piece of work has ended."""
        self._used = time.thread_time()

    def due(self) -> bool:
        """Whether the next piece comes before the sockets."""
        return time.monotonic() < self._until


class OwnThread(Suspension):
    """The node's own thread computes or blocks, and everybody in its process waits."""

    __slots__ = ("does", "seconds")

    def __init__(self, does: Callable[[float], None], seconds: float) -> None:
        self.does = does
        self.seconds = seconds

    def suspend(self, task: Task) -> None:
        process = task.env.process

        shares = process.shares

        def run(after_sockets: bool) -> None:
            if after_sockets:
                shares.looked()
            self.does(max(0.0, self.seconds))
            shares.worked()
            task.resume()

        if shares.due():
            process.ready.append((run, (False,)))
        else:
            # In an event of its own: what was answered before leaves first, and the sockets are looked at.
            process.loop.call_soon(process.event, run, True)


class LocalThread(Thread):
    """A thread of the operating system, which does what it is given and says so to the node's own."""

    __slots__ = ("_busy", "_env", "_given")

    def __init__(self, env: LocalEnv) -> None:
        self._env = env
        self._busy = False
        self._given: SimpleQueue[tuple[Callable[[float], None], float, Task] | None] = SimpleQueue()
        try:
            threading.Thread(target=self._run, daemon=True, name=f"thread of {env.address}").start()
        except RuntimeError as error:
            raise Overloaded(str(error)) from None

    def work(self, seconds: float) -> Suspension:
        return _Given(self, compute, seconds)

    def blocking_call(self, seconds: float) -> Suspension:
        return _Given(self, time.sleep, seconds)

    def end(self) -> None:
        self._given.put(None)

    def give(self, function: Callable[[float], None], seconds: float, task: Task) -> None:
        """Let it do something, and resume the task when it has."""
        if self._busy:
            task.throw(RuntimeError(BUSY))
            return
        self._busy = True
        self._given.put((function, seconds, task))

    def _run(self) -> None:
        process = self._env.process
        while (given := self._given.get()) is not None:
            function, seconds, task = given
            function(max(0.0, seconds))
            with contextlib.suppress(RuntimeError):  # the loop was closed: the process ends
                process.loop.call_soon_threadsafe(process.event, self._done, task)

    def _done(self, task: Task) -> None:
        self._busy = False
        task.resume()


class _Given(Suspension):
    __slots__ = ("function", "seconds", "thread")

    def __init__(self, thread: LocalThread, function: Callable[[float], None], seconds: float) -> None:
        self.thread = thread
        self.function = function
        self.seconds = seconds

    def suspend(self, task: Task) -> None:
        self.thread.give(self.function, self.seconds, task)
