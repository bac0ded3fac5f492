"""Laws of quorums: how stale a read can be, how often a majority or all live, what a hop costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import Any

from polyarch.architectures.quorum import Quorum
from polyarch.core import Failure, Random, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, at_least, exactly, spread_out, within
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Endpoint, Exponential, Network, ns
from polyarch.runtimes.sim.session import SimSession

LAST = "last-writer-wins"


class Staleness(Law):
    """Probabilistically bounded staleness, in versions."""

    id = "PB-01"
    architecture = "quorum"
    claim = "A read gives one of the last k versions with probability 1 - (C(N-W,R) / C(N,R))^k"
    source = "Bailis et al., Probabilistically bounded staleness, PVLDB 2012, section 3"
    certainty = "theory (well known), value computed here"
    note = (
        "non-expanding quorums, uniformly at random (--expanding false), no repair; keys are written and "
        "read in turn, the first versions of each are not counted"
    )
    seeds = 4
    n: int = parameter(3, "replicas", least=1, most=25)
    r: int = parameter(1, "of a read quorum", least=1, most=25)
    w: int = parameter(1, "of a write quorum", least=1, most=25)
    reads: int = parameter(30_000, "reads, of all seeds", least=1000, most=10_000_000)
    listed = ({"r": 1, "w": 1}, {"r": 1, "w": 2}, {"r": 2, "w": 1})
    ks = (1, 2, 3, 5, 10)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if max(self.r, self.w) > self.n:
            raise ValueError(f"--r and --w take at most --n {self.n}")

    def expected(self) -> dict[str, Expected]:
        missed = math.comb(self.n - self.w, self.r) / math.comb(self.n, self.r)
        chances = {k: 1 - missed**k for k in self.ks}
        # Reads of one key see the same writes: some of them count for one.
        noise = {k: 3.5 * math.sqrt(p * (1 - p) / self.reads) for k, p in chances.items()}
        return {f"k = {k}": within(p, max(0.01, noise[k])) for k, p in chances.items()}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.reads // len(seeds))
        jobs = [({"n": self.n, "r": self.r, "w": self.w}, share, seed) for seed in seeds]
        ages = [age for some in spread_out(_ages, jobs, tell) for age in some]
        return {f"k = {k}": sum(age < k for age in ages) / len(ages) for k in self.ks}


def _ages(job: tuple[dict[str, int], int, int]) -> list[int]:
    """How many versions old each read's answer was."""
    quorums, count, seed = job
    store = Quorum(
        servers=quorums["n"], versions=LAST, expanding=False, read_repair=False, anti_entropy=0.0, **quorums
    )
    session = SimSession(store, seed=seed, detailed=False, network=Network(latency=Constant(1e-4)))

    async def experiment(x: Experimenter) -> list[int]:
        ages: list[int] = []
        for version in range(20 + -(-count // 50)):
            for key in range(50):
                await x.client.put(f"key-{key}", version)
                if version >= 20:
                    read = await x.client.get(f"key-{key}")
                    ages.append(version - read if isinstance(read, int) else version + 1)
        return ages

    return session.perform(experiment)


class OverlappingQuorums(Law):
    """Reads meet writes."""

    id = "PB-03"
    architecture = "quorum"
    claim = "R + W > N: no read is stale; R + W <= N: some are"
    source = "Gifford, Weighted voting for replicated data, SOSP 1979"
    certainty = "theory (well known), value computed here"
    note = (
        "every R and W; a read begins when the write has been answered, at any server; all are asked; delays "
        "are exponential, and nothing is repaired.  (Randomly chosen quorums: PB-01)"
    )
    seeds = 2
    n: int = parameter(3, "replicas", least=1, most=7)
    reads: int = parameter(1500, "reads for each R and W", least=100, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        wanted = {"stale reads, R + W > N": exactly(0)}
        if self.n > 1:
            wanted["fewest stale reads, R + W <= N"] = at_least(1)
        return wanted

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        sizes = range(1, self.n + 1)
        pairs = list(product(sizes, sizes))
        jobs = [(self.n, r, w, -(-self.reads // len(seeds)), seed) for r, w in pairs for seed in seeds]
        found: dict[tuple[int, int], int] = dict.fromkeys(pairs, 0)
        for (_, r, w, _, _), stale in zip(jobs, spread_out(_stale_reads, jobs, tell)):
            found[r, w] += stale
        loose = [stale for (r, w), stale in found.items() if r + w <= self.n]
        figures: dict[str, Figure] = {
            "stale reads, R + W > N": sum(stale for (r, w), stale in found.items() if r + w > self.n)
        }
        if loose:
            figures["fewest stale reads, R + W <= N"] = min(loose)
        return figures


class Apart:
    """Servers are an exponential delay apart; clients stand beside all of them."""

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        servers = source.name.startswith("server") and target.name.startswith("server")
        return ns(random.exponential(0.002)) if servers else 0


def _stale_reads(job: tuple[int, int, int, int, int]) -> int:
    n, r, w, count, seed = job
    store = Quorum(
        servers=n, n=n, r=r, w=w, versions=LAST, routing="server", read_repair=False, anti_entropy=0.0
    )
    network = Network(latency=Apart())
    session = SimSession(store, seed=seed, detailed=False, network=network)

    async def experiment(x: Experimenter) -> int:
        stale = 0
        for i in range(count):
            await x.client.put("key", i)
            stale += await x.client.get("key") != i
        return stale

    return session.perform(experiment)


class WhoCoordinates(Law):
    """What a step less gains."""

    id = "PB-04"
    architecture = "quorum"
    claim = "Operations that the client coordinates are faster than those by way of any server: one step less"
    source = "DeCandia et al., Dynamo, SOSP 2007, section 6.3 and table 2"
    certainty = "quoted from the paper"
    note = (
        "only the order is checked; the paper's figures are of production: 99.9th percentile of reads 68.9 "
        "ms by a server, 30.4 ms by the client; means 3.9 and 1.55 ms.  That 99.94 % of its reads saw one "
        "version says something of its shoppers, who rarely write at once, and is not checked"
    )
    seeds = 2
    servers: int = parameter(10, "servers, of which N = 3 hold a key", least=4, most=100)
    operations: int = parameter(4000, "of each kind", least=2000, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        return {
            "reads: mean, server / client": at_least(1.0, 3.9 / 1.55),
            "reads: 99.9 %, server / client": at_least(1.0, 68.9 / 30.4),
            "writes: mean, server / client": at_least(1.0, 4.02 / 1.9),
            "writes: 99.9 %, server / client": at_least(1.0, 68.5 / 30.4),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        ways = ("server", "client")
        jobs = [(way, self.servers, self.operations // len(seeds), seed) for way in ways for seed in seeds]
        kinds = ("reads", "writes")
        took: dict[tuple[str, str], list[float]] = {pair: [] for pair in product(ways, kinds)}
        for (way, *_), (reads, writes) in zip(jobs, spread_out(_latencies, jobs, tell)):
            took[way, "reads"] += reads
            took[way, "writes"] += writes
        figures: dict[str, Figure] = {}
        for kind in kinds:
            server, client = sorted(took["server", kind]), sorted(took["client", kind])
            figures[f"{kind}: mean, server / client"] = fmean(server) / fmean(client)
            last = int(0.999 * len(server))
            figures[f"{kind}: 99.9 %, server / client"] = server[last] / client[last]
        return figures


def _latencies(job: tuple[str, int, int, int]) -> tuple[list[float], list[float]]:
    way, servers, count, seed = job
    store = Quorum(servers=servers, routing=way)
    session = SimSession(store, seed=seed, network=Network(latency=Exponential(0.001, 0.0002)))

    async def experiment(x: Experimenter) -> tuple[list[float], list[float]]:
        await store.ready(x)
        reads, writes = [], []
        for i in range(count):
            key, begin = f"key-{i % 50}", x.now
            await x.client.get(key)
            reads.append(x.now - begin)
            begin = x.now
            await x.client.put(key, i)
            writes.append(x.now - begin)
        return reads, writes

    return session.perform(experiment)


class ReadOneWriteAll(Law):
    """What reading one and writing all is worth."""

    id = "RA-10"
    architecture = "quorum"
    claim = "Read one, write all: reads need one server that lives (1 - (1-p)^n), writes all of them (p^n)"
    source = "standard"
    certainty = "theory (well known), value computed here"
    note = "no sampling: each of the 2^n sets of servers is crashed in a run of its own, and weighted"
    seeds = 1
    n: int = parameter(3, "replicas", least=1, most=8)
    p: float = parameter(0.99, "probability that a server lives", least=0, most=1)

    def expected(self) -> dict[str, Expected]:
        return {"read": within(1 - (1 - self.p) ** self.n, 1e-12), "write": within(self.p**self.n, 1e-12)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        sets = list(product((True, False), repeat=self.n))
        read = write = 0.0
        for alive, (reads, writes) in zip(
            sets, spread_out(_read_one_write_all, [(alive, seeds[0]) for alive in sets], tell)
        ):
            weight = math.prod(self.p if lives else 1 - self.p for lives in alive)
            read, write = read + weight * reads, write + weight * writes
        return {"read": read, "write": write}


def _read_one_write_all(job: tuple[tuple[bool, ...], int]) -> tuple[bool, bool]:
    alive, seed = job
    n = len(alive)
    store = Quorum(servers=n, n=n, r=1, w=n, versions=LAST)
    session = SimSession(store, seed=seed)

    async def experiment(x: Experimenter) -> tuple[bool, bool]:
        await x.client.put("key", 1)
        for i, lives in enumerate(alive):
            if not lives:
                await x.control.crash(f"server-{i}")
        (read,) = await settle(x.client.get("key"))
        (write,) = await settle(x.client.put("key", 2))
        return read == 1, not isinstance(write, Failure)

    return session.perform(experiment)
