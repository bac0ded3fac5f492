"""Servers behind a name: whoever wants one asks the DNS, which names another one first each time.

Brisco, "DNS support for load balancing", RFC 1794, 1995; as a way to switch requests: van Steen and
Tanenbaum, 4th ed., section 3.4.3; what comes of it: Colajanni, Yu and Cardellini, "Dynamic load balancing in
geographically distributed heterogeneous Web servers", ICDCS 1998.

        client --(1) where?--> resolver --(2) where? (if it does not know)--> name server
           \\--(5) request--> server  <----------- (3) server-2, for TTL seconds ---'

A client asks the *resolver* of its domain (a company, a provider).  The resolver asks the *name server*,
and remembers the answer for as long as the answer's TTL says.  For this time all clients of the domain go to
the same server (or, if the answer has several, to the first one that answers).  Nothing stands between
clients and servers: no request and no byte passes a switch.

What is the problem with this?  The name server decides seldom: for 1.6 % of 1,000 requests per second of a
thousand domains with a TTL of a minute (law LB-11). What it decides it does not see: a domain may be one
client or a million. With 4 servers, one address in each answer, and 200 requests per second of 50 domains
(Zipf's law) for 60 s on `sim`, the busiest server had 1.00, 1.07, 1.16 and 1.65 times the mean load with
TTLs of 0, 1, 10 and 60 s. And what it has said it cannot take back: a dead server gets its domains'
requests until their TTLs end. When one was killed after 20 s, 379 of the 11,976 requests were lost with a
TTL of 10 s, and 16 with 1 s, if the name server looks every 0.5 s who is there; 2,069 if it does not look.
A short TTL mends both, and makes requests wait for the DNS: 5.97 messages each with a TTL of 0, 4.05 with
10 s. Better are answers with all addresses, and clients that try the next one: then no request was lost.
And servers beyond the number of domains have nothing to do: with a TTL of a minute 6 domains get 5,600
requests per second from 8 servers and 5,500 from 16, 200 domains 14,700 from 16 (`polyarch scale`).
"""

from __future__ import annotations

from typing import Any

