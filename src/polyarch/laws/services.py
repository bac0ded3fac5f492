"""Laws of services: what a chain of them takes, and what splitting costs on one machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from polyarch.architectures.client_server import ClientServer
from polyarch.architectures.microservices import Microservices
from polyarch.architectures.service_chain import ServiceChain
from polyarch.core import Architecture, Job, Random, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, at_least, exactly, relative
from polyarch.experiment.load import Load
from polyarch.experiment.run import Question, Trial
from polyarch.jobs.compute import Compute, ComputeJob
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
    listed = ({"on": "sim"}, {"on": "local"})

    def expected(self) -> dict[str, Expected]:
        if self.on == "local":
            return {"shop: monolith / microservices, operations per core second": at_least(1.0)}
        # Of a call the request is handled by the service; its answer goes to whoever waits for it.
        ratio = (self.work + self.n * self.message) / (self.work + self.message)
        return {"monolith / services, operations per core second": relative(ratio, 0.001)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        job: Job
        kinds: list[Architecture]
        if self.on == "local":
            name, job, kinds = "shop: monolith / microservices", ShopJob(), [ClientServer(), Microservices()]
        else:
            name = "monolith / services"
            job = ComputeJob(work=self.work, work_law="deterministic", blocks=0.0)
            kinds = [ServiceChain(services=self.n, together=together) for together in (True, False)]
        split, whole = 1, 0
        carried = self.carried(kinds, job, seeds[0], tell)
        return {f"{name}, operations per core second": carried[whole] / carried[split]}

    def carried(self, kinds: Sequence[Architecture], job: Job, seed: int, tell: Tell) -> list[float]:
        """Operations per core second of each, in rounds by turns."""
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
                    before = trial.perform(_core_seconds)
                    result = trial.load(Load(duration=seconds, clients=16, account=0))
                    if round_:  # the first one is for warming up
                        done[i] += result.ok
                        spent[i] += trial.perform(_core_seconds) - before
                tell((round_ + 1) / 4)
            return [count / seconds for count, seconds in zip(done, spent)]
        finally:
            for trial in trials:
                trial.close()


async def _core_seconds(x: Experimenter) -> float:
    """What all processes but the clients' have used so far."""
    used = await x.control.resources()
    return sum(part["cpu_s"] for name, part in used.items() if name != "client")
