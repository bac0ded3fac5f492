"""A thread for every connection: all requests at once, each as if it were alone.

The server accepts a connection, starts a thread for it, and accepts the next one (van Steen and Tanenbaum,
table 3.1: parallelism, blocking system calls; Stevens, UNIX Network Programming, chapter 30).  The thread
reads the request, works, blocks when it must, answers, closes the connection and ends: as in HTTP/1.0, a
connection is one request.

Its state is its threads; each request's state is on its thread's stack, which makes the program as simple as
the single-threaded one.  The operating system divides the cores among the threads that compute, so as a
queue it is processor sharing: a request of work s takes s / (1 - rho) on average, whatever the distribution
of work is (law QU-A).  A short request does not wait for the end of a long one.

What is the problem with this?  There is no queue, so overload becomes slowness for all: n requests at once
each get 1/n of a core, all of them are late, and none is done.  And threads are not free: each has a stack,
is started and ended, and is switched to.  Hence ``threads``: beyond so many at once, a connection is
refused.

Measured (sim, one core, three times as much asked of it as it can do, 1 ms each): with at most 200 threads
the median is 0.13 s and p99 is 0.91 s, where a queue with 100 places has 0.10 s and 0.13 s; with at most
10,000 the median is 3 s, and a quarter of those let in are given up by their clients.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.servers import METRICS, Asked, ComputeClient, Server, figures
from polyarch.core import Architecture, Overloaded, System, Thread, Verdict, parameter
from polyarch.jobs.compute import ComputeJob


class ThreadPerConnectionServer(Server):
    """The node's own thread accepts; every connection has another one."""

    threads: int = 200
    """Most connections at a time."""

    async def start(self) -> None:
        await super().start()
        self.running = 0

    def accept(self, request: Asked) -> None:
        if self.running >= self.threads:
            raise Overloaded(f"{self.running} connections are open already")
        thread = self.thread()
        self.running += 1
        self.spawn(self.connection(request, thread))

    async def connection(self, request: Asked, thread: Thread) -> None:
        """What the thread of a connection does."""
        if request.work:
            await thread.work(request.work)
        if request.blocking:
            await thread.blocking_call(request.blocking)
        thread.end()
        self.running -= 1
        request.done.set(None)


class ThreadPerConnection(Architecture):
    """A thread for every connection: all requests at once, and all are slow when there are many."""

    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.1.3; Stevens, UNP, chapter 30"
    jobs = (ComputeJob,)
    claims = (
        "a request that blocks holds up no other one",
        "the server is a single point of failure",
    )
    metrics = METRICS

    threads: int = parameter(200, "most connections at a time; more are refused", least=1, most=10_000)
    cores: int = parameter(1, "cores of the server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        server = ThreadPerConnectionServer(threads=self.threads)
        system.role("server", server, cores=self.cores)
        system.clients(ComputeClient(front=server))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, ("server-0",))
