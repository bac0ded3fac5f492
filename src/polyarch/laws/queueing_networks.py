"""Laws of several servers, and those that hold for any: tandems, fan-out, chains, Little, fairness."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pvariance
from typing import Literal

from polyarch.architectures.event_loop import EventLoop
from polyarch.architectures.single_threaded import SingleThreaded, SingleThreadedServer
from polyarch.architectures.thread_per_connection import ThreadPerConnection
from polyarch.architectures.thread_pool import ThreadPool
from polyarch.blocks.durations import Durations
from polyarch.blocks.servers import ComputeClient, Server, figures
from polyarch.core import Architecture, Failure, System, gather, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, exactly, spread_out, within
from polyarch.laws.queueing import (
    ENDLESS,
    THEORY,
    UNIT,
    Plan,
    arrivals,
    error_of_wait,
    quiet,
    split,
    widened,
)
from polyarch.laws.queueing_theory import SIGMAS
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def several(count: int) -> System:
    """So many single-threaded servers, side by side."""
    system = System()
    server = SingleThreadedServer(queue=ENDLESS)
    system.role("server", server, count=count)
    front = SingleThreadedServer(queue=0)
    system.role("front", front)
    system.clients(ComputeClient(front=front))
    return system


def session_of(count: int, seed: int) -> SimSession:
    """A session of so many servers, in which nothing takes any time but what they do."""
    return SimSession(several(count), seed=seed, network=Network(latency=Constant(0.0)), detailed=False)


# -- one after another ----------------------------------------------------------------------------------


def _tandem(job: tuple[tuple[float, ...], float, int, int]) -> tuple[array[float], list[array[float]]]:
    """Sojourns of requests that pass servers one after another, and when they left each; in seconds."""
    rates, rate, seed, jobs = job
    sojourns = array("d")
    left = [array("d") for _ in rates]
    with session_of(len(rates), seed) as session:

        async def experiment(x: Experimenter) -> None:
            random = x.random.fork("jobs")
            tiers = [x.at(f"server-{i}", Server, timeout=math.inf) for i in range(len(rates))]
            works = [Durations(1 / mu) for mu in rates]
            ended, all_ended = 0, x.future()

            async def pass_through(number: int, needs: list[float]) -> None:
                nonlocal ended
                begin = x.now
                for tier, need, log in zip(tiers, needs, left):
                    await tier.increment(number, need)
                    log.append(x.now)
                sojourns.append(x.now - begin)
                ended += 1
                if ended == jobs:
                    all_ended.set(None)

            for number in range(jobs):
                await x.sleep(random.exponential(1 / rate))
                x.spawn(pass_through(number, [work.draw(random) for work in works]))
            await all_ended

        session.perform(experiment)
    return sojourns, left


class Tandem(Law):
    """What it takes to pass several servers."""

    id = "QU-07"
    architecture = "single_threaded"
    claim = "A tandem of M/M/1: the time in all is the sum of 1/(mu_i - lambda); departures are Poisson"
    source = "Jackson 1957; Burke 1956"
    certainty = THEORY
    note = (
        "departures: the squared coefficient of variation of the times between them, and the correlation of "
        "each with the next; all times are scaled, so that no service takes a minute"
    )
    seeds = 4
    rate: float = parameter(8.0, "requests per time", least=0.01)
    mu1: float = parameter(10.0, "services per time of the first server", least=0.01)
    mu2: float = parameter(12.0, "of the second", least=0.01)
    mu3: float = parameter(20.0, "of the third", least=0.01)
    jobs: int = parameter(400_000, "requests, of all seeds", least=1000, most=10_000_000)
    listed = ({"rate": 8.0},)

    @property
    def rates(self) -> tuple[float, ...]:
        """Of the servers."""
        rates = (self.mu1, self.mu2, self.mu3)
        if min(rates) <= self.rate:
            raise ValueError(f"--rate {self.rate:g}: a server does only {min(rates):g}")
        return rates

    def expected(self) -> dict[str, Expected]:
        jobs = self.jobs
        time = sum(1 / (mu - self.rate) for mu in self.rates)
        error = math.hypot(*(error_of_wait(self.rate / mu, jobs) / mu for mu in self.rates))
        chance = 1 / math.sqrt(jobs)
        result = {"W": widened(time, 0.04, error)}
        for i in range(1, 4):
            # The variance of n exponential times has a relative error of sqrt(8 / n).
            result[f"cv^2 of departures {i}"] = within(1.0, max(0.02, SIGMAS * math.sqrt(8) * chance))
            result[f"correlation of departures {i}"] = within(0.0, max(0.01, SIGMAS * chance))
        return result

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        scale = 10 * max(self.rates)  # so that no service takes a minute
        rates = tuple(mu / self.rate * scale for mu in self.rates)
        jobs = [(rates, scale, seed, jobs) for seed, jobs in split(self.jobs, seeds)]
        found = spread_out(_tandem, jobs, tell)
        times = [time for sojourns, _ in found for time in sojourns]
        result: dict[str, Figure] = {"W": fmean(times) * scale / self.rate}
        for i in range(3):
            gaps = [b - a for _, left in found for a, b in pairwise(left[i])]
            mean = fmean(gaps)
            variance = pvariance(gaps, mean)
            together = fmean((a - mean) * (b - mean) for a, b in pairwise(gaps))
            result[f"cv^2 of departures {i + 1}"] = variance / mean**2
            result[f"correlation of departures {i + 1}"] = together / variance
        return result


# -- what holds for any -------------------------------------------------------------------------------------

Model = Literal["single_threaded", "thread_per_connection", "thread_pool", "event_loop"]


def model_of(name: Model) -> Architecture:
    """A server of each model, with its limits (so that some are refused)."""
    if name == "single_threaded":
        return SingleThreaded(queue=20)
    if name == "thread_per_connection":
        return ThreadPerConnection(threads=20)
    if name == "thread_pool":
        return ThreadPool(threads=3, queue=20, cores=2)
    return EventLoop(connections=20)


class Little(Law):
    """How many are there, and for how long."""

    id = "QU-09"
    architecture = "all server models"
    claim = "From empty to empty: the integral of the number there is the sum of the times there, exactly"
    source = "Little 1961"
    certainty = THEORY
    note = (
        "the server integrates how many requests it has, the clients add up how long each of theirs took; "
        "utilisation law beside it: the time that cores were busy is the sum of the work done"
    )
    seeds = 2
    server: Model = parameter("single_threaded", "which server")
    rho: float = parameter(0.9, "offered load of a core", least=0.01, most=10)
    jobs: int = parameter(20_000, "requests, of each seed", least=10, most=10_000_000)
    listed = (
        {"server": "single_threaded"},
        {"server": "thread_per_connection"},
        {"server": "thread_pool"},
        {"server": "event_loop"},
    )

    def expected(self) -> dict[str, Expected]:
        return {"difference": within(0.0, 1e-9), "work done": within(1.0, 1e-6)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        differences, shares = [], []
        for seed in seeds:
            plan = Plan(seed, self.jobs, self.rho, "hyperexponential")
            with quiet(model_of(self.server), seed) as session:

                async def experiment(x: Experimenter, plan: Plan = plan) -> None:
                    found = await arrivals(x, plan, x.at("server-0", Server, timeout=math.inf), first=0)
                    times = math.fsum(found.sojourns) * UNIT
                    differences.append(abs(found.tally.seconds - times) / times)
                    shares.append(found.busy / (math.fsum(found.services) * UNIT))

                session.perform(experiment)
        return {"difference": max(differences), "work done": max(shares, key=lambda share: abs(share - 1))}


class Closed(Law):
    """Clients that think before they ask again."""

    id = "QU-C"
    architecture = "single_threaded"
    claim = "N clients that think for Z: R = N / X - Z, and X by mean value analysis (machine repairman)"
    source = "Reiser and Lavenberg, JACM 27(2), 1980; Denning and Buzen, 1978"
    certainty = THEORY
    note = "not in the list; times in mean services"
    seeds = 4
    clients: int = parameter(20, "clients", least=1, most=1000)
    think: float = parameter(10.0, "mean time to think, in mean services", least=0, most=10_000)
    jobs: int = parameter(100_000, "requests, of all seeds", least=1000, most=10_000_000)
    listed = ({"clients": 20, "think": 10.0}, {"clients": 5, "think": 10.0})

    def expected(self) -> dict[str, Expected]:
        there, rate, time = 0.0, 0.0, 0.0
        for n in range(1, self.clients + 1):
            time = 1 + there
            rate = n / (self.think + time)
            there = rate * time
        chance, cycle = SIGMAS / math.sqrt(self.jobs), self.think + time
        # Of N / X = Z + R only the times to think are drawn anew; and the last cycles are cut off.
        open_end = self.clients * cycle / self.jobs * self.seeds
        return {
            "throughput": widened(rate, 0.01, math.sqrt(2 / self.jobs) * rate),
            "R": widened(time, 0.01, math.sqrt(2 / self.jobs) * cycle),
            "N / X - Z - R": within(0.0, chance * self.think + open_end),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.clients, self.think, seed, jobs) for seed, jobs in split(self.jobs, seeds)]
        found = spread_out(_closed, jobs, tell)
        rate = sum(done for done, _, _ in found) / sum(seconds for _, seconds, _ in found) * UNIT
        time = fmean(time for _, _, times in found for time in times) / UNIT
        return {"throughput": rate, "R": time, "N / X - Z - R": self.clients / rate - self.think - time}


def _closed(job: tuple[int, float, int, int]) -> tuple[int, float, array[float]]:
    clients, think, seed, jobs = job
    times = array("d")
    with quiet(SingleThreaded(queue=ENDLESS), seed) as session:

        async def experiment(x: Experimenter) -> float:
            random = x.random.fork("jobs")
            server = x.at("server-0", Server, timeout=math.inf)
            begin = x.now

            async def client() -> None:
                while len(times) < jobs:
                    if think:
                        await x.sleep(random.exponential(think * UNIT))
                    asked = x.now
                    await server.increment(1, random.exponential(UNIT))
                    if len(times) < jobs:
                        times.append(x.now - asked)
                        ended[0] = x.now

            ended = [begin]
            await gather(*(client() for _ in range(clients)))
            return ended[0] - begin

        return jobs, session.perform(experiment), times


# -- too much for one ----------------------------------------------------------------------------------


class Overload(Law):
    """What is done for those who still wait, when too much is asked for."""

    id = "QU-D"
    architecture = "single_threaded"
    claim = (
        "Overload rho > 1 for T, clients wait for D, no bound: in order, rho D / ((rho - 1) T) of the work "
        "is done in time; if late requests are not begun, all of it"
    )
    source = "fluid limit of G/G/1 (Newell, Applications of Queueing Theory, 1971, chapter 2)"
    certainty = THEORY
    note = (
        "not in the list; times in mean services.  Who comes at t waits for (rho - 1) t, so that after "
        "D / (rho - 1) all that is done comes too late; the share is of the work that the server could do"
    )
    seeds = 4
    server: Literal["single_threaded", "thread_pool", "event_loop"] = parameter("single_threaded", "which")
    deadlines: bool = parameter(True, "requests whose answer would be too late are not begun")
    rho: float = parameter(2.0, "offered load", least=1.1, most=20)
    patience: float = parameter(1000.0, "how long clients wait", least=50, most=100_000)
    lasts: float = parameter(4000.0, "how long too much is asked for", least=100, most=1_000_000)
    listed = (
        {"deadlines": False},
        {"deadlines": True},
        {"deadlines": False, "server": "event_loop", "rho": 1.5, "lasts": 6000.0},
        {"deadlines": True, "server": "event_loop", "rho": 1.5, "lasts": 6000.0},
        {"deadlines": True, "server": "thread_pool", "rho": 3.0},
    )

    def expected(self) -> dict[str, Expected]:
        if self.deadlines:
            # Threads that share a core are a little late at first, until the server knows its pace.
            return {"done in time": within(1.0, 0.05 if self.server == "thread_pool" else 0.02)}
        until = self.rho * self.patience / (self.rho - 1)
        share = min(1.0, until / self.lasts)
        # The work that has come varies by sqrt(2 rho t) until t = D / (rho - 1).
        chance = math.sqrt(2 * until) / self.patience / math.sqrt(self.seeds)
        return {"done in time": within(share, 0.02 + SIGMAS * chance * share)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.server, self.deadlines, self.rho, self.patience, self.lasts, seed) for seed in seeds]
        return {"done in time": fmean(spread_out(_overloaded, jobs, tell))}


def _overloaded(job: tuple[str, bool, float, float, float, int]) -> float:
    kind, deadlines, rho, patience, lasts, seed = job
    models: dict[str, Architecture] = {
        "single_threaded": SingleThreaded(queue=ENDLESS, deadlines=deadlines),
        "thread_pool": ThreadPool(queue=ENDLESS, deadlines=deadlines),
        "event_loop": EventLoop(connections=ENDLESS, deadlines=deadlines),
    }
    with quiet(models[kind], seed) as session:

        async def experiment(x: Experimenter) -> float:
            random, done = x.random.fork("jobs"), 0.0
            server = x.at("server-0", Server, timeout=patience * UNIT)
            end = x.now + lasts * UNIT

            async def ask(work: float) -> None:
                nonlocal done
                try:
                    await server.increment(1, work)
                except Failure:
                    return
                done += work * (x.now <= end)

            while x.now < end:
                await x.sleep(random.exponential(UNIT / rho))
                x.spawn(ask(random.exponential(UNIT)))
            return done / (lasts * UNIT)

        return session.perform(experiment)


# -- all of many -------------------------------------------------------------------------------------------


class TailAtScale(Law):
    """What happens to a request that needs answers of many servers."""

    id = "QU-11"
    architecture = "single_threaded"
    claim = "P(any of n is slow) = 1 - (1 - p)^n; the slowest of n exponential times has the mean H_n"
    source = "Dean and Barroso, The tail at scale, CACM 56(2), 2013 (63 %)"
    certainty = THEORY
    note = "a request is sent to n servers at once, and answered when all have answered"
    seeds = 4
    n: int = parameter(100, "servers that each request asks", least=1, most=10_000)
    p: float = parameter(0.01, "share of the answers of a server that are slow", least=0.0, most=1.0)
    requests: int = parameter(30_000, "requests, of all seeds", least=100, most=10_000_000)
    listed = ({"n": 100, "p": 0.01}, {"n": 10, "p": 0.01})

    def expected(self) -> dict[str, Expected]:
        n, p, requests = self.n, self.p, self.requests
        slow = 1 - (1 - p) ** n
        mean = math.fsum(1 / k for k in range(1, n + 1))
        spread = math.sqrt(math.fsum(1 / k**2 for k in range(1, n + 1)))
        share = max(0.01, SIGMAS * math.sqrt(slow * (1 - slow) / requests))
        return {
            "P(slow)": within(slow, share),
            "slowest of n": widened(mean, 0.03, spread / math.sqrt(max(1, requests // 4))),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.p, seed, requests) for seed, requests in split(self.requests, seeds)]
        found = spread_out(_fan_out, jobs, tell)
        return {
            "P(slow)": fmean(slow for slow, _ in found),
            "slowest of n": fmean(mean for _, mean in found),
        }


def _fan_out(job: tuple[int, float, int, int]) -> tuple[float, float]:
    """The share of requests that were slow, and the mean of the slowest of exponential times, measured with
    a quarter as many."""
    n, p, seed, requests = job
    with session_of(n, seed) as session:

        async def experiment(x: Experimenter) -> tuple[float, float]:
            random = x.random.fork("jobs")
            servers = [x.at(f"server-{i}", Server, timeout=math.inf) for i in range(n)]

            async def ask(needs: list[float]) -> float:
                begin = x.now
                await gather(*(server.increment(1, need) for server, need in zip(servers, needs)))
                return x.now - begin

            slow = 0
            for _ in range(requests):
                slow += await ask([100 * UNIT if random.chance(p) else UNIT for _ in range(n)]) > 2 * UNIT
            some = max(1, requests // 4)
            times = [await ask([random.exponential(UNIT) for _ in range(n)]) for _ in range(some)]
            return slow / requests, fmean(times) / UNIT

        return session.perform(experiment)


class Chain(Law):
    """What happens to a request that needs every one of several servers."""

    id = "QU-12"
    architecture = "single_threaded"
    claim = "A chain of n servers, each of which is up with probability a, answers with probability a^n"
    source = "standard"
    certainty = THEORY
    note = "for each request the servers that are down are crashed, and restarted afterwards"
    seeds = 4
    n: int = parameter(30, "servers that each request needs", least=1, most=1000)
    a: float = parameter(0.9999, "probability that a server is up", least=0.0, most=1.0)
    requests: int = parameter(40_000, "requests, of all seeds", least=100, most=10_000_000)
    listed = ({"n": 30, "a": 0.9999}, {"n": 20, "a": 0.999})

    def expected(self) -> dict[str, Expected]:
        answered = self.a**self.n
        error = SIGMAS * math.sqrt(answered * (1 - answered) / self.requests)
        return {"answered": within(answered, error)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.a, seed, requests) for seed, requests in split(self.requests, seeds)]
        return {"answered": fmean(spread_out(_chain, jobs, tell))}


def _chain(job: tuple[int, float, int, int]) -> float:
    n, a, seed, requests = job
    with session_of(n, seed) as session:

        async def experiment(x: Experimenter) -> float:
            random = x.random.fork("crashes")
            servers = [x.at(f"server-{i}", Server) for i in range(n)]
            answered = 0
            for _ in range(requests):
                down = [f"server-{i}" for i in range(n) if not random.chance(a)]
                for server in down:
                    await x.control.crash(server)
                try:
                    value = 0
                    for link in servers:
                        value = await link.increment(value)
                    answered += value == n
                except Failure:
                    pass
                for server in down:
                    await x.control.restart(server)
            return answered / requests

        return session.perform(experiment)


# -- who gets how much --------------------------------------------------------------------------------------


class Fairness(Law):
    """Jain's index of what clients get of a server."""

    id = "SV-02"
    architecture = "thread_per_connection"
    claim = "Of N clients k are served alike and the others not at all: the index is k / N"
    source = "Jain, Chiu and Hawe, DEC-TR-301, 1984; SEDA, SOSP 2001, section 5.1"
    certainty = "quoted from the paper"
    note = (
        "N clients ask at the same time, again and again, and there are k threads: who comes first is "
        "served, and the index is the server's own metric"
    )
    seeds = 2
    k: int = parameter(3, "clients that are served", least=1, most=1000)
    n: int = parameter(10, "clients", least=1, most=1000)
    rounds: int = parameter(10, "how often each asks", least=1, most=1000)
    listed = ({"k": 3, "n": 10}, {"k": 10, "n": 10}, {"k": 1, "n": 100})

    def expected(self) -> dict[str, Expected]:
        return {"index": exactly(min(self.k, self.n) / self.n)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = []
        for seed in seeds:
            with quiet(ThreadPerConnection(threads=self.k), seed) as session:

                async def experiment(x: Experimenter) -> float:
                    server = x.at("server-0", Server)
                    for _ in range(self.rounds):
                        await settle(*(server.increment(1, 0.0, UNIT, c) for c in range(self.n)))
                    metrics, _ = await figures(x, ("server-0",))
                    return float(metrics["fairness"])

                found.append(session.perform(experiment))
        return {"index": fmean(found)}
