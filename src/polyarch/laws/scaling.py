"""Laws of scaling: Amdahl's, and Gunther's Universal Scalability Law, of the system that it describes.

Gunther ("A general theory of computational scalability based on rational functions", arXiv:0808.1431, 2008)
shows that the law is the throughput of N processors and one shared resource when all queue for it together:
each works by itself, waits for the others, and then all want the resource at once (a *synchronous*
repairman).  It serves them one after another (contention), and the slower the more of them there are,
because what one has changed the others must hear of (coherence).  That system is built here of nodes that
work on cores of their own, and runs on the simulator; the fit is the one of ``polyarch scale``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyarch.core import Node, Random, System, gather, parameter, rpc
from polyarch.experiment.laws import Expected, Figure, Law, Tell, relative, spread_out
from polyarch.measure.scalability import amdahl, fit, usl
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

SIZES = (1, 2, 4, 8, 16, 32, 44, 64, 100)
"""Those of the fit."""


class Processor(Node):
    """Does its own part of the work, on its own core."""

    timeout = None

    @rpc
    async def compute(self, seconds: float) -> None:
        """Work that nobody else needs to wait for."""
        await self.work(seconds)


class Resource(Node):
    """What all need: one core, and each unit of work takes a random time about its mean."""

    seconds: float
    """A unit of work, alone."""
    penalty: float
    """By which part of it each of the others that want the resource makes it longer."""

    timeout = None

    async def start(self) -> None:
        self.wanted = 0

    @rpc
    async def use(self) -> None:
        """One unit of work, after those of whoever came before."""
        self.wanted += 1
        await self.sleep(1e-6)  # now all are here
        wanted = self.wanted
        await self.work(self.seconds * (1 + self.penalty * (wanted - 1)) * self.random.between(0.5, 1.5))
        self.wanted = 0


class Machine(Node):
    """All of it, to whoever measures."""

    processors: tuple[str, ...]
    resource: Resource
    alone: float
    """Seconds of work of each processor by itself in a round."""

    timeout = None

    @rpc
    async def rounds(self, count: int) -> float:
        """How many units of work are done per second, in so many rounds."""
        begin = self.now
        for _ in range(count):
            await gather(*(self.at(p, Processor).compute(self.alone) for p in self.processors))
            await gather(*(self.resource.use() for _ in self.processors))
        return count * len(self.processors) / (self.now - begin)

    @rpc
    async def job(self, serial: float) -> float:
        """Seconds for one unit of work of which only a part can be divided among the processors."""
        begin, n = self.now, len(self.processors)
        await self.at(self.processors[0], Processor).compute(serial)
        await gather(*(self.at(p, Processor).compute((1 - serial) / n) for p in self.processors))
        return self.now - begin


class Scalability(Law):
    """The Universal Scalability Law, its peak, its fit, and Amdahl's law."""

    id = "LB-12"
    architecture = "scaling laws"
    claim = "C(N) = N/(1 + a(N-1) + bN(N-1)), with its peak at sqrt((1-a)/b); with b = 0 Amdahl's law"
    source = "Gunther, CMG 1993 and arXiv:0808.1431; Amdahl, AFIPS 1967"
    certainty = "theory, value computed here"
    note = (
        "measured of N processors that work, wait for each other, and want one resource together, on the "
        "simulator; a and b are fitted to their throughput by what `polyarch scale` fits with, N* follows "
        "from them"
    )
    contention: float = parameter(0.03, "a: the part of the work that only one can do at a time", least=0.001)
    coherence: float = parameter(0.0005, "b: what each pair costs", least=1e-6, most=1)
    serial: float = parameter(0.05, "the part of Amdahl's work that cannot be divided", least=0, most=1)
    processors: int = parameter(16, "Amdahl's", least=1, most=1000)
    size: int = parameter(44, "another N at which C is measured", least=1, most=1000)
    rounds: int = parameter(100, "measured at each N", least=10)
    listed = ({}, {"contention": 0.1, "coherence": 0.002, "serial": 0.2, "processors": 50})

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.contention >= 1:
            raise ValueError(f"--contention takes a number below 1, not {self.contention:g}")

    @property
    def places(self) -> list[int]:
        return sorted({8, 32, 44, 100, self.size})

    def expected(self) -> dict[str, Expected]:
        a, b = self.contention, self.coherence
        return {
            **{f"C({n})": relative(usl(n, a, b), 0.02) for n in self.places},
            "a": relative(a, 0.1),
            "b": relative(b, 0.1),
            "N*": relative(max(1.0, math.sqrt((1 - a) / b)), 0.05),
            f"Amdahl({self.processors})": relative(amdahl(self.processors, self.serial), 0.001),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        sizes = sorted({*SIZES, *self.places})
        jobs = [(n, self.contention, self.coherence, self.rounds, seed) for seed in seeds for n in sizes]
        done = spread_out(_throughput, jobs, tell)
        found = {n: [x for job, x in zip(jobs, done) if job[0] == n] for n in sizes}
        runs = [(n, x) for n in sizes for x in found[n]]
        law = fit([n for n, _ in runs], [x for _, x in runs], np.random.default_rng(seeds[0]))
        one = float(np.mean(found[1]))
        seconds = _session(self.processors, 1.0, 0.0, 0.0, seeds[0]).perform(_job(self.serial))
        return {
            **{f"C({n})": float(np.mean(found[n])) / one for n in self.places},
            "a": law.contention.value,
            "b": law.coherence.value,
            "N*": law.peak.value if law.peak is not None else math.inf,
            f"Amdahl({self.processors})": 1.0 / seconds,
        }


def _session(n: int, alone: float, shared: float, penalty: float, seed: int) -> SimSession:
    system = System()
    resource = Resource(seconds=shared, penalty=penalty)
    system.role("processor", Processor(), count=n)
    system.role("resource", resource)
    system.clients(Machine(processors=system.addresses("processor", n), resource=resource, alone=alone))
    return SimSession(system, seed=seed, network=Network(latency=Constant(1e-7)))


def _throughput(job: tuple[int, float, float, int, int]) -> float:
    """Units of work per second of N processors."""
    n, contention, coherence, rounds, seed = job
    seed = Random(seed).fork(f"{n} processors").below(1 << 60)

    async def experiment(x: Experimenter) -> float:
        done: float = await x.client.rounds(rounds)
        return done

    return _session(n, 1 - contention, contention, coherence / contention, seed).perform(experiment)


def _job(serial: float) -> Any:
    async def experiment(x: Experimenter) -> float:
        seconds: float = await x.client.job(serial)
        return seconds

    return experiment
