"""Mutual exclusion by asking everybody: who asked first, by logical time, goes first.

Ricart and Agrawala: "An optimal algorithm for mutual exclusion in computer networks", CACM 24(1), 1981.
Sections are the paper's.

A process that wants to enter sends REQUEST(sequence number, itself) to all others, and enters when all have
sent REPLY.  Who receives a request replies at once, unless it is inside, or wants to be and asked before:
then it *defers* its reply until it has come out (section 2.1).  Requests are ordered by their sequence
numbers, which are Lamport's clocks, and equal ones by the numbers of the processes.  2(n-1) messages an
entry.

Here a REPLY is the answer to the REQUEST, and a deferred one an answer that waits.

What a crash costs.  The algorithm needs a REPLY from everybody: while any process is away nobody gets in (n
points of failure instead of one).  A process that comes back has forgotten the highest sequence number, and
with a low one it would pass those to whom it has already replied: it learns it from all others before it
takes part again, as a new process does (section 6.1).
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.clocks import LamportClock
from polyarch.blocks.critical_section import ENTRIES, Participant, Resource, SectionClient, figures
from polyarch.core import Architecture, Failure, Future, System, Timeout, Verdict, gather, parameter, rpc
from polyarch.jobs.mutex import Mutex

PATIENCE = 30.0
"""Seconds after which a process gives up."""


class Process(Participant):
    """One process."""

    others: tuple[str, ...]
    """All processes, this one among them."""
    defer: bool = True
    """Whether a reply waits until who asked before has come out (section 2.1)."""
    learn: bool = True
    """Whether a process that comes back learns the highest sequence number first (section 6.1)."""

    async def start(self) -> None:
        await super().start()
        self.number = self.others.index(self.address)
        self.clock = LamportClock()
        self.asking: tuple[int, int] | None = None  # our own request: sequence number, process
        self.deferred: list[Future[None]] = []
        self.knows = False
        self.spawn(self.come_back())

    async def come_back(self) -> None:
        """Learn the highest sequence number, if there was any before us."""
        if self.learn and self.disk.get("started", bool, False):
            for time in await gather(*(self.patiently(p, "time_now") for p in self.peers())):
                self.clock.receive(time)
        self.disk.put("started", True)
        await self.disk.sync()
        self.knows = True

    def peers(self) -> list[str]:
        return [p for p in self.others if p != self.address]

    async def acquire(self) -> None:
        while not self.knows:
            await self.sleep(0.02)
        self.asking = (self.clock.tick(), self.number)
        try:
            await gather(*(self.patiently(p, "request", *self.asking) for p in self.peers()))
        except Failure:
            self.release()
            raise

    async def patiently(self, peer: str, message: str, *arguments: int) -> Any:
        """Ask a process until it replies: nobody is passed over because he is away."""
        give_up = self.now + PATIENCE
        while True:
            try:
                return await getattr(self.at(peer), message)(*arguments)
            except Failure as failure:
                if message == "request" and self.now > give_up:
                    raise Timeout(f"no reply from {peer}: {failure}") from failure
                await self.sleep(0.05)

    @rpc(timeout=1.0)
    async def request(self, sequence: int, process: int) -> None:
        """REQUEST; the answer is REPLY."""
        self.clock.receive(sequence)
        if self.asking is not None and self.asking < (sequence, process) and self.defer:
            reply = self.future()
            self.deferred.append(reply)
            await reply

    def release(self) -> None:
        self.asking = None
        deferred, self.deferred = self.deferred, []
        for reply in deferred:
            reply.set(None)

    @rpc(timeout=1.0)
    async def time_now(self) -> int:
        """The highest sequence number seen here."""
        return self.clock.time


class RicartAgrawala(Architecture):
    """Every process asks all others, and the earliest request by logical time goes first."""

    family = "agreement"
    source = "Ricart and Agrawala, An optimal algorithm for mutual exclusion in computer networks, 1981"
    jobs = (Mutex,)
    claims = ("2(n-1) messages per entry", "first asked, first served, by logical time")
    metrics = ENTRIES

    nodes: int = parameter(5, "processes", least=1)

    def build(self, system: System) -> None:
        addresses = system.addresses("process", self.nodes)
        resource = Resource()
        system.role("process", Process(others=addresses, resource=resource), count=self.nodes)
        system.role("resource", resource)
        system.clients(SectionClient(participants=addresses, resource=resource))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        processes = tuple(f"process-{i}" for i in range(self.nodes))
        return await figures(x, processes, ("request",)), []
