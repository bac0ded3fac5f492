"""Servers behind an application-layer switch, which reads each request before it chooses a server.

The switch ends its clients' connections, parses their requests, and passes each to a server on a connection
of its own (van Steen and Tanenbaum, section 3.4.3: content-aware request distribution).  So it can choose by
load for every single request, send requests of one kind to servers that are for them (by path, header,
cookie or content), keep a client at its server by a cookie, ask another server if one fails, and hold
requests back while all are busy.

What is the problem with this?  All bytes of requests and answers go through it, and it looks at them: it is
the first to saturate, and a single point of failure.  What it may ask for twice it must know from the
application (only GET and HEAD are safe).  And it knows load only as what it has sent itself.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Literal

from polyarch.blocks.balancing import WEIGHTED
from polyarch.blocks.relay import relaying
from polyarch.blocks.switch import Branch, Policy, Switch
from polyarch.components.declared import Caddy
from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Http,
    Over,
    Overloaded,
    Request,
    Response,
    System,
    Verdict,
    Web,
    parameter,
)
from polyarch.jobs.compute import MOST, Compute, ComputeJob, Seconds

__all__ = ["ApplicationSwitch", "ComputeClient", "Server", "come_and_go", "ours_only", "weights_of"]

Kind = Literal["none", "path", "header", "cookie", "content"]


class Server(Web, Compute):
    """Computes; while it waits for something else it takes further requests (an event loop)."""

    title = "A server that computes"
    queue: int = 1000
    """Requests that it has at a time; more are refused."""

    async def start(self) -> None:
        self.now_here = 0

    async def increment(
        self, value: int, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> int:
        await self.spend(work, blocking)
        return value + 1

    async def add(
        self, a: float, b: float, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> float:
        await self.spend(work, blocking)
        return a + b

    async def sort(
        self, numbers: tuple[float, ...], work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        await self.spend(work, blocking)
        return tuple(sorted(numbers))

    async def block(self, seconds: Seconds, work: Seconds = 0.0, client: int = 0) -> float:
        await self.spend(work, seconds)
        return seconds

    async def spend(self, work: float, waiting: float) -> None:
        """Occupy a core, and then wait."""
        if not (0 <= work <= MOST and 0 <= waiting <= MOST):
            raise BadArguments(f"work and blocking are from 0 to {MOST:g} s, not {work:g} and {waiting:g}")
        if self.now_here >= self.queue:
            raise Overloaded(f"{self.queue} requests are here already")
        self.now_here += 1
        try:
            if work:
                await self.work(work)
            if waiting:
                await self.sleep(waiting)
        finally:
            self.now_here -= 1


class ComputeClient(relaying(Compute)):  # type: ignore[misc]
    """A client that speaks HTTP with the switch, and says of sorting what it is."""

    timeout = 10.0
    front: Http

    async def start(self) -> None:
        self.behind = Over(Compute, self)

    async def http(self, request: Request) -> Response:
        """Called by ``Over`` with what it has made of an operation."""
        if request.target.startswith("/sort"):
            marks = {"x-kind": "sort", "cookie": "kind=sort"}
            request = Request(request.method, request.target, request.body, marks)
        return await self.front.http(request)


SORTS = {
    "path": Branch((), path="/sort"),
    "header": Branch((), header="x-kind: sort"),
    "cookie": Branch((), cookie="kind=sort"),
    "content": Branch((), content='"numbers"'),
}
"""How a request to sort is known."""


async def come_and_go(x: Any, random: Any, servers: int) -> None:
    """A server leaves, when it has answered what it has if that does not take long, and comes back."""
    switch, leaving = x.at("switch-0", Switch), f"server-{random.below(servers)}"
    with suppress(Failure):
        await switch.leave(leaving, 2.0)
    await x.sleep(random.between(0.0, 1.0))
    with suppress(Failure):
        await switch.join(leaving)


AFFINITIES = ("target", "content", "client", "header", "cookie")
"""What requests can be kept together by; the last two with a name."""


def ours_only(architecture: Architecture, *names: str) -> None:
    """``ValueError`` if one of these parameters was given: other switches than ours do not know it."""
    for name in names:
        known = architecture.parameters[name]
        if getattr(architecture, name) != known.default:
            raise ValueError(f"--{known.option} is for our switch: use --switch ours")


class ApplicationSwitch(Architecture):
    """Servers behind an application-layer switch, which chooses a server for each request."""

    family = "horizontal"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.3 (server clusters)"
    jobs = (ComputeJob,)
    claims = (
        "a server is no single point of failure",
        "the switch is a single point of failure",
    )

    metrics = {
        "retried": "requests that our switch sent once more, to another server",
        "hedged": "requests that it sent to a second server before the first had answered",
        "refused": "requests that it sent nowhere",
        "shunned": "times that it found a server to be ill",
    }

    servers: int = parameter(4, "servers behind the switch", least=1, most=10_000)
    switch: Literal["ours", "caddy"] = parameter("ours", "the switch: the one in blocks/switch.py, or Caddy")
    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    choices: int = parameter(2, "servers that the policy two_choices draws", least=1)
    bound: float = parameter(1.25, "most load of a server by consistent_hash, in means", least=1.01)
    affinity: str = parameter(
        "target", "key of hashing: target, content, client, header NAME, or cookie NAME"
    )
    sticky: str = parameter("", "name of a cookie that keeps a client at its server; empty: none does")
    weights: str = parameter("", "weights of the first servers, such as 3,1,1; the others have 1")
    route: Kind = parameter("none", "by what a request to sort is known, which has servers of its own")
    sorters: int = parameter(1, "servers that are for sorting, of all, if --route says how", least=1)
    most: int = parameter(0, "requests of one server at a time, others wait at the switch; 0: any", least=0)
    queue: int = parameter(
        1000, "requests that wait at the switch, or at a server; more are refused", least=1
    )
    retries: float = parameter(0.2, "budget: retries and hedges for each request", least=0, most=10)
    hedge: float = parameter(0.0, "seconds after which a second server is asked; 0: never", least=0)
    failures: int = parameter(1, "in a row, after which a server is left alone", least=1)
    shun: float = parameter(0.5, "how long it is left alone", least=0, unit="s")
    check: float = parameter(
        0.0, "how often servers are asked whether they are there; 0: never", least=0, unit="s"
    )
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        server = Server(queue=self.queue)
        system.role("server", server, count=self.servers, cores=self.cores)
        backends = system.addresses(server)
        switch: Http
        if self.switch == "caddy":
            ours_only(self, "route", "bound", "affinity", "sticky", "most", "retries", "hedge", "failures")
            caddy = Caddy(
                backends, self.policy, weights=weights_of(self.weights, backends, self.policy),
                choices=self.choices, shun_seconds=self.shun, check_seconds=self.check,
            )  # fmt: skip
            switch = system.component("switch", caddy).http
        else:
            switch = Switch(**self.settings(backends))
            system.role("switch", switch)
        system.clients(ComputeClient(front=switch))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        if self.switch != "ours":
            return {}, []
        counts = await x.at("switch-0", Switch).counts()
        return {name: getattr(counts, name) for name in self.metrics}, []

    async def operate(self, x: Any, random: Any) -> None:
        if self.switch == "ours":
            await come_and_go(x, random, self.servers)

    def settings(self, backends: tuple[str, ...]) -> dict[str, Any]:
        """The configuration of a switch of ours."""
        kind, _, name = self.affinity.partition(" ")
        if (kind in ("header", "cookie")) != bool(name) or kind not in AFFINITIES:
            raise ValueError(f"--affinity takes {', '.join(AFFINITIES)} NAME, not {self.affinity!r}")
        if self.sticky and not re.fullmatch(r"[\w.-]+", self.sticky, re.ASCII):
            raise ValueError(f"--sticky takes the name of a cookie, such as server, not {self.sticky!r}")
        branches: tuple[Branch, ...] = ()
        if self.route != "none":
            if self.sorters >= self.servers:
                raise ValueError(
                    f"--sorters {self.sorters} of {self.servers} servers leave none for the rest"
                )
            known = SORTS[self.route]
            sorters = backends[-self.sorters :]
            branches = (Branch(sorters, known.path, known.header, known.cookie, known.content),)
            backends = backends[: -self.sorters]
        return {
            "backends": backends, "branches": branches, "policy": self.policy, "choices": self.choices,
            "bound": self.bound, "affinity": self.affinity, "sticky": self.sticky,
            "weights": weights_of(self.weights, backends, self.policy), "most": self.most,
            "queue": self.queue, "retries": self.retries, "hedge_seconds": self.hedge,
            "failures": self.failures, "shun_seconds": self.shun, "check_seconds": self.check,
        }  # fmt: skip


def weights_of(text: str, backends: tuple[str, ...], policy: Policy) -> dict[str, float]:
    """``3,1,1``, for the first of the backends; ``ValueError`` for what is no list of weights, or has no
    meaning for the policy."""
    if not text.strip():
        return {}
    if policy not in WEIGHTED:
        raise ValueError(f"--weights mean nothing to --policy {policy}, only to {', '.join(WEIGHTED)}")
    try:
        given = [float(word) for word in text.split(",")]
    except ValueError:
        given = []
    if not given or len(given) > len(backends) or not all(0 < w < float("inf") for w in given):
        raise ValueError(
            f"--weights takes up to {len(backends)} positive numbers, such as 3,1,1, not {text!r}"
        )
    return dict(zip(backends, given))
