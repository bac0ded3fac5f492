"""Laws of queues, on the servers that compute: one who serves, several, threads that share cores, loss.

Requests come from the experimenter, at random times (Poisson), over links that take no time; what each needs
is drawn from the seed and said in the request.  A unit of time here is the mean service, ``UNIT`` seconds.

How far a measurement may be from its law depends on how many requests were measured: waiting times that
follow one another are alike, the more so the busier the server is.  A tolerance is the listed one, or 3.3
standard errors where that is more.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from polyarch.architectures.event_loop import EventLoop
from polyarch.architectures.single_threaded import SingleThreaded
from polyarch.architectures.thread_per_connection import ThreadPerConnection
from polyarch.architectures.thread_pool import ThreadPool
from polyarch.blocks.durations import Distribution, Durations
from polyarch.blocks.servers import Server, Tally
from polyarch.core import Architecture, Overloaded, Record, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, relative, spread_out, within
from polyarch.laws.queueing_theory import (
    SIGMAS,
    erlang_b,
    erlang_c,
    error_of_waiting,
    full_queue,
    many_servers,
)
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

UNIT = 0.01
"""Seconds of a mean service."""
ENDLESS = 10_000_000
"""Places of a queue that refuses nobody."""
THEORY = "theory (well known), value computed here"


# -- formulas ---------------------------------------------------------------------------------------------


def error_of_wait(rho: float, jobs: int, variability: float = 1.0, servers: int = 1) -> float:
    """Standard error of a mean wait over so many jobs, in mean services.

    For M/M/1 exact for many jobs (Daley 1968; Whitt, "Planning queueing simulations", 1989).  Others as in
    heavy traffic, where its square grows with ((c_a^2 + c_s^2) / 2)^3, and shrinks with the servers' squared.
    """
    square = rho * (2 + 5 * rho - 4 * rho**2 + rho**3) / (1 - rho) ** 4 / jobs
    return math.sqrt(square * ((1 + variability) / 2) ** 3) / servers


def error_of_share(share: float, rho: float, jobs: int) -> float:
    """Standard error of the share of jobs of which something holds that depends on how busy it is: as of
    independent ones, of which there are fewer by twice the relaxation time of the queue."""
    alike = 2 * (1 + rho) / (1 - rho) ** 2 if rho < 1 else 8.0
    return math.sqrt(share * (1 - share) * alike / jobs)


def widened(value: float, part: float, error: float) -> Expected:
    """A value within the listed part of it, or what chance allows."""
    return relative(value, max(part, SIGMAS * error / value)) if value else within(value, SIGMAS * error)


# -- a server under Poisson arrivals ------------------------------------------------------------------------


class Plan(Record):
    """What is asked of a server."""

    seed: int
    jobs: int
    rate: float
    """Requests in a mean service."""
    service: Distribution = "exponential"
    shape: float = 4.0
    as_blocking: bool = False
    """The service is a blocking call, not work."""


class Measured(Record):
    """What came of it; times in mean services."""

    sojourns: array[float]
    services: array[float]
    refused: int
    seconds: float
    tally: Tally
    busy: float
    """Seconds of cores."""
    gap: float
    """The mean time between arrivals, in what it should be."""

    @property
    def controlled(self) -> tuple[float, float, float]:
        """What ``Known.controlled`` wants to know."""
        return fmean(self.sojourns), self.gap, fmean(self.services)


def quiet(architecture: Architecture, seed: int) -> SimSession:
    """A session in which nothing takes any time but what servers do."""
    return SimSession(architecture, seed=seed, network=Network(latency=Constant(0.0)), detailed=False)


def served(architecture: Architecture, plan: Plan) -> Measured:
    """Let requests arrive at a server, until it has answered all."""
    with quiet(architecture, plan.seed) as session:

        async def experiment(x: Experimenter) -> Measured:
            return await arrivals(x, plan, x.at("server-0", Server, timeout=math.inf))

        return session.perform(experiment)


async def arrivals(x: Experimenter, plan: Plan, server: Any, first: int | None = None) -> Measured:
    """Poisson arrivals at a server; the ``first`` ones (a fiftieth, unless given) are not measured."""
    random = x.random.fork("jobs")
    durations = Durations(1.0, plan.service, plan.shape)
    sojourns, services = array("d"), array("d")
    refused, ended, all_ended = 0, 0, x.future()
    first = plan.jobs // 50 if first is None else first
    since = x.now

    async def ask(number: int, service: float) -> None:
        nonlocal refused, ended
        begin, need = x.now, service * UNIT
        try:
            if plan.as_blocking:
                await server.increment(number, 0.0, need)
            else:
                await server.increment(number, need)
        except Overloaded:
            refused += number >= first
        else:
            if number >= first:
                sojourns.append((x.now - begin) / UNIT)
                services.append(service)
        ended += 1
        if ended == plan.jobs:
            all_ended.set(None)

    gap = UNIT / plan.rate
    for number in range(plan.jobs):
        if number == first:
            since = x.now
        await x.sleep(random.exponential(gap))
        x.spawn(ask(number, durations.draw(random)))
    lasted = x.now - since
    if plan.jobs:
        await all_ended
    busy = (await x.control.resources())["server-0"].get("cpu_s", 0.0)
    tally = await server.tally()
    mean_gap = lasted / gap / max(1, plan.jobs - first)
    return Measured(sojourns, services, refused, x.now, tally, busy, mean_gap)


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value below which so much of an ordered sample is."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def split(jobs: int, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """(seed, jobs) of each part of a measurement."""
    return [(seed, -(-jobs // len(seeds))) for seed in seeds]


def relative_wait(found: Sequence[Measured]) -> float:
    """The mean wait of all, in mean services: what a request was there longer than it had to."""
    waited = sum(math.fsum(m.sojourns) - math.fsum(m.services) for m in found)
    return waited / sum(len(m.sojourns) for m in found)


# -- one who serves --------------------------------------------------------------------------------------


def _single(plan: Plan) -> Measured:
    return served(SingleThreaded(queue=ENDLESS), plan)


class OneServer(Law):
    """How long a request is at a server that does one after another."""

    id = "QU-01"
    architecture = "single_threaded"
    claim = "M/M/1: the time there is exponential, of mean 1/(mu - lambda)"
    source = "Kleinrock, Queueing Systems I, 1975, section 3.2"
    certainty = THEORY
    note = "times in mean services; W: drawn arrivals and services are a control variate"
    seeds = 4
    rho: float = parameter(0.8, "share of the time that the server is busy", least=0.01, most=0.98)
    jobs: int = parameter(1_000_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = ({"rho": 0.8},)

    def expected(self) -> dict[str, Expected]:
        rho, jobs = self.rho, self.jobs
        known = many_servers(1, rho)
        mean = known.time
        figures = {"W": relative(mean, max(0.04, SIGMAS * known.error(jobs)))}
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            density = (1 - part) / mean
            time = -mean * math.log(1 - part)
            figures[name] = widened(time, 0.08, error_of_share(part, rho, jobs) / density)
        return figures

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        plans = [Plan(seed, jobs, self.rho) for seed, jobs in split(self.jobs, seeds)]
        found = spread_out(_single, plans, tell)
        times = sorted(time for m in found for time in m.sojourns)
        shares = {f"p{round(100 * part)}": quantile(times, part) for part in (0.5, 0.95, 0.99)}
        return {"W": fmean(many_servers(1, self.rho).controlled(*m.controlled) for m in found), **shares}


Model = Literal["single_threaded", "event_loop"]


def _in_turn(job: tuple[Model, Plan]) -> Measured:
    model, plan = job
    if model == "single_threaded":
        return served(SingleThreaded(queue=ENDLESS), plan)
    return served(EventLoop(connections=ENDLESS), plan)


class AnyService(Law):
    """What the variability of requests costs those that wait behind them."""

    id = "QU-03"
    architecture = "single_threaded"
    claim = "M/G/1: Wq = rho (1 + cs^2) / (2 (1 - rho)), in mean services"
    source = "Pollaczek 1930; Khinchine 1932"
    certainty = THEORY
    note = "server event_loop: the same, as its steps cannot be interrupted"
    seeds = 4
    rho: float = parameter(0.8, "share of the time that the server is busy", least=0.01, most=0.98)
    service: Distribution = parameter("exponential", "distribution of services")
    shape: float = parameter(4.0, "Erlang: phases; hyperexponential: cs^2", least=1, most=20)
    server: Model = parameter("single_threaded", "which server")
    jobs: int = parameter(1_000_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = (
        {"service": "deterministic"},
        {"service": "erlang"},
        {"service": "uniform"},
        {"service": "exponential"},
        {"service": "hyperexponential"},
    )

    def expected(self) -> dict[str, Expected]:
        rho, variability = self.rho, Durations(1.0, self.service, self.shape).variability
        wait = rho * (1 + variability) / (2 * (1 - rho))
        listed = 0.08 if self.service == "hyperexponential" else 0.04
        return {"Wq": widened(wait, listed, error_of_wait(rho, self.jobs, variability))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [
            (self.server, Plan(seed, jobs, self.rho, self.service, self.shape))
            for seed, jobs in split(self.jobs, seeds)
        ]
        return {"Wq": relative_wait(spread_out(_in_turn, jobs, tell))}


class FullQueue(Law):
    """What a bounded queue refuses."""

    id = "QU-06"
    architecture = "single_threaded"
    claim = "M/M/1/K: a share (1 - rho) rho^K / (1 - rho^(K+1)) is refused"
    source = "standard"
    certainty = THEORY
    note = "K: the one that is served and those that wait; the times of those that were let in are told too"
    seeds = 4
    rho: float = parameter(0.8, "offered load", least=0.1, most=10)
    k: int = parameter(10, "most requests there at a time", least=1, most=1000)
    jobs: int = parameter(1_000_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = ({"rho": 0.8, "jobs": 1_100_000}, {"rho": 1.2})

    def expected(self) -> dict[str, Expected]:
        return lost_and_late(1, self.k, self.rho, self.jobs)

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.k - 1, Plan(seed, jobs, self.rho)) for seed, jobs in split(self.jobs, seeds)]
        return refused_and_late(spread_out(_bounded, jobs, tell))


def lost_and_late(servers: int, most: int, rho: float, jobs: int) -> dict[str, Expected]:
    """What M/M/c/K refuses, and how long the others are there."""
    full = full_queue(servers, most, rho)
    return {
        "refused": widened(full.lost, 0.05, full.lost_spread / math.sqrt(jobs)),
        "W of the others": widened(full.time, 0.05, full.time_spread / math.sqrt(jobs)),
    }


def refused_and_late(found: Sequence[Measured]) -> dict[str, Figure]:
    """The same, as measured."""
    answered = sum(len(m.sojourns) for m in found)
    refused = sum(m.refused for m in found)
    return {
        "refused": refused / (refused + answered),
        "W of the others": sum(math.fsum(m.sojourns) for m in found) / answered,
    }


def _bounded(job: tuple[int, Plan]) -> Measured:
    return served(SingleThreaded(queue=job[0]), job[1])


# -- several who serve -------------------------------------------------------------------------------------


def _pool(job: tuple[int, int, Plan]) -> Measured:
    threads, places, plan = job
    return served(ThreadPool(threads=threads, cores=threads, queue=places), plan)


class SeveralServers(Law):
    """How long one waits for the first of several that is free."""

    id = "QU-02"
    architecture = "thread_pool"
    claim = "M/M/c: P(wait) = C(c, rho) (Erlang's C), Wq = C / (c mu - lambda)"
    source = "Erlang 1917"
    certainty = THEORY
    note = (
        "a pool of c threads, on a host with a core for each.  Chance alone moves the mean wait of 10^6 "
        "requests by up to a fifth (c = 50): what the drawn arrivals and services were more or less than "
        "their mean is taken off (control variates), and more are asked where 4 % need them"
    )
    seeds = 4
    c: int = parameter(2, "threads", least=1, most=1000)
    rho: float = parameter(0.8, "share of the time that they are busy", least=0.01, most=0.98)
    jobs: int = parameter(1_000_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = ({"c": 2, "rho": 0.8}, {"c": 4, "rho": 0.8}, {"c": 10, "rho": 0.8, "jobs": 1_400_000})
    long = ({"c": 10, "rho": 0.9, "jobs": 2_700_000}, {"c": 50, "rho": 0.95, "jobs": 12_800_000})

    def expected(self) -> dict[str, Expected]:
        known, jobs = many_servers(self.c, self.rho), self.jobs
        share = SIGMAS * error_of_waiting(self.c, self.rho, jobs)
        wait = known.time - 1
        # A few thousand requests of which one in a million waits say nothing.
        slack = max(0.04 * wait, SIGMAS * known.spread / math.sqrt(jobs), 1e-6)
        return {
            "P(wait)": within(erlang_c(self.c, self.rho), max(0.015, share)),
            "Wq": within(wait, slack),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        known = many_servers(self.c, self.rho)
        plans = [
            (self.c, ENDLESS, Plan(seed, jobs, self.c * self.rho)) for seed, jobs in split(self.jobs, seeds)
        ]
        found = spread_out(_waits, plans, tell)
        jobs = sum(count for count, *_ in found)
        return {
            "P(wait)": sum(waited for _, waited, *_ in found) / jobs,
            "Wq": fmean(known.controlled(*means) for _, _, means in found) - 1,
        }


def _waits(job: tuple[int, int, Plan]) -> tuple[int, int, tuple[float, float, float]]:
    """How many were answered, how many of them had waited, and the means."""
    m = _pool(job)
    # A wait is what is not rounding of a service to ns.
    return len(m.sojourns), sum(t - s > 1e-6 for t, s in zip(m.sojourns, m.services)), m.controlled


class LossSystem(Law):
    """What is refused by a pool before which nobody may wait."""

    id = "QU-B"
    architecture = "thread_pool"
    claim = "M/G/c/c: the share refused is B(c, a) (Erlang's B), whatever the distribution of services"
    source = "Erlang 1917; Sevastyanov 1957 (insensitivity)"
    certainty = THEORY
    note = "not in the list; the service is a blocking call, as cores are no part of this law"
    seeds = 4
    c: int = parameter(10, "threads", least=1, most=1000)
    a: float = parameter(8.0, "erlangs offered", least=0.01, most=1000)
    service: Distribution = parameter("exponential", "distribution of services")
    shape: float = parameter(4.0, "Erlang: phases; hyperexponential: cs^2", least=1, most=20)
    jobs: int = parameter(200_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = (
        {"c": 10, "a": 8.0, "service": "exponential"},
        {"c": 10, "a": 8.0, "service": "deterministic"},
        {"c": 2, "a": 3.0, "service": "hyperexponential"},
    )

    def expected(self) -> dict[str, Expected]:
        lost = erlang_b(self.c, self.a)
        # Losses come together; how much so is that of repeated measurements (numerically, without nodes).
        variability = Durations(1.0, self.service, self.shape).variability
        alike = 1 + min(self.a, self.c) * (1 + variability) / 6
        error = math.sqrt(lost * (1 - lost) * alike / self.jobs)
        return {"refused": widened(lost, 0.03, error)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [
            (self.c, 0, Plan(seed, jobs, self.a, self.service, self.shape, as_blocking=True))
            for seed, jobs in split(self.jobs, seeds)
        ]
        found = spread_out(_pool, jobs, tell)
        refused = sum(m.refused for m in found)
        return {"refused": refused / (refused + sum(len(m.sojourns) for m in found))}


class FullPool(Law):
    """What a pool refuses, before which some may wait."""

    id = "QU-E"
    architecture = "thread_pool"
    claim = "M/M/c/K: the share refused, and the time of the others, by the birth and death process"
    source = "Kleinrock, Queueing Systems I, 1975, section 3.6"
    certainty = THEORY
    note = "not in the list; c threads, on a host with a core for each, and K - c places in the queue"
    seeds = 4
    c: int = parameter(4, "threads", least=1, most=200)
    places: int = parameter(6, "requests that may wait", least=0, most=1000)
    rho: float = parameter(1.0, "offered load, of all threads", least=0.1, most=10)
    jobs: int = parameter(200_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = ({"c": 4, "places": 6, "rho": 1.0}, {"c": 2, "places": 10, "rho": 1.5})

    def expected(self) -> dict[str, Expected]:
        return lost_and_late(self.c, self.c + self.places, self.rho, self.jobs)

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [
            (self.c, self.places, Plan(seed, jobs, self.c * self.rho))
            for seed, jobs in split(self.jobs, seeds)
        ]
        return refused_and_late(spread_out(_pool, jobs, tell))


# -- threads that share a core -----------------------------------------------------------------------------


def _shared(plan: Plan) -> Measured:
    return served(ThreadPerConnection(threads=10_000, cores=1), plan)


class SharedCore(Law):
    """What threads that share a core do to long and short requests."""

    id = "QU-A"
    architecture = "thread_per_connection"
    claim = "M/G/1-PS: a request of work s takes s / (1 - rho), whatever the distribution of work"
    source = "Kleinrock, Queueing Systems II, 1976, section 4.4"
    certainty = THEORY
    note = "not in the list; as time slices get short (which is how a simulation shares cores)"
    seeds = 4
    rho: float = parameter(0.8, "share of the time that the core is busy", least=0.01, most=0.95)
    service: Distribution = parameter("exponential", "distribution of work")
    shape: float = parameter(4.0, "Erlang: phases; hyperexponential: cs^2", least=1, most=20)
    jobs: int = parameter(200_000, "requests, of all seeds", least=1000, most=100_000_000)
    listed = ({"service": "deterministic"}, {"service": "exponential"}, {"service": "hyperexponential"})

    def expected(self) -> dict[str, Expected]:
        slow = 1 / (1 - self.rho)
        variability = Durations(1.0, self.service, self.shape).variability
        error = error_of_wait(self.rho, self.jobs, max(1.0, variability))
        names = ["mean time"]
        if self.service != "deterministic":
            names += ["slowdown of the shorter half", "slowdown of the longer half"]
        return {name: widened(slow, 0.04, error) for name in names}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        plans = [
            Plan(seed, jobs, self.rho, self.service, self.shape) for seed, jobs in split(self.jobs, seeds)
        ]
        found = spread_out(_shared, plans, tell)
        both = sorted((s, t) for m in found for t, s in zip(m.sojourns, m.services))
        half = len(both) // 2
        figures = {"mean time": sum(t for _, t in both) / sum(s for s, _ in both)}
        if self.service != "deterministic":
            for name, part in (("shorter", both[:half]), ("longer", both[half:])):
                figures[f"slowdown of the {name} half"] = sum(t for _, t in part) / sum(s for s, _ in part)
        return figures
