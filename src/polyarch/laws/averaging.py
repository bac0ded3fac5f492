"""The law of averaging: how fast the estimates of all peers come together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from polyarch.architectures.averaging import Averaging, Waiting
from polyarch.core import parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, spread_out, within
from polyarch.laws.gossip import PERIOD
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def _variances(job: tuple[Waiting, int, int, int]) -> list[float]:
    """The variance of all estimates at the end of each cycle."""
    waiting, n, cycles, seed = job
    architecture = Averaging(nodes=n, period=PERIOD, waiting=waiting, epoch=10 * cycles)
    network = Network(latency=Constant(PERIOD / 1000))
    session = SimSession(architecture, seed=seed, network=network, detailed=False)
    with session:
        directory = session.kernel.directory
        peers = [env.node for address, env in directory.items() if address.startswith("peer-")]
        found = []
        for cycle in range(cycles + 1):
            session.kernel.run(PERIOD if cycle else 1.5 * PERIOD)
            found.append(float(np.var([peer.estimate for peer in peers])))
        assert not session.kernel.bugs, session.kernel.bugs[0]
    return found


def factor_of_constant_waiting() -> float:
    """What the variance falls to in a period, if each begins an exchange exactly once in it, always at the
    same phase.  Let v(a) be the variance of members that began one a periods ago, falling as e^(-ct) v(a).
    Others call at rate 1, so v' = (c - 3/4) v + v(1)/4; to begin one makes it v(0) = (v(1) + mean v)/4."""

    def gap(c: float) -> float:
        d = c - 0.75
        rest = 1 / (4 * d)  # with v(1) = 1
        begun = (1 + rest) * math.exp(-d) - rest
        return 4 * begun - 1 - ((1 + rest) * (1 - math.exp(-d)) / d - rest)

    low, high = 1.0, 1.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return math.exp(-low)


class VarianceFalls(Law):
    """Each cycle takes the same part of the variance away."""

    id = "EP-C"
    architecture = "averaging"
    claim = "Push-pull averaging: the variance of the estimates falls to 1/(2 sqrt(e)) of it in each cycle"
    source = "Jelasity, Montresor, Babaoglu, ACM TOCS 23(3), 2005, section 3 (getPair_seq; getPair_rand: 1/e)"
    certainty = "theory (well known), value computed here"
    note = (
        "geometric mean of the cycles.  With a constant time between two exchanges of a member it falls a "
        "little faster than the paper says, since members take turns: expected there is the solution of a "
        "linear equation for the variance by the time since the last exchange"
    )
    seeds = 4
    n: int = parameter(2000, "peers", least=50, most=100_000)
    cycles: int = parameter(15, "measured", least=3, most=20)
    waiting: Waiting = parameter("cycle", "once in each cycle, or after a constant or exponential time")
    listed = ({"waiting": "cycle"}, {"waiting": "constant"}, {"waiting": "exponential"})

    def expected(self) -> dict[str, Expected]:
        factors = {"cycle": 0.5 / math.sqrt(math.e), "exponential": 1 / math.e}
        factor = factors.get(self.waiting) or factor_of_constant_waiting()
        return {"factor": within(factor, 0.01 * max(1.0, math.sqrt(2000 / self.n)))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.waiting, self.n, self.cycles, seed) for seed in seeds]
        runs = spread_out(_variances, jobs, tell)
        return {"factor": fmean((run[-1] / run[0]) ** (1 / self.cycles) for run in runs)}
