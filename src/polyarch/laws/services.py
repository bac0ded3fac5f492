"""Laws of services: chains of them, what splitting costs on one machine, and one service on many servers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import psutil

from polyarch.architectures.client_server import ClientServer
from polyarch.architectures.microservices import Microservices
from polyarch.architectures.service_chain import ServiceChain
from polyarch.architectures.service_mapping import Cache, ServiceMapping
from polyarch.core import Architecture, Job, Random, gather, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, at_least, exactly, relative, within
from polyarch.experiment.load import Load
from polyarch.experiment.run import Question, Trial
from polyarch.jobs.compute import Compute, ComputeJob
from polyarch.jobs.kv import KeyValue, Kv
from polyarch.jobs.shop import ShopJob
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Endpoint, Network, ns
from polyarch.runtimes.sim.session import SimSession


class Chain(Law):
    """How long a request takes through a chain of services, when nobody else is there."""

    id = "SV-07"
    architecture = "service_chain"
    claim = "Latency of a chain = sum of n service times + 2n one-way hop delays (no queueing)"
    source = "derived"
    certainty = "theory (well known), value computed here"
    note = (
        "the chain's client is one hop away from the first service; that of the monolith is in its process, "
        "as the listed value has it, and then a hop away too"
    )
    seeds = 2
    n: int = parameter(5, "services", least=1, most=1000)
    work: float = parameter(0.010, "of each, on a core", least=0, most=0.06, unit="s")
    hop: float = parameter(0.0005, "one way", least=0, most=10, unit="s")
    listed = ({}, {"n": 20, "work": 0.002, "hop": 0.01}, {"n": 1, "work": 0.01, "hop": 0.001})

    def expected(self) -> dict[str, Expected]:
        work, hop = 1e3 * self.n * self.work, 1e3 * self.hop
        return {
            "chain_ms": exactly(work + 2 * self.n * hop),
            "monolith_ms": exactly(work),
            "monolith a hop away, ms": exactly(work + 2 * hop),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = [
            {
                "chain_ms": self.milliseconds(False, self.hop, seed),
                "monolith_ms": self.milliseconds(True, 0.0, seed),
                "monolith a hop away, ms": self.milliseconds(True, self.hop, seed),
            }
            for seed in seeds
        ]
        if found.count(found[0]) < len(found):
            raise ValueError(f"the seeds disagree: {found}")
        return dict(found[0])

    def milliseconds(self, together: bool, hop: float, seed: int) -> float:
        async def experiment(x: Experimenter) -> float:
            begin = x.now
            await x.at("client-0", Compute, timeout=math.inf).increment(1, self.n * self.work)
            return round((x.now - begin) * 1e3, 6)

        chain = ServiceChain(services=self.n, together=together, patience=1e9)
        network = Network(latency=_Hops(hop))
        with SimSession(chain, seed=seed, network=network) as session:
            return session.perform(experiment)


class _Hops:
    """So many seconds between any two processes, and none to the experimenter, who is nowhere."""

    def __init__(self, seconds: float) -> None:
        self.between = ns(seconds)

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return 0 if "experimenter" in (source.name, target.name) else self.between


class Splitting(Law):
    """What the same work costs in one process and in many, on one machine."""

    id = "SV-06"
    architecture = "client_server, microservices"
    claim = "On one machine a monolith out-performs its microservice version"
    source = "Blinowski, Ojdowska, Przybylek, IEEE Access 10, 2022 (abstract)"
    certainty = "quoted from the paper (direction); on sim computed here"
    note = (
        "in what c cores of one machine can carry: c / (core seconds of an operation in all processes). "
        "local: the shop as client_server (with SQLite) and as microservices (with five PostgreSQL and "
        "NATS), their processor time: what others do on the machine changes it little, while it decides "
        "who gets how much of it (with others busy, many processes get more, and may even answer sooner). "
        "With --throughput true operations per second are compared, if nobody else uses the machine.  "
        "sim: a chain of n services, where a message costs a stated part of a core.  That scaling out "
        "beyond some count degrades is LB-12's"
    )
    seeds = 1
    on: Literal["sim", "local"] = parameter("sim", "where")
    n: int = parameter(5, "sim: services", least=1, most=200)
    work: float = parameter(
        100e-6, "sim: of an operation, in all services together", least=1e-6, most=1, unit="s"
    )
    message: float = parameter(40e-6, "sim: core seconds of a message where it is handled", least=0, unit="s")
    seconds: float = parameter(1.5, "local: of load, in each of three rounds", least=0.1, most=60, unit="s")
    throughput: bool = parameter(
        False, "local: compare operations per second; needs a machine that does nothing else"
    )
    listed = ({"on": "sim"}, {"on": "local"})

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.throughput and self.on == "sim":
            raise ValueError("--throughput goes with --on local: simulated processes have hosts of their own")

    @property
    def figure(self) -> str:
        names = "shop: monolith / microservices" if self.on == "local" else "monolith / services"
        return f"{names}, operations per {'second' if self.throughput else 'core second'}"

    def expected(self) -> dict[str, Expected]:
        if self.on == "local":
            return {self.figure: at_least(1.0)}
        # Of a call the request is handled by the service; its answer goes to whoever waits for it.
        ratio = (self.work + self.n * self.message) / (self.work + self.message)
        return {self.figure: relative(ratio, 0.001)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        job: Job
        kinds: list[Architecture]
        if self.on == "local":
            job, kinds = ShopJob(), [ClientServer(), Microservices()]
        else:
            job = ComputeJob(work=self.work, work_law="deterministic", blocks=0.0)
            kinds = [ServiceChain(services=self.n, together=together) for together in (True, False)]
        split, whole = 1, 0
        carried = self.carried(kinds, job, seeds[0], tell)
        return {self.figure: carried[whole] / carried[split]}

    def carried(self, kinds: Sequence[Architecture], job: Job, seed: int, tell: Tell) -> list[float]:
        """Operations per core second, or per second, of each, in rounds by turns."""
        options = {"handler_cost": self.message} if self.on == "sim" else {}
        seconds = 1000 * self.work if self.on == "sim" else self.seconds
        trials = []
        try:
            for kind in kinds:
                question = Question(architecture=kind, job=job, runtime=self.on, seed=seed, options=options)
                trials.append(Trial(question))
            done, spent = [0] * len(kinds), [0.0] * len(kinds)
            for round_ in range(4):
                for i, trial in enumerate(trials):
                    before, machine = trial.perform(_core_seconds), _Machine()
                    result = trial.load(Load(duration=seconds, clients=16, account=0))
                    used = {name: s - before[name] for name, s in trial.perform(_core_seconds).items()}
                    if self.throughput:
                        machine.must_have_been_ours(sum(used.values()))
                    if round_:  # the first one is for warming up
                        done[i] += result.in_time if self.throughput else result.ok
                        spent[i] += result.seconds if self.throughput else sum(used.values()) - used["client"]
                tell((round_ + 1) / 4)
            return [count / seconds for count, seconds in zip(done, spent)]
        finally:
            for trial in trials:
                trial.close()


class Capacity(Law):
    """What n servers of one service carry, by how it is mapped to them."""

    id = "SV-A"
    architecture = "service_mapping"
    claim = "n servers carry n/w if partitioned, and n / (w (r + n (1 - r))) as copies, if a share r reads"
    source = "derived (read one, write all)"
    certainty = "theory (well known), value computed here"
    note = (
        "in operations of one server: times w.  Saturated by 40 clients per server, all of which read and "
        "write in exactly this proportion; keys are spread by their hash, so that the busiest of the "
        "partitions has a little more than its share"
    )
    seeds = 2
    mapping: Literal["partition", "replicate"] = parameter("replicate", "of the service to its servers")
    n: int = parameter(8, "servers", least=1, most=64)
    reads: float = parameter(0.95, "r: share of the operations that read", least=0, most=1)
    work: float = parameter(1e-3, "w: of a read or a write", least=1e-4, most=1, unit="s")
    listed = (
        {"mapping": "partition", "n": 8, "reads": 0.95},
        {"mapping": "replicate", "n": 2, "reads": 0.95},
        {"mapping": "replicate", "n": 8, "reads": 0.95},
        {"mapping": "replicate", "n": 8, "reads": 0.5},
    )

    @property
    def formula(self) -> float:
        n, r = self.n, self.reads
        return n / (r + n * (1 - r)) if self.mapping == "replicate" else n

    def expected(self) -> dict[str, Expected]:
        return {"carried / one server": relative(self.formula, 0.04)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = []
        for done, seed in enumerate(seeds, 1):
            found.append(self.carried(seed))
            tell(done / len(seeds))
        return {"carried / one server": fmean(found)}

    def carried(self, seed: int) -> float:
        kind = ServiceMapping(mapping=self.mapping, servers=self.n, work=self.work)
        clients = 40 * self.n
        turn = clients / self.formula * self.work  # of each client, when it is saturated
        warm, end = 6 * turn, 6 * turn + max(20 * turn, 1000 * self.work)
        counted = asked = 0

        async def experiment(x: Experimenter) -> float:
            async def client(i: int) -> None:
                nonlocal counted, asked
                service = x.at("client-0", KeyValue, timeout=math.inf)
                while x.now < end:
                    asked += 1
                    key = f"key-{asked % 20_011}"
                    if math.floor(asked * self.reads) > math.floor((asked - 1) * self.reads):
                        await service.get(key)
                    else:
                        await service.put(key, asked)
                    counted += warm <= x.now < end

            await settle(*map(client, range(clients)))
            return counted / (end - warm) * self.work

        network = Network(latency=_Hops(1e-6))
        with SimSession(kind, seed=seed, network=network, disk_sync=0.0) as session:
            return session.perform(experiment)


class Found(Law):
    """How much of what is read a cache has, that keeps what it has read for a fixed time."""

    id = "SV-B"
    architecture = "service_mapping"
    claim = "A cache that keeps for T finds m/(1 + m), m = l T reads of a key in T; less if writes remove it"
    source = "Jung, Berger and Balakrishnan, Modeling TTL-based Internet caches, INFOCOM 2003"
    certainty = "theory (well known), value computed here"
    note = (
        "Poisson reads of rate l for each key and cache; writes of rate u through the same cache remove an "
        "entry, which leaves m = l (1 - exp(-u T)) / u reads of each entry"
    )
    seeds = 3
    caches: int = parameter(2, "caches", least=1, most=100)
    keys: int = parameter(200, "keys, all as popular", least=1, most=10_000)
    rate: float = parameter(2000.0, "operations of all clients", least=1, most=100_000, unit="/s")
    reads: float = parameter(0.9, "share of them that read", least=0.01, most=1)
    keep: float = parameter(0.5, "T", least=0.001, most=100, unit="s")
    operations: int = parameter(60_000, "counted, of all seeds", least=1000, most=10_000_000)
    listed = ({}, {"reads": 1.0, "keep": 0.1}, {"reads": 0.5, "keep": 2.0, "caches": 5})

    def expected(self) -> dict[str, Expected]:
        each = self.rate / self.keys / self.caches
        read, written = each * self.reads, each * (1 - self.reads)
        entry = -math.expm1(-written * self.keep) / written if written else self.keep
        share = read * entry / (1 + read * entry)
        # Hits come in runs, of a geometric length at the most: so wide is what is counted.
        spread = math.sqrt(share * (1 - share) * (1 + read * entry) / (self.operations * self.reads))
        return {"share found": within(share, 4 * spread)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        asked = found = 0
        for done, seed in enumerate(seeds, 1):
            kind = ServiceMapping(mapping="cache", servers=self.caches + 1, work=0.0, keep=self.keep)
            job = Kv(keys=self.keys, reads=self.reads, swaps=0.0)
            network = Network(latency=_Hops(1e-6))
            trial = Trial(Question(kind, job, seed=seed, options={"network": network}))
            try:
                duration = self.operations / len(seeds) / self.rate
                # The caches are empty at first.
                trial.load(Load(duration=3 * self.keep + self.keys * self.caches / self.rate, rate=self.rate))
                before = trial.perform(self.shares)
                trial.load(Load(duration=duration, rate=self.rate, account=0, name="counted"))
                after = trial.perform(self.shares)
            finally:
                trial.close()
            asked, found = asked + after[0] - before[0], found + after[1] - before[1]
            tell(done / len(seeds))
        return {"share found": found / asked}

    async def shares(self, x: Experimenter) -> tuple[int, int]:
        told = await gather(*(x.at(f"cache-{i}", Cache).shares() for i in range(self.caches)))
        return sum(asked for asked, _ in told), sum(found for _, found in told)


async def _core_seconds(x: Experimenter) -> dict[str, float]:
    """What the processes have used so far."""
    used = await x.control.resources()
    return {"client": 0.0} | {name: part["cpu_s"] for name, part in used.items()}


class _Machine:
    """Who has used its processors from now on."""

    MOST = 0.1
    """Of them, by others."""

    def __init__(self) -> None:
        self.began, self.own = psutil.cpu_times(), psutil.Process().cpu_times()

    def must_have_been_ours(self, used: float) -> None:
        """``ValueError`` if others were busy while our processes used so many core seconds."""
        now, own = psutil.cpu_times(), psutil.Process().cpu_times()
        elapsed, idle = sum(now) - sum(self.began), now.idle - self.began.idle
        used += own.user + own.system - self.own.user - self.own.system
        others = max(0.0, elapsed - idle - used) / elapsed if elapsed else 0.0
        if others > self.MOST:
            raise ValueError(
                f"others used {others:.0%} of this machine, and so decided who gets how much of it; "
                "ask again when it is quiet, or leave out --throughput"
            )
