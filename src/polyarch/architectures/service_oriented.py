"""Services that anybody may use, found by name in a registry: publish, find, bind.

W3C, "Web Services Architecture", 2004 (section 1.4.2); Papazoglou and Georgakopoulos, "Service-oriented
computing", CACM 46(10), 2003; as an architecture: van Steen and Tanenbaum, 4th ed., section 2.1.2.

                         registry
          (1) publish  ^          ^  (2) find
                      /            \\
        date-time, weather  <---  portal  <--- clients
                          (3) bind

Who offers a service *publishes* it: its name, version and address, under a *lease* that it must renew.  Who
needs it *finds* what is published, chooses, and *binds*: it goes to that instance from then on, without the
registry, until the instance fails, says no, or a while has passed.  All of them speak HTTP and JSON and
nothing else, so it does not matter what a service is made of: one of the two kinds of weather service is
JavaScript, run by Node.js.  Services are made to be used again: the portal's report is made from both.

A *version that changes*: at a time, every weather service withdraws and comes back as version 2, one after
the other; what it answers then is another record.  A consumer says which versions it understands.  An
*instance that leaves* withdraws, and ends what it has under way; one that dies is named until its lease ends.

What is the problem with this?  Finding costs: 6.8 messages for an operation if every call asks the registry,
4.4 if the portal stays with what it found for 5 s (100 operations/s on `sim`).  Staying costs too: what was
found is out of date when an instance dies.  With two instances, one killed, a lease of 10 s and a look at the
registry every 0.2 s, 33 calls met the dead one (a second try saved them all); with one instance every
operation that needs it fails until it is back.  The contract is what breaks: when the weather became version
2 after 5 of 20 s, a portal that understood version 1 only lost 868 of 2,022 operations, one that understood
both lost none.  The registry is soft state: killed for 17 of 20 s, it cost nothing to who was bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from polyarch.blocks import almanac
from polyarch.blocks.relay import relaying
from polyarch.components.declared import NodeJs
from polyarch.core import (
    Architecture,
    Failure,
    Http,
    Over,
    Record,
    Refused,
    System,
    Timeout,
    Unreachable,
    Verdict,
    Web,
    get,
    parameter,
    post,
    rpc,
    settle,
)
from polyarch.jobs.services import Almanac, Report, ServicesJob, Weather

__all__ = ["DateTime", "Instance", "NoService", "Portal", "Registry", "ServiceOriented", "WeatherService"]

Understands = Literal["1", "2", "both"]
Kinds = Literal["both", "python", "node"]


class NoService(Refused, code="no-service"):
    """Nobody offers the service, in a version that is understood."""


class WrongVersion(Refused, code="wrong-version"):
    """The instance has another version by now."""


# -- the registry -------------------------------------------------------------------------------------------


class Instance(Record):
    """Somebody who offers a service."""

    address: str
    version: int
    technology: str


class Registry(Web):
    """Knows who offers what, for as long as they say so: soft state, full again after a lease."""

    title = "A registry of services"

    async def start(self) -> None:
        self.offered: dict[str, dict[str, tuple[Instance, float]]] = {}
        self.finds = 0

    @post("/services/{service}/publish")
    async def publish(self, service: str, address: str, version: int, technology: str, lease: float) -> None:
        """An instance offers a service in this version, and no other, for ``lease`` seconds from now."""
        offer = Instance(address, version, technology), self.now + lease
        self.offered.setdefault(service, {})[address] = offer

    @post("/services/{service}/withdraw")
    async def withdraw(self, service: str, address: str) -> None:
        """An instance offers a service no longer."""
        self.offered.get(service, {}).pop(address, None)

    @get("/services/{service}")
    async def find(self, service: str) -> tuple[Instance, ...]:
        """Who offers a service now, in all versions."""
        self.finds += 1
        offers = self.offered.get(service, {})
        for address in [a for a, (_, until) in offers.items() if until <= self.now]:
            del offers[address]
        return tuple(instance for instance, _ in offers.values())

    @rpc
    def asked(self) -> int:
        """How often somebody wanted to find a service."""
        return self.finds


# -- services -----------------------------------------------------------------------------------------------


class Provider(Web):
    """An instance of a service: it publishes itself, and renews its lease."""

    registry: Http
    lease: float = 3.0
    technology: str = "Python"
    service = ""

    async def start(self) -> None:
        self.catalogue = Over(Registry, self.registry)
        self.version = 1
        self.open = True
        self.spawn(self.publish())
        self.every(self.lease / 3, self.publish)

    async def publish(self) -> None:
        """Tell the registry what is offered here; if it is away, the next time will do."""
        offer = self.address, self.version, self.technology, self.lease
        if self.open:
            try:
                await self.catalogue.publish(self.service, *offer)
            except Failure:
                pass

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Take no new customers.  Those that are bound are answered until they look again."""
        self.open = False
        await self.catalogue.withdraw(self.service, self.address)


