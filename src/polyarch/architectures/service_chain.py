"""A chain of services: each does its part of a request, and asks the next one for the rest.

The smallest thing that shows what it costs to split: the same work (job ``compute``), cut into n equal
parts, in n services that are processes of their own, or all in one process (``together``: the *monolith*,
cut in the same way, whose parts call each other in it).  Without queueing a request takes as long as all
its work, and two messages more for each service that is somewhere else (law SV-07).

What is the problem with this?  The time of the links adds up, and each message has to be written, sent and
read by a processor that has better things to do: on one machine the chain carries less than the monolith,
the less the smaller the parts are (law SV-06).  A chain works while all of its services work: n of them,
each up with probability a, are up with a^n (law QU-12).  On machines of their own n services do have n
times the cores; so have n copies of the monolith behind a switch, without the messages.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.relay import relaying
from polyarch.blocks.servers import METRICS, Asked, Server, figures
from polyarch.core import Architecture, Failure, Http, Over, System, Verdict, parameter, rpc
from polyarch.jobs.compute import Compute, ComputeJob

__all__ = ["ChainedService", "ServiceChain"]


class ChainedService(Server):
    """Does one of n equal parts of each request, and has the services behind it do theirs."""

    services: tuple[str, ...]
    """The addresses of all, in their order."""
    patience: float
    """Seconds to wait for the services behind."""

    async def start(self) -> None:
        await super().start()
        place = self.services.index(self.address)
        self.behind = self.services[place + 1 : place + 2]

    def accept(self, request: Asked) -> None:
        self.spawn(self.run(request))

    async def run(self, request: Asked) -> None:
        """A request of a client, at the first service."""
        n = len(self.services)
        try:
            await self.part(request.work / n, request.blocking / n)
        except Failure as failure:
            request.done.fail(failure)
        else:
            request.done.set(None)

    @rpc
    async def part(self, work: float, blocking: float) -> None:
        """This service's part of a request, and then those of the others."""
        if work:
            await self.work(work)
        if blocking:
            await self.sleep(blocking)
        for service in self.behind:
            await self.at(service, ChainedService, timeout=self.patience).part(work, blocking)


class ChainClient(relaying(Compute)):  # type: ignore[misc]
    """Asks the first service, over HTTP."""

    first: str
    patience: float

    async def start(self) -> None:
        self.behind = Over(Compute, self.at(self.first, Http, timeout=self.patience))


class ServiceChain(Architecture):
    """The same work cut into n services that call one another: apart, or together in one process."""

    name = "service_chain"
    family = "services"
    source = "Newman, Building Microservices, 2nd ed., chapter 1; Blinowski et al., IEEE Access 10, 2022"
    jobs = (ComputeJob,)
    claims = ("each service is a single point of failure",)
    metrics = METRICS
    scales = "services"

    services: int = parameter(5, "services that a request passes", least=1, most=1000)
    together: bool = parameter(False, "all of them in one process: a monolith")
    patience: float = parameter(10.0, "how long each waits for the services behind it", least=0, unit="s")
    cores: int = parameter(1, "cores of each process's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        names = system.addresses("service", self.services)
        service = ChainedService(services=names, patience=self.patience)
        each = self.services if self.together else 1
        system.role("service", service, count=self.services, cores=self.cores, together=each)
        system.clients(ChainClient(first=names[0], patience=self.patience))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await figures(x, ("service-0",))
