"""Laws of placement: how often data is lost when many servers fail together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from polyarch.architectures.chunk_store import ChunkStore, Master
from polyarch.blocks.placement import Policy
from polyarch.core import Random, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, spread_out, within
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


class DataLoss(Law):
    """Copysets against random replication."""

    id = "PB-05"
    architecture = "chunk_store"
    claim = "When F of N servers fail, data is lost with probability 1 - (1 - C(F,R)/C(N,R))^sets"
    source = "Cidon et al., Copysets, USENIX ATC 2013, abstract and section 3"
    certainty = "quoted from the paper + equals theory computed here"
    note = (
        "sets: of R servers that hold a chunk: at random about one a chunk, in copysets N/R a permutation.  "
        "The master of a chunk store places all chunks; the failures are drawn.  The paper, for 1 % of 5000 "
        "servers: RAMCloud 0.15 % with copysets, and 99.99 % at random, with 13.3 million chunks (by the "
        "formula 0.999996): here are as many as fit into memory, 200,000 and a million.  Not checked: HDFS "
        "at Facebook, whose placement is neither, 22.8 % and 0.78 %"
    )
    seeds = 2
    n: int = parameter(5000, "servers", least=10, most=20_000)
    failing: float = parameter(0.01, "part of them that fails together", least=0.0001, most=0.5)
    replicas: int = parameter(3, "of each chunk", least=2, most=4)
    chunks: int = parameter(200_000, "in the store", least=1, most=3_000_000)
    placement: Policy = parameter("random", "how servers are chosen")
    trials: int = parameter(1000, "failures", least=50, most=1_000_000)
    listed = (
        {"placement": "random", "chunks": 200_000, "trials": 1000},
        {"placement": "random", "chunks": 1_000_000, "trials": 1000},
        {"placement": "copysets", "chunks": 200_000, "trials": 20_000},
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if math.comb(self.dead, self.replicas) > 2_000_000:
            raise ValueError(f"--failing {self.failing}: too many sets of {self.replicas} fail together")

    @property
    def dead(self) -> int:
        return round(self.failing * self.n)

    def expected(self) -> dict[str, Expected]:
        sets = self.chunks
        if self.placement == "copysets":
            permutations = max(1, -(-2 // (self.replicas - 1)))
            sets = -(-self.n // self.replicas) * permutations
        one = math.comb(self.dead, self.replicas) / math.comb(self.n, self.replicas)
        p = -math.expm1(sets * math.log1p(-one)) if one < 1 else 1.0
        return {"data is lost": within(p, max(3.3 * math.sqrt(p * (1 - p) / self.trials), 1 / self.trials))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.trials // len(seeds))
        values = (self.n, self.dead, self.replicas, self.chunks, self.placement, share)
        lost = spread_out(_losses, [(*values, seed) for seed in seeds], tell)
        return {"data is lost": sum(lost) / (share * len(seeds))}


def _losses(job: tuple[int, int, int, int, Policy, int, int]) -> int:
    """In how many failures some chunk has lost all its servers."""
    n, dead, replicas, chunks, placement, trials, seed = job
    store = ChunkStore(nodes=n, replicas=replicas, placement=placement)
    session = SimSession(store, seed=seed, detailed=False, network=Network(latency=Constant(1e-4)))

    async def experiment(x: Experimenter) -> set[int]:
        """The sets that the master has used, each as one number."""
        used = set()
        for at in range(0, chunks, 5000):
            places = await x.at("master-0", Master, timeout=60.0).allot(min(5000, chunks - at))
            for chunk in places:
                used.add(as_number(sorted(chunk.servers), n))
        return used

    used: set[int] = session.perform(experiment)
    random = Random(seed).fork("failures")
    failures = (random.sample(range(n), dead) for _ in range(trials))
    if len(used) > 10_000:  # then there are fewer sets of servers that have failed
        return sum(
            any(as_number(some, n) in used for some in combinations(sorted(failed), replicas))
            for failed in failures
        )
    with_first: dict[int, list[int]] = {}
    for number in used:
        with_first.setdefault(number // n ** (replicas - 1), []).append(number)
    return sum(
        any(
            all(number // n**k % n in failed for k in range(replicas - 1))
            for first in failed
            for number in with_first.get(first, ())
        )
        for failed in map(frozenset, failures)
    )


def as_number(servers: Sequence[int], n: int) -> int:
    """A set of servers, in order, as one number."""
    number = 0
    for server in servers:
        number = number * n + server
    return number