class DateTime(Provider):
    """The date and the time, anywhere, by this node's clock."""

    title = "Date and time"
    service = "date-time"

    @get("/v1/date-time")
    async def date_time(self, hours: int) -> str:
        """ISO 8601, where it is so many hours later than UTC."""
        return almanac.iso(self.now, hours)


class WeatherV2(Record):
    """What version 2 answers: the same in another unit."""

    city: str
    day: int
    centikelvin: int


class WeatherService(Provider):
    """The weather.  ``components/scripts/weather.mjs`` is the same in JavaScript."""

    title = "The weather"
    service = "weather"
    upgrade: float = 0.0
    """Seconds after which it becomes version 2; 0: never."""

    async def start(self) -> None:
        await super().start()
        self.version = self.disk.get("version", int, 1)  # a crash takes no new version back
        if self.upgrade and self.version == 1:
            # One instance after the other.
            self.after(self.upgrade + number_of(self.address) * 0.5, self.become_version_2)

    async def become_version_2(self) -> None:
        try:
            await self.catalogue.withdraw(self.service, self.address)
        except Failure:
            pass  # it will be told of version 2
        self.version = 2
        self.disk.put("version", 2)
        await self.disk.sync()
        await self.publish()

    @get("/v1/weather")
    async def weather(self, city: str, day: int) -> Weather:
        """As version 1 says it."""
        self.must_be(1)
        return Weather(city, day, almanac.forecast(almanac.city(city), day) / 10)

    @get("/v2/weather")
    async def weather_v2(self, city: str, day: int) -> WeatherV2:
        """As version 2 says it."""
        self.must_be(2)
        return WeatherV2(city, day, almanac.forecast(almanac.city(city), day) * 10 + 27_315)

    def must_be(self, version: int) -> None:
        if self.version != version:
            raise WrongVersion(f"this is version {self.version}")


def number_of(address: str) -> int:
    """``weather-3`` -> 3"""
    return int(address.rpartition("-")[2])


# -- a consumer ---------------------------------------------------------------------------------------------


class Bound(Record):
    """What a consumer has met so far."""

    calls: dict[str, int]
    """Answered calls, by technology."""
    failed: int
    """Calls to an instance that was not there, did not answer, or had become another version."""


class Portal(Almanac, Web):
    """Answers clients, with what others know."""

    title = "A portal to services"
    registry: Http
    understands: Understands = "both"
    keep: float = 5.0
    """Seconds for which it stays with what it found."""
    tries: int = 3
    patience: float = 1.0
    """Seconds after which an instance is taken for gone."""

    async def start(self) -> None:
        self.catalogue = Over(Registry, self.registry)
        self.found: dict[str, list[Instance]] = {}
        self.until: dict[str, float] = {}
        self.turn = 0
        self.calls: dict[str, int] = {}
        self.failed = 0

    # -- find and bind -----------------------------------------------------------------------------------

    async def bind(self, service: str, versions: tuple[int, ...]) -> Instance:
        """An instance of a service, in the newest version that is understood; each in turn."""
        if not self.found.get(service) or self.now >= self.until[service]:
            try:
                offered = await self.catalogue.find(service)
            except Failure:
                offered = ()  # go on with those that are known
            newest = max((i.version for i in offered if i.version in versions), default=0)
            if newest or not self.found.get(service):
                self.found[service] = [i for i in offered if i.version == newest]
            self.until[service] = self.now + self.keep
        bound = self.found[service]
        if not bound:
            raise NoService(f"{service} in version {' or '.join(map(str, versions))}")
        self.turn += 1
        return bound[self.turn % len(bound)]

    async def use(
        self, service: str, versions: tuple[int, ...], call: Callable[[Any, int], Any], port: type
    ) -> Any:
        """Call a service; an instance that has gone, or become another version, is left for others.  What is
        asked here changes nothing, so it may be asked twice."""
        failure: Failure = NoService(service)
        for _ in range(self.tries):
            instance = await self.bind(service, versions)
            there: Any = Over(port, self.at(instance.address, Http, timeout=self.patience))
            try:
                answer = await call(there, instance.version)
            except (Unreachable, WrongVersion, Timeout) as gone:
                failure = gone
                self.failed += 1
                changed = isinstance(gone, WrongVersion)  # then what was found is out of date
                self.found[service] = [] if changed else [i for i in self.found[service] if i != instance]
                continue
            self.calls[instance.technology] = self.calls.get(instance.technology, 0) + 1
            return answer
        raise failure

    @rpc
    async def bound(self) -> Bound:
        """What it has met."""
        return Bound(self.calls, self.failed)

    # -- what clients ask for ----------------------------------------------------------------------------

    async def date_time(self, city: str) -> str:
        hours = almanac.city(city).hours
        text: str = await self.use("date-time", (1,), lambda there, _: there.date_time(hours), DateTime)
        return text

    async def weather(self, city: str, day: int) -> Weather:
        versions = {"1": (1,), "2": (2,), "both": (1, 2)}[self.understands]

        def call(there: Any, version: int) -> Any:
            return there.weather(city, day) if version == 1 else there.weather_v2(city, day)

        answer = await self.use("weather", versions, call, WeatherService)
        if isinstance(answer, WeatherV2):
            return Weather(answer.city, answer.day, (answer.centikelvin - 27_315) / 100)
        return answer  # type: ignore[no-any-return]

    async def report(self, city: str) -> Report:
        local_time = await self.date_time(city)
        return Report(local_time, await self.weather(city, almanac.day_of(local_time)))


