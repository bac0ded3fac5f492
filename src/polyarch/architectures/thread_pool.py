"""A bounded pool of threads, and a bounded queue before it.

The threads are started once.  Each takes the next request from the queue, does all of it, blocking calls
included, and takes another one (the dispatcher and its workers of van Steen and Tanenbaum, figure 3.4;
Schmidt and Vinoski, "Comparing alternative programming techniques for multi-threaded servers", 1996).

Its state is the queue and what each worker is at.  As a queue it is M/M/c, c being the threads, as long as
each has a core of its own or blocks (Erlang's C formula; law QU-02); with no places in the queue it is
Erlang's loss system, in which the share of those refused depends on the mean of the work only (law QU-B).

What is the problem with this?  The number.  With too few threads they all sit in blocking calls while cores
are idle and requests wait; with too many it is a thread per connection again.  Threads for a load of
CPU-bound work are its cores; for blocking calls, Little says: rate x length of each.  One kind of slow
request can take all the threads, and then nobody is served.

Measured (sim, 16 clients): eight threads do 787 blocking calls of 10 ms per second, where a thread per
connection does 1,440; and 787 computations of 5 ms on four cores, where one thread does 198.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.servers import METRICS, Asked, ComputeClient, Line, Order, Server, figures
from polyarch.core import Architecture, System, Verdict, parameter
from polyarch.jobs.compute import ComputeJob


class ThreadPoolServer(Server):
    """The node's own thread puts requests into the queue; workers take them out."""

    threads: int = 8
    queue: int = 100
    """Requests that may wait."""
    order: Order = "fifo"

    async def start(self) -> None:
        await super().start()
        self.line = Line.of(self.order, self, self.queue)
        for _ in range(self.threads):
            self.spawn(self.worker())

    def accept(self, request: Asked) -> None:
        self.line.put(request)

    async def worker(self) -> None:
        """What each thread of the pool does."""
        thread = self.thread()
        while True:
            request = await self.line.take()
            if request.work:
                await thread.work(request.work)
            if request.blocking:
                await thread.blocking_call(request.blocking)
            request.done.set(None)


class ThreadPool(Architecture):
    """A bounded pool of threads takes requests from a bounded queue."""

    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.1.3, figure 3.4"
    jobs = (ComputeJob,)
    claims = (
        "a request that blocks holds up no other one, while there are more threads than those",
        "the server is a single point of failure",
    )
    metrics = METRICS

    threads: int = parameter(8, "threads of the pool", least=1, most=10_000)
    queue: int = parameter(100, "requests that may wait; more are refused", least=0)
    order: Order = parameter("fifo", "in which they are taken: as they came, or each client's in turn")
    deadlines: bool = parameter(True, "requests whose answer would be too late are not begun")
    cores: int = parameter(1, "cores of the server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        server = ThreadPoolServer(
            threads=self.threads, queue=self.queue, order=self.order, deadlines=self.deadlines
        )
        system.role("server", server, cores=self.cores)
        system.clients(ComputeClient(front=server))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, ("server-0",))
