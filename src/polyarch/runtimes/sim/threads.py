"""Simulated threads, and how they share the cores of a host."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from polyarch.core.tasks import Suspension, Task
from polyarch.core.threads import BUSY, Thread

if TYPE_CHECKING:
    from polyarch.runtimes.sim.kernel import Kernel
    from polyarch.runtimes.sim.nodes import SimEnv

__all__ = ["Doing", "Sharing", "SimThread"]


class Sharing:
    """Cores that are shared equally: each of n threads that compute gets min(1, cores / n) of one.

    As all progress alike, one number says how far each has come since any moment: ``progress``, the ns of
    work that a thread would have had if it had computed all the time.  Who begins at progress p and needs w
    has done at p + w; so a change of the number of threads costs one entry of a heap, not one per thread.
    """

    def __init__(self, kernel: Kernel, cores: int) -> None:
        self.kernel = kernel
        self.cores = cores
        self.progress = 0.0
        self.at = 0
        """When ``progress`` was that."""
        self.computing: list[tuple[float, int, Doing]] = []
        """Who computes: the progress at which each has done, a tie-breaker, what it does."""
        self.entered = 0
        self.plan = 0
        """Counts the plans; only the last one counts."""

    def enter(self, duration: int, doing: Doing) -> None:
        """Let a thread compute for so many ns of a core."""
        self._advance()
        self.entered += 1
        heapq.heappush(self.computing, (self.progress + duration, self.entered, doing))
        self._look_ahead()

    def _advance(self) -> None:
        now, computing = self.kernel.now, len(self.computing)
        if computing > self.cores:
            self.progress += (now - self.at) * self.cores / computing
        else:
            # Nobody counts on it when nobody computes; small numbers are exact ones.
            self.progress = self.progress + (now - self.at) if computing else 0.0
        self.at = now

    def _look_ahead(self) -> None:
        computing = self.computing
        self.plan += 1
        if computing:
            rest = max(0.0, computing[0][0] - self.progress) * max(1.0, len(computing) / self.cores)
            self.kernel.schedule(self.kernel.now + round(rest), (_first_done, self, self.plan))


def _first_done(event: tuple[Any, ...]) -> None:
    """The first of those that compute has done, unless the plan has changed."""
    sharing = event[1]
    if sharing.plan != event[2]:
        return
    sharing._advance()
    computing = sharing.computing
    due = [heapq.heappop(computing)]
    while computing and computing[0][0] <= sharing.progress:
        due.append(heapq.heappop(computing))
    sharing._look_ahead()
    for _, _, doing in due:
        _done((_done, doing))


class SimThread(Thread):
    """A thread of a simulated process."""

    __slots__ = ("busy", "env")

    def __init__(self, env: SimEnv) -> None:
        self.env = env
        self.busy = False

    def work(self, seconds: float) -> Suspension:
        return Doing(self, seconds, True)

    def blocking_call(self, seconds: float) -> Suspension:
        return Doing(self, seconds, False)

    def end(self) -> None:
        pass


class Doing(Suspension):
    """A thread computes or blocks, and a task waits for it."""

    __slots__ = ("computes", "seconds", "task", "thread")

    def __init__(self, thread: SimThread, seconds: float, computes: bool) -> None:
        self.thread = thread
        self.seconds = seconds
        self.computes = computes

    def suspend(self, task: Task) -> None:
        env = self.thread.env
        if self.thread.busy:
            task.throw(RuntimeError(BUSY))
            return
        self.thread.busy = True
        self.task = task
        duration = max(0, round(self.seconds * 1e9))
        if self.computes:
            env.process.share(duration, self)
        else:
            env.kernel.schedule(env.kernel.now + duration, (_done, self))


def _done(event: tuple[Any, ...]) -> None:
    """A thread has done what it was given."""
    doing = event[1]
    env = doing.thread.env
    if env.up:
        doing.thread.busy = False
        doing.task.resume()
    else:
        env.kernel.held(env, event)
