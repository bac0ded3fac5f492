"""A finite-state machine: one thread, many requests, no waiting.

The server's loop takes the next *event*: a request has come, or what a request was waiting for is there.  It
does the next step of that request, notes how far it has come, and goes on to the next event; it never blocks
(van Steen and Tanenbaum, table 3.1: parallelism, nonblocking system calls; Welsh, Culler and Brewer, "SEDA",
SOSP 2001, section 2.2).

Its state is what threads would keep on their stacks: a record for each request, with its step.

        (arrives) -> COMPUTE --work--> WAIT --the event comes--> ANSWER -> (gone)

What a request waits for has to come as an event.  Where the operating system offers only a call that blocks
(files, names), there are two ways out, and one that is none: *helper* threads block in place of the loop and
tell it when they are back (Pai, Druschel and Zwaenepoel, "Flash", USENIX 1999; libuv); or the loop blocks
itself, and is a single-threaded server.  ``waiting`` says which.

What is the problem with this?  It uses one core, and a step cannot be interrupted: a long computation keeps
everybody waiting (M/G/1, law QU-03), and one blocking call that somebody forgot in a library stops it
all.  A program in pieces, with its state in records, is harder to write and to read than one that runs from
top to bottom.

Measured (sim, 16 clients): 1,440 waits of 10 ms per second, as a thread per connection; computations of 5
ms, on a host with four cores: 198 per second, where threads do 787.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.blocks.servers import METRICS, Asked, ComputeClient, Line, Server, figures
from polyarch.core import Architecture, Overloaded, System, Verdict, parameter
from polyarch.jobs.compute import ComputeJob

COMPUTE, WAIT, ANSWER = range(3)
"""The steps of a request."""

Waiting = Literal["event", "helper", "loop"]


class EventLoopServer(Server):
    """One thread, which is the node's own, and never waits for a single request."""

    connections: int = 1000
    """Most requests under way at a time."""
    waiting: Waiting = "event"
    helpers: int = 8
    """Threads that block in place of the loop."""

    async def start(self) -> None:
        await super().start()
        self.events = Line(self, self.connections)
        self.calls = Line(self, self.connections)
        self.spawn(self.run())
        if self.waiting == "helper":
            for _ in range(self.helpers):
                self.spawn(self.helper())

    def accept(self, request: Asked) -> None:
        if self.under_way >= self.connections:
            raise Overloaded(f"{self.under_way} connections are open already")
        self.events.put(request)

    async def run(self) -> None:
        """The loop: one step for each event."""
        while True:
            request = await self.events.take()
            if request.step == COMPUTE:
                if request.work:
                    await self.work(request.work)
                request.step = WAIT if request.blocking else ANSWER
            if request.step == WAIT:
                request.step = ANSWER
                if self.waiting == "event":
                    self.after(request.blocking, self.events.put, request)
                    continue
                if self.waiting == "helper":
                    self.calls.put(request)
                    continue
                await self.blocking_call(request.blocking)
            request.done.set(None)

    async def helper(self) -> None:
        """Blocks in place of the loop."""
        thread = self.thread()
        while True:
            request = await self.calls.take()
            await thread.blocking_call(request.blocking)
            self.events.put(request)


class EventLoop(Architecture):
    """A finite-state machine: one thread serves all requests step by step, and never waits for one."""

    family = "client-server"
    source = "van Steen and Tanenbaum, 4th ed., section 3.1.3; Welsh et al., SOSP 2001; Pai et al., 1999"
    jobs = (ComputeJob,)
    claims = (
        "a request that waits for an event holds up no other one",
        "the server is a single point of failure",
    )
    metrics = METRICS

    connections: int = parameter(1000, "most requests under way at a time; more are refused", least=1)
    waiting: Waiting = parameter("event", "how it waits: for events, by helper threads, or in its loop")
    helpers: int = parameter(8, "helper threads", least=1, most=10_000)
    deadlines: bool = parameter(True, "requests whose answer would be too late are not begun")

    def build(self, system: System) -> None:
        server = EventLoopServer(
            connections=self.connections, waiting=self.waiting, helpers=self.helpers, deadlines=self.deadlines
        )
        system.role("server", server)  # one thread uses one core, however many there are
        system.clients(ComputeClient(front=server))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, ("server-0",))