from polyarch.architectures.event_loop import EventLoopServer
from polyarch.blocks.names import Cache, Zone
from polyarch.core import (
    Architecture,
    Dns,
    DnsQuery,
    DnsReply,
    Failure,
    Future,
    Http,
    Over,
    Record,
    Refused,
    Request,
    System,
    Timeout,
    Unreachable,
    Verdict,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.compute import Compute, ComputeJob, Seconds

ZONE = "polyarch.test"
SERVICE = f"_http._tcp.compute.{ZONE}"
"""What clients ask for, as SRV records: a host and a port (RFC 2782)."""


PATIENCE = 0.5
"""Seconds after which the name server takes a server that does not answer for dead."""


class NoSuchName(Refused, code="no-such-name"):
    """The DNS knows no server for the name."""


class NoNames(Refused, code="no-names"):
    """The DNS does not answer: nobody can say where to ask."""


# -- the name server ----------------------------------------------------------------------------------------


class Told(Record):
    """What a name server, or a resolver, has done so far."""

    asked: int
    """Questions."""
    passed_on: int
    """Of them those that it could not answer from what it remembered; of a name server all."""


class NameServer(Dns):
    """Knows the zone, and answers with another server first each time."""

    example = f"{SERVICE} SRV"
    servers: tuple[str, ...]
    ttl: int
    most: int = 0
    """Servers in an answer; 0: all."""
    check_seconds: float = 0.0
    """How often servers are asked whether they are there, so that dead ones are not named; 0: never."""

    async def start(self) -> None:
        self.zone = Zone(ZONE, SERVICE, self.servers, self.ttl, self.most)
        self.asked = 0
        self.down: dict[str, None] = {}
        if self.check_seconds:
            self.every(self.check_seconds, self.check_all)

    async def dns(self, query: DnsQuery) -> DnsReply:
        self.asked += 1
        return self.zone.answer(query, self.down)

    async def check_all(self) -> None:
        await settle(*(self.check(server) for server in self.servers))

    async def check(self, server: str) -> None:
        """Any answer will do."""
        try:
            await self.at(server, Http, timeout=PATIENCE).http(Request("GET", "/"))
            self.down.pop(server, None)
        except Failure:
            self.down[server] = None

    @rpc
    async def told(self) -> Told:
        """What it has done."""
        return Told(self.asked, self.asked)


# -- the resolvers ------------------------------------------------------------------------------------------


class Resolver(Dns):
    """Asks in its clients' place, and remembers what it was told until the TTL ends."""

    authority: NameServer
    rotate: bool = False
    stale: float = 0.0
    tries: int = 3
    patience: float = 0.25
    """Seconds after which a question is taken for lost, and asked again."""

    async def start(self) -> None:
        self.cache = Cache(rotate=self.rotate, stale=self.stale)
        self.under_way: dict[tuple[str, str], Future[DnsReply]] = {}
        self.asked = self.passed_on = 0

    async def dns(self, query: DnsQuery) -> DnsReply:
        self.asked += 1
        known = self.cache.get(query, self.now)
        if known is not None:
            return known
        key = (query.name, query.kind)
        if key in self.under_way:  # somebody else has just asked the same
            return await self.under_way[key]
        self.passed_on += 1
        answer = self.under_way[key] = self.future()
        reply = await self.find_out(query)
        del self.under_way[key]
        answer.set(reply)
        return reply

    async def find_out(self, query: DnsQuery) -> DnsReply:
        """Ask the name server; it may take several questions, as datagrams get lost."""
        for _ in range(self.tries):
            try:
                reply = await self.at(self.authority.address, NameServer, timeout=self.patience).dns(query)
                self.cache.put(query, reply, self.now)
                return DnsReply(reply.code, reply.answers, reply.authority, False)
            except Timeout:
                continue
            except Failure:
                break
        return self.cache.get_stale(query, self.now) or DnsReply("SERVFAIL")

    @rpc
    async def told(self) -> Told:
        """What it has done."""
        return Told(self.asked, self.passed_on)


# -- the clients --------------------------------------------------------------------------------------------


class Reached(Record):
    """What the clients have met so far."""

    requests: int
    dead: int
    """Times that they were sent to a server that was not there."""


class Browser(Compute):
    """The clients of all domains: client number c is in domain c modulo the number of resolvers."""

    resolvers: tuple[str, ...]
    attempts: int = 1
    """Servers of an answer that are tried, one after another, if they cannot be reached."""

    async def start(self) -> None:
        self.requests = self.dead = 0
        self.ports: dict[str, Any] = {}

    async def locate(self, client: int) -> tuple[str, ...]:
        """The servers that a client is told to use, in this order."""
        resolver = self.at(self.resolvers[client % len(self.resolvers)], Resolver, timeout=2.0)
        try:
            reply = await resolver.dns(DnsQuery(SERVICE))
        except Failure as failure:
            raise NoNames(f"no resolver: {failure}") from failure
        if reply.code == "NXDOMAIN" or (reply.code == "NOERROR" and not reply.answers):
            raise NoSuchName(SERVICE)
        if reply.code != "NOERROR":
            raise NoNames(reply.code)
        return tuple(record.node for record in reply.answers if record.kind == "SRV")

    async def ask(self, client: int, operation: str, *arguments: Any) -> Any:
        """Ask one of the servers that the name leads to."""
        self.requests += 1
        servers = await self.locate(client)
        for server in servers[: self.attempts]:
            if server not in self.ports:
                self.ports[server] = Over(Compute, self.at(server, Http, timeout=self.timeout))
            try:
                return await getattr(self.ports[server], operation)(*arguments)
            except Unreachable:
                self.dead += 1
        raise Unreachable(f"no answer from {', '.join(servers[: self.attempts])}")

    @rpc
    async def reached(self) -> Reached:
        """What they have met."""
        return Reached(self.requests, self.dead)

    async def increment(
        self, value: int, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> int:
        return await self.ask(client, "increment", value, work, blocking, client)  # type: ignore[no-any-return]

    async def add(
        self, a: float, b: float, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> float:
        return await self.ask(client, "add", a, b, work, blocking, client)  # type: ignore[no-any-return]

    async def sort(
        self, numbers: tuple[float, ...], work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        return await self.ask(client, "sort", numbers, work, blocking, client)  # type: ignore[no-any-return]

    async def block(self, seconds: Seconds, work: Seconds = 0.0, client: int = 0) -> float:
        return await self.ask(client, "block", seconds, work, client)  # type: ignore[no-any-return]


# -- the architecture ---------------------------------------------------------------------------------------


class DnsRoundRobin(Architecture):
    """Servers behind a name, which the DNS gives out in turn, and resolvers remember for a while."""

    family = "clustered servers"
    source = "Brisco, RFC 1794, 1995; van Steen and Tanenbaum, 4th ed., section 3.4.3"
    jobs = (ComputeJob,)
    scales = "servers"
    claims = (
        "no request passes through a switch",
        "a server is no single point of failure, once the TTL has ended",
    )
    metrics = {
        "chosen_by_dns": "share of requests whose server the name server chose; the others go by memory",
        "load_imbalance": "requests of the busiest server, divided by the mean",
        "sent_to_dead": "share of the requests that were sent to a server that was not there",
    }

    servers: int = parameter(4, "servers behind the name", least=1, most=1000)
    domains: int = parameter(6, "domains of clients, each with a caching resolver", least=1, most=100_000)
    ttl: int = parameter(5, "for which resolvers may remember an answer", least=0, most=604_800, unit="s")
    answers: int = parameter(0, "servers in an answer of the name server; 0: all", least=0)
    attempts: int = parameter(
        1, "servers of an answer that a client tries, if they cannot be reached", least=1
    )
    rotate: bool = parameter(False, "resolvers give what they remember in turn, too")
    stale: float = parameter(
        0.0, "for which answers are used after their TTL if the name server is silent", least=0, unit="s"
    )
    check: float = parameter(
        0.5, "how often the name server looks which servers are there; 0: never", least=0, unit="s"
    )
    connections: int = parameter(1000, "most requests under way in a server; more are refused", least=1)

    @property
    def takeover(self) -> float:
        # Noticed, at the latest, when the next look has got no answer; named until that answer's TTL ends.
        return self.check + PATIENCE + self.ttl if self.check else 0.0

    def build(self, system: System) -> None:
        server = EventLoopServer(connections=self.connections)
        system.role("server", server, count=self.servers)
        names = NameServer(
            servers=system.addresses(server), ttl=self.ttl, most=self.answers, check_seconds=self.check
        )
        system.role("names", names)
        resolver = Resolver(authority=names, rotate=self.rotate, stale=self.stale)
        system.role("resolver", resolver, count=self.domains)
        system.clients(Browser(resolvers=system.addresses(resolver), attempts=self.attempts))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        resolvers = [f"resolver-{i}" for i in range(self.domains)]
        told = await _told(*(x.at(address, Resolver).told() for address in resolvers))
        asked = sum(t.asked for t in told)
        served = await _told(*(x.at(f"server-{i}", EventLoopServer).tally() for i in range(self.servers)))
        loads = [tally.arrived for tally in served]
        (reached,) = await _told(x.client.reached()) or (Reached(0, 0),)
        metrics: dict[str, Any] = {}
        if asked:
            metrics["chosen_by_dns"] = sum(t.passed_on for t in told) / asked
        if sum(loads) and len(loads) == self.servers:
            metrics["load_imbalance"] = max(loads) / (sum(loads) / len(loads))
        if reached.requests:
            metrics["sent_to_dead"] = reached.dead / reached.requests
        return metrics, []


async def _told(*questions: Any) -> list[Any]:
    """The answers of those that answer."""
    return [answer for answer in await settle(*questions) if not isinstance(answer, Failure)]


__all__ = ["SERVICE", "ZONE", "Browser", "DnsRoundRobin", "NameServer", "Resolver"]
