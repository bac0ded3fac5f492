"""Laws of policies by themselves: balls in bins for two choices, and what hashing promises.

They ask the policies of ``blocks/balancing.py``, which both switches use; nothing is simulated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random as Mersenne
from statistics import NormalDist, fmean
from typing import Any, Literal

import numpy as np

from polyarch.blocks.balancing import BoundedHash, Choices, Maglev, Rendezvous, balancer
from polyarch.core import Random, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, between, exactly, spread_out, within

MAGLEV = "Eisenbud et al., Maglev, NSDI 2016"


# -- balls in bins ----------------------------------------------------------------------------------------


def fullest(n: int, d: int) -> dict[int, float]:
    """P(the fullest of n bins has k of n balls), by the differential equations of the fluid limit:
    ds_i/dt = s_(i-1)^d - s_i^d, s_i the share of bins with at least i (Mitzenmacher 1996); the number of
    bins with so many is nearly Poisson."""
    shares = np.zeros(40)
    shares[0] = 1.0

    def slope(s: Any) -> Any:
        powers = s**d
        return np.concatenate(([0.0], powers[:-1] - powers[1:]))

    steps = 2000
    for _ in range(steps):  # Runge and Kutta
        a = slope(shares)
        b = slope(shares + a / (2 * steps))
        c = slope(shares + b / (2 * steps))
        shares = shares + (a + 2 * b + 2 * c + slope(shares + c / steps)) / (6 * steps)
    at_least = [1 - math.exp(-n * share) for share in shares]
    return {k: at_least[k] - at_least[k + 1] for k in range(1, 39)}


def thrown(job: tuple[int, int, int]) -> int:
    """The most balls in a bin when as many balls as bins are thrown by the policy."""
    n, d, seed = job
    policy = balancer("two_choices", Random(seed), choices=d)
    assert isinstance(policy, Choices)
    bins = [str(i) for i in range(n)]
    load = dict.fromkeys(bins, 0)
    pick = policy.pick
    for _ in range(n):
        load[pick(bins, load, "")] += 1
    return max(load.values())


class BallsInBins(Law):
    """Two choices without any departures."""

    id = "LB-06"
    architecture = "load balancing"
    claim = "The fullest of n bins: about ln n / ln ln n with one choice, ln ln n / ln d with d"
    source = "Azar, Broder, Karlin and Upfal, SIAM J. Comput. 29(1), 1999"
    certainty = "reference simulation (derived, no published value)"
    note = "expected: fluid limit, Poisson number of bins; bins are drawn without replacement"
    seeds = 1
    n: int = parameter(65_536, "bins, and balls", least=100, most=10_000_000)
    d: int = parameter(2, "bins drawn for each ball", least=1, most=10)
    trials: int = parameter(200, "how often", least=1, most=100_000)
    listed = (
        *({"n": 65_536, "d": d, "trials": 24} for d in (1, 2, 3)),
        {"n": 1024, "d": 2, "trials": 300},
    )
    long = tuple({"n": 65_536, "d": d, "trials": 400 if d == 2 else 200} for d in (1, 2, 3))

    def expected(self) -> dict[str, Expected]:
        chances = {k: p for k, p in fullest(self.n, self.d).items() if p > 1e-4}
        wanted = {
            f"P({k})": within(p, 0.02 + 3.3 * math.sqrt(p * (1 - p) / self.trials))
            for k, p in chances.items()
            if p > 0.02
        }
        wanted["least"] = between(min(chances), max(chances))
        wanted["most"] = between(min(chances), max(chances))
        return wanted

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.d, 100_003 * seeds[0] + i) for i in range(self.trials)]
        counts = Counter(spread_out(thrown, jobs, tell))
        found: dict[str, Figure] = {
            name: counts[int(name[2:-1])] / self.trials for name in self.expected() if name.startswith("P(")
        }
        return found | {"least": min(counts), "most": max(counts)}


# -- hashing ----------------------------------------------------------------------------------------------


def _names(count: int, seed: int) -> list[str]:
    return [f"backend-{seed}-{i}" for i in range(count)]


class MaglevSlots(Law):
    """Maglev's table is fair."""

    id = "LB-07"
    architecture = "consistent hashing"
    claim = "Maglev's table: every backend gets floor or ceil of M/N entries"
    source = MAGLEV + ", pseudocode 1, figure 11"
    certainty = "quoted from the paper + reproduced by reference simulation"
    seeds = 2
    n: int = parameter(1000, "backends", least=1, most=10_000)
    m: int = parameter(65_537, "entries, a prime number", least=2, most=10_000_000)

    def expected(self) -> dict[str, Expected]:
        return {"fewest": exactly(self.m // self.n), "most": exactly(-(-self.m // self.n))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        counts: list[int] = []
        for done, seed in enumerate(seeds, 1):
            entries = Counter(_maglev(_names(self.n, seed), self.m).table)
            counts += [entries[i] for i in range(self.n)]
            tell(done / len(seeds))
        return {"fewest": min(counts), "most": max(counts)}


def _maglev(backends: Sequence[str], size: int) -> Maglev:
    policy = Maglev(Random(0))
    policy.size = size
    policy.members(backends)
    return policy


def largest(count: int, mean: float, variance: float, skew: float, chance: float) -> float:
    """The largest of so many alike, at a quantile: normal, corrected for skew (Cornish and Fisher)."""
    z = NormalDist().inv_cdf(chance ** (1 / count))
    return mean + math.sqrt(variance) * (z + skew * (z * z - 1) / 6)


Way = Literal["rendezvous", "karger"]


def imbalance(job: tuple[str, int, int, int, int]) -> float:
    """By how much the busiest backend is above the mean of the entries of a table, filled by a policy."""
    way, n, m, views, seed = job
    names = _names(n, seed)
    if way == "rendezvous":
        policy: Any = Rendezvous(Random(0))
        policy.members(names)
        load: dict[str, int] = {}
        counts = Counter(policy.pick(names, load, f"{seed}/{entry}") for entry in range(m))
    else:
        ring = BoundedHash(Random(0))
        ring.places, ring.bound = views, math.inf
        ring.members(names)
        counts = Counter(ring.at((entry << 64) // m, names) for entry in range(m))
    return max(counts.values()) * n / m - 1


class Imbalance(Law):
    """Rendezvous and consistent hashing are less fair."""

    id = "LB-08"
    architecture = "consistent hashing"
    claim = "Rendezvous and Karger: the busiest backend has up to half more entries than the mean"
    source = (
        MAGLEV
        + ", section 5.3: 29.7 % (Karger) and 49.5 % (rendezvous) at M = 65,537, 10.3 and 12.3 % at 655,373"
    )
    certainty = "quoted from the paper"
    note = (
        "expected: theory.  Rendezvous fills a table as dice would (multinomial); on Karger's ring of N V "
        "places a backend's entries are a sum over gaps, variance V (m coth(1/2m) - m^2), m = M/(N V).  The "
        "paper's 29.7 % and 10.3 % for Karger are below the 5 % quantile of both"
    )
    seeds = 2
    way: Way = parameter("rendezvous", "of hashing")
    n: int = parameter(1000, "backends", least=2, most=10_000)
    m: int = parameter(65_537, "entries of the table", least=100, most=10_000_000)
    views: int = parameter(1000, "places of a backend on Karger's ring", least=10, most=10_000)
    listed = (
        {"way": "rendezvous", "n": 100, "m": 6553, "views": 1000},
        {"way": "karger", "n": 100, "m": 6553, "views": 1000},
    )
    long = tuple(
        {"way": w, "n": 1000, "m": m, "views": 1000}
        for m in (65_537, 655_373)
        for w in ("rendezvous", "karger")
    )

    def moments(self) -> tuple[float, float, float]:
        """Mean, variance and skewness of a backend's entries."""
        mean = self.m / self.n
        if self.way == "rendezvous":
            p = 1 / self.n
            variance = self.m * p * (1 - p)
            return mean, variance, (1 - 2 * p) / math.sqrt(variance)
        each = mean / self.views
        # P(a gap holds at least k) = m e^(-(k-1)/m) (1 - e^(-1/m)), as entries are evenly spaced.
        tail = [
            each * math.exp(-(k - 1) / each) * -math.expm1(-1 / each) for k in range(1, 20 + round(40 * each))
        ]
        second = sum((2 * k - 1) * q for k, q in enumerate(tail, 1))
        third = sum((3 * k * k - 3 * k + 1) * q for k, q in enumerate(tail, 1))
        variance = second - each**2
        central = third - 3 * each * second + 2 * each**3
        all_alike = 1 - 1 / self.n  # the gaps fill the ring
        return mean, self.views * variance * all_alike, central / variance**1.5 / math.sqrt(self.views)

    def expected(self) -> dict[str, Expected]:
        mean, variance, skew = self.moments()
        low, middle, high = (
            largest(self.n, mean, variance, skew, p) / mean - 1 for p in (0.05, 0.5, 0.95)
        )  # fmt: skip
        return {"busiest above the mean": between(low, high, middle)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.way, self.n, self.m, self.views, seed) for seed in seeds]
        return {"busiest above the mean": fmean(spread_out(imbalance, jobs, tell))}


def disturbed(n: int, m: int, removed: int, seed: int) -> float:
    """Which part of the survivors' entries changes hands, where backends prefer entries in orders that are
    really random: pseudocode 1 with dice, not with offset and skip."""

    def populated(backends: Sequence[int]) -> list[int]:
        dice = [Mersenne(f"{seed} {b}") for b in backends]
        table, filled = [-1] * m, 0
        while True:
            for backend, roll in zip(backends, dice):
                entry = int(roll.random() * m)
                while table[entry] >= 0:
                    entry = int(roll.random() * m)
                table[entry] = backend
                filled += 1
                if filled == m:
                    return table

    gone = frozenset(range(0, n, n // removed)[:removed])
    before = populated(range(n))
    after = populated([b for b in range(n) if b not in gone])
    kept = [(b, a) for b, a in zip(before, after) if b not in gone]
    return sum(b != a for b, a in kept) / len(kept)


class Removal(Law):
    """What moves when backends go."""

    id = "LB-09"
    architecture = "consistent hashing"
    claim = (
        "Backends go: ring and rendezvous move only their keys; Maglev 2.4 % of the others at 1 % failures"
    )
    source = MAGLEV + ", section 5.3, figure 12"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = "Maglev expected: the same algorithm with orders that are random (dice), not offset and skip"
    seeds = 2
    n: int = parameter(1000, "backends", least=2, most=2000)
    m: int = parameter(65_537, "entries of Maglev's table, a prime number", least=3, most=1_000_000)
    removed: int = parameter(10, "backends that go", least=1, most=1000)
    keys: int = parameter(2000, "keys asked for on ring and by rendezvous", least=10, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        dice = fmean(disturbed(self.n, self.m, self.removed, seed) for seed in range(2))
        # Of what is disturbed, 3.5 deviations as if each entry were on its own, and what the paper's allow.
        noise = max(0.25 * dice, 3.5 * math.sqrt(dice / self.m))
        return {
            "ring: survivors' keys moved": exactly(0),
            "rendezvous: survivors' keys moved": exactly(0),
            "maglev: survivors' entries moved": within(dice, noise),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        if self.removed >= self.n:
            raise ValueError(f"of {self.n} backends {self.removed} cannot go")
        moved = {"ring": 0, "rendezvous": 0}
        shares = []
        for done, seed in enumerate(seeds, 1):
            names = _names(self.n, seed)
            gone = frozenset(Random(seed).sample(names, self.removed))
            left = [b for b in names if b not in gone]
            for way in moved:
                ring = BoundedHash(Random(0))
                ring.bound = math.inf
                policy: Any = ring if way == "ring" else Rendezvous(Random(0))
                policy.members(names)
                before = [policy.pick(names, {}, f"key-{k}") for k in range(self.keys)]
                policy.members(left)
                after = [policy.pick(left, {}, f"key-{k}") for k in range(self.keys)]
                moved[way] += sum(b != a for b, a in zip(before, after) if b not in gone)
            old, new = _maglev(names, self.m), _maglev(left, self.m)
            kept = [(names[b], left[a]) for b, a in zip(old.table, new.table) if names[b] not in gone]
            shares.append(sum(b != a for b, a in kept) / len(kept))
            tell(done / len(seeds))
        return {
            "ring: survivors' keys moved": moved["ring"],
            "rendezvous: survivors' keys moved": moved["rendezvous"],
            "maglev: survivors' entries moved": fmean(shares),
        }
