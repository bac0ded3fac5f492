"""A single-threaded server: one request after another, each from its beginning to its end.

The simplest server there is: a loop that takes a request, does its work, waits in its blocking calls,
answers, and takes the next one (van Steen and Tanenbaum, table 3.1: no parallelism, blocking system calls).

Its state is a queue and the one request that it is at.  Nothing is shared, so nothing is locked, and
requests are done in the order in which they came.  As a queue it is M/G/1: Poisson arrivals at rate lambda,
a service of mean S = work + blocking, one who serves; a request waits for rho (1 + c^2) S / 2 (1 - rho),
with rho = lambda S (Pollaczek and Khinchine; laws QU-01 and QU-03).

What is the problem with this?  Everybody waits for everybody: while one request waits for a disk, the core
is idle and all others wait too.  With one blocking call of 10 ms in each request, it serves 100 requests per
second, however fast its processor is, and on however many cores.  One slow request makes the many short ones
behind it slow.  It can even say no only between two requests: live, those that come while it is busy wait in
their sockets, and are let in or refused when it looks.

Measured (sim, 16 clients, blocking calls of 10 ms): 98 requests/s, where a thread per connection does 1,440.
When three times as much is asked of it as it can do (1 ms each), it answers as many as it can, 1,000/s: with
100 places in its queue after 0.13 s at most (p99).  With 10^6 they wait for up to 10 s, when clients give up:
of 35,789 requests in 12 s it answers 24,112 in time, as it does not begin what would be late; else
(``deadlines`` false) 15,239, and after 10 s nearly all of its work is for nobody (law QU-D).
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.servers import METRICS, Asked, ComputeClient, Line, Order, Server, figures
from polyarch.core import Architecture, System, Verdict, parameter
from polyarch.jobs.compute import ComputeJob


class SingleThreadedServer(Server):
    """One thread, which is the node's own."""

    queue: int = 100
    """Requests that may wait."""
    order: Order = "fifo"

    async def start(self) -> None:
        await super().start()
        self.line = Line.of(self.order, self, self.queue)
        self.spawn(self.run())

    def accept(self, request: Asked) -> None:
        self.line.put(request)

    async def run(self) -> None:
        """The server's loop."""
        while True:
            request = await self.line.take()
            if request.work:
                await self.work(request.work)
            if request.blocking:
                await self.blocking_call(request.blocking)
            request.done.set(None)


class SingleThreaded(Architecture):
    """One request after another, each from its beginning to its end; while one waits, all wait."""

    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.1.3; Kleinrock, 1975"
    jobs = (ComputeJob,)
    claims = (
        "requests are done in the order in which they come",
        "the server is a single point of failure",
    )
    metrics = METRICS

    queue: int = parameter(100, "requests that may wait; more are refused", least=0)
    order: Order = parameter("fifo", "in which they are taken: as they came, or each client's in turn")
    deadlines: bool = parameter(True, "requests whose answer would be too late are not begun")

    def build(self, system: System) -> None:
        server = SingleThreadedServer(queue=self.queue, order=self.order, deadlines=self.deadlines)
        system.role("server", server)  # one thread uses one core, however many there are
        system.clients(ComputeClient(front=server))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, ("server-0",))