class Client(relaying(Almanac)):  # type: ignore[misc]
    """Asks the portal over HTTP."""

    portal: Http

    async def start(self) -> None:
        self.behind = Over(Almanac, self.portal)


# -- the architecture ---------------------------------------------------------------------------------------


class ServiceOriented(Architecture):
    """Reusable services, found in a registry by name and version, whatever they are made of."""

    family = "services"
    source = "W3C, Web Services Architecture, 2004; van Steen and Tanenbaum, 4th ed., section 2.1.2"
    jobs = (ServicesJob,)
    scales = "instances"
    claims = (
        "a service is found by what it does, not by where it is",
        "an instance is no single point of failure, if there are several",
        "without the registry, who is bound stays so",
    )
    metrics = {
        "finds_per_call": "questions to the registry, by calls of services",
        "failed_calls": "calls of services that met an instance that was gone or had changed",
        "nodejs_share": "share of the calls of services that Node.js has answered",
    }

    instances: int = parameter(2, "instances of each service in Python", least=1, most=1000)
    weather: Kinds = parameter("both", "what weather services are made of; both: of Node.js if it is there")
    lease: float = parameter(3.0, "for which an instance is published", least=0.1, unit="s")
    keep: float = parameter(5.0, "for which the portal stays with what it found", least=0, unit="s")
    upgrade: float = parameter(
        0.0, "after which weather services become version 2; 0: never", least=0, unit="s"
    )
    understands: Understands = parameter("both", "versions of the weather that the portal understands")
    cores: int = parameter(1, "cores of each host, in a simulation", least=1)

    @property
    def not_borne(self) -> tuple[str, ...]:
        return ("skew", "drift")  # dates come from the services' clocks

    def build(self, system: System) -> None:
        registry = Registry()
        system.role("registry", registry, cores=self.cores)
        lease, upgrade = self.lease, self.upgrade
        dates = DateTime(registry=registry, lease=lease)
        system.role("datetime", dates, count=self.instances, cores=self.cores)
        if self.weather != "node":
            ours = WeatherService(registry=registry, lease=lease, upgrade=upgrade)
            system.role("weather", ours, count=self.instances, cores=self.cores)
        if self.weather != "python":
            theirs = WeatherService(registry=registry, lease=lease, upgrade=upgrade, technology="Node.js")
            cities = [{"name": c.name, "july": c.july, "january": c.january} for c in almanac.CITIES]
            config = {"cities": cities, "lease": lease, "upgrade": upgrade}
            must, ports = self.weather == "node", {"registry": "registry-0"}
            script = NodeJs("weather.mjs", theirs, config, ports, required=must)
            system.component("weather-js", script, cores=self.cores)
        portal = Portal(registry=registry, understands=self.understands, keep=self.keep)
        system.role("portal", portal, cores=self.cores)
        system.clients(Client(portal=portal))

    async def ready(self, x: Any) -> None:
        """Both services are published."""
        registry = x.at("registry-0", Registry)
        while not (await registry.find("date-time") and await registry.find("weather")):
            await x.sleep(0.05)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        portal, finds = await settle(x.at("portal-0", Portal).bound(), x.at("registry-0", Registry).asked())
        if isinstance(portal, Failure) or not portal.calls:
            return {}, []
        calls = sum(portal.calls.values())
        nodejs = portal.calls.get("Node.js", 0) / calls
        metrics: dict[str, Any] = {"failed_calls": portal.failed, "nodejs_share": nodejs}
        if not isinstance(finds, Failure):
            metrics["finds_per_call"] = finds / calls
        return metrics, []
