"""Laws of Chord: how much of the ring, and how many keys, each peer holds; on converged rings of ``chord``'s
peers, which say themselves where their part of the ring begins.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import fmean

from polyarch.architectures.chord import Chord
from polyarch.blocks.ring import identifier
from polyarch.blocks.successors import Neighbours
from polyarch.core import Random, parameter, settle
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    between,
    exactly,
    relative,
    spread_out,
    within,
)
from polyarch.laws.chord import BITS, TON, Ring
from polyarch.runtimes.base import Experimenter


def _arcs(job: tuple[int, int], virtual: int = 1) -> list[tuple[int, int, int]]:
    """(identifier, length of the arc that it is responsible for, number of its process) of every node, as it
    says itself."""
    n, seed = job
    ring = Ring(n, seed, length=1, virtual=virtual)

    async def experiment(x: Experimenter) -> list[tuple[int, int, int]]:
        arcs = []
        for at in range(0, n, 256):
            page = ring.peers[at : at + 256]
            told = await settle(*(x.at(p, Chord).neighbours() for p in page))
            for peer, view in zip(page, told):
                assert isinstance(view, Neighbours)
                assert view.predecessor is not None
                process = int(peer.address.rpartition("-")[2]) // virtual
                arcs.append((peer.id, (peer.id - view.predecessor.id) % (1 << BITS), process))
        return arcs

    result: list[tuple[int, int, int]] = ring.perform(experiment)
    return result


class KeysPerNode(Law):
    """Without virtual nodes, load is uneven."""

    id = "CH-09"
    architecture = "chord"
    claim = "Keys per peer: 99th percentile 4.6 times the mean, most loaded 9.1 times"
    source = TON + "figure 8b; SIGCOMM 2001, section 6.2"
    certainty = "quoted from the paper + equals theory computed here"
    note = (
        "theory: 4.64 and, for the expected longest arc, 9.79; each peer counts by its own predecessor.  "
        "Few keys for each peer vary by themselves: then geometric, not exponential"
    )
    seeds = 3
    n: int = parameter(10_000, "peers", least=100, most=100_000)
    per_node: int = parameter(50, "keys for each peer", least=10, most=1000)

    def expected(self) -> dict[str, Expected]:
        # In units of the mean, a geometric distribution falls by e at this distance.
        scale = 1 / math.log1p(1 / self.per_node) / self.per_node
        high = math.log(100) * scale
        longest = sum(1 / k for k in range(1, self.n + 1)) * scale
        slack = 0.25 * math.sqrt(10_000 / self.n)
        if (self.n, self.per_node) == (10_000, 50):
            return {
                "99th percentile / mean": between(4.4, 4.9, 4.6),
                "most / mean": between(7.5, 14, 9.1),
            }
        return {
            "99th percentile / mean": within(high, slack + 1 / self.per_node),
            "most / mean": between(longest - 2.3, longest + 4.2, longest),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        high, most = [], []
        for seed, arcs in zip(seeds, spread_out(_arcs, [(self.n, seed) for seed in seeds], tell)):
            random = Random(seed).fork("keys")
            ids = [id for id, _, _ in arcs]
            held = [0] * self.n
            for _ in range(self.n * self.per_node):
                key = random.below(1 << BITS)
                at = bisect_left(ids, key) % self.n
                assert (ids[at] - key) % (1 << BITS) < arcs[at][1]
                held[at] += 1
            held.sort()
            high.append(held[int(0.99 * self.n)] / self.per_node)
            most.append(held[-1] / self.per_node)
        return {"99th percentile / mean": fmean(high), "most / mean": fmean(most)}


class ArcLengths(Law):
    """Arcs are exponential."""

    id = "CH-15"
    architecture = "chord"
    claim = "A peer's arc is longer than x times the mean with probability e^-x"
    source = TON + "section V-B (e^-2 quoted)"
    certainty = "quoted from the paper + equals theory computed here"
    seeds = 2
    n: int = parameter(10_000, "peers", least=100, most=100_000)
    x: float = parameter(2.0, "times the mean", least=0, most=8)
    listed = ({"x": 2.0}, {"x": 3.0})

    def expected(self) -> dict[str, Expected]:
        p = math.exp(-self.x)
        tolerance = {2.0: 0.012, 3.0: 0.008}.get(self.x, 0.012)
        few = abs(p - max(0.0, 1 - self.x / self.n) ** (self.n - 1))  # exact: they divide one ring
        return {"share": within(p, max(tolerance, few + 3.5 * math.sqrt(p * (1 - p) / self.n / self.seeds)))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        longer = [
            arc * self.n > self.x * (1 << BITS)
            for arcs in spread_out(_arcs, [(self.n, seed) for seed in seeds], tell)
            for _, arc, _ in arcs
        ]
        return {"share": sum(longer) / len(longer)}


class JoinMoves(Law):
    """A join concerns one neighbour."""

    id = "CH-14"
    architecture = "chord"
    claim = "A join moves 1/(N+1) of the keys on average, all of them from the new peer's successor"
    source = "Karger et al., Consistent hashing and random trees, STOC 1997"
    certainty = "theory (well known), value computed here"
    note = "one peer joins a converged ring; before and after, every peer says what it is responsible for"
    seeds = 1
    n: int = parameter(100, "peers before the join", least=1, most=2000)
    repeats: int = parameter(280, "joins, each on a ring of its own", least=20, most=10_000)

    def expected(self) -> dict[str, Expected]:
        # An arc is about exponential: its mean over the repeats varies by 1/sqrt(repeats).
        share = 1 / (self.n + 1)
        noise = max(0.2, 3.35 * math.sqrt(self.n / (self.n + 2) / self.repeats))
        return {"share moved": relative(share, noise), "moved elsewhere": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        rings = range(seeds[0] * self.repeats, (seeds[0] + 1) * self.repeats)
        found = spread_out(_moved, [(self.n, ring) for ring in rings], tell)
        return {
            "share moved": fmean(share for share, _ in found),
            "moved elsewhere": sum(elsewhere for _, elsewhere in found),
        }


def _moved(job: tuple[int, int]) -> tuple[float, int]:
    """The share of the ring that goes to the newcomer, and the peers besides its successor that lose some."""
    n, seed = job
    ring = Ring(n, seed, length=8, upkeep=0.5, newcomers=1)
    newcomer = f"new{seed}-0"

    async def experiment(x: Experimenter) -> tuple[float, int]:
        before = {p.address: ring.peers[i - 1].id for i, p in enumerate(ring.peers)}
        everybody = [*ring.addresses, newcomer]
        while True:
            await x.sleep(2.0)
            told = await settle(*(x.at(a, Chord).neighbours() for a in everybody))
            views = {a: view for a, view in zip(everybody, told) if isinstance(view, Neighbours)}
            mine = views.get(newcomer)
            if mine is None or mine.predecessor is None:
                continue
            successor = views[mine.successors[0].address].predecessor
            if successor is not None and successor.address == newcomer:
                break
        changed = [
            a for a, view in views.items()
            if a != newcomer and (view.predecessor is None or view.predecessor.id != before[a])
        ]  # fmt: skip
        moved = (identifier(newcomer, BITS) - mine.predecessor.id) % (1 << BITS)
        return moved / (1 << BITS), sum(a != mine.successors[0].address for a in changed)

    result: tuple[float, int] = ring.perform(experiment)
    return result


class VirtualNodes(Law):
    """Several places on the ring for each peer."""

    id = "CH-11"
    architecture = "chord"
    claim = (
        "With r virtual nodes, keys per peer: 1st and 99th percentile (0.5 and 1.6 times the mean for r = 20)"
    )
    source = TON + "figure 9 (r = 1: 0 and 4.8; r = 20: 0.5 and 1.6)"
    certainty = "quoted from the paper + equals theory computed here"
    note = (
        "theory: a peer's share is a sum of r exponential arcs, so its keys are negative binomial.  "
        "Tolerance: 0.04 and 4 %, or 3.5 standard errors where that is more (of a single ring, 4 % of the "
        "99th percentile is 1.8 of them for r = 1: hence several rings)"
    )
    seeds = 3
    n: int = parameter(10_000, "peers", least=500, most=100_000)
    r: int = parameter(5, "virtual nodes of each", least=1, most=100)
    per_node: int = parameter(100, "keys for each peer", least=20, most=1000)
    listed = ({"r": 1}, {"r": 2}, {"r": 5})
    long = ({"r": 10}, {"r": 20})

    def expected(self) -> dict[str, Expected]:
        low, high = (self.quantile(q) / self.per_node for q in (0.01, 0.99))
        # A quantile varies by sqrt(q (1-q) / n) over the density there.
        error = 3.5 * math.sqrt(0.01 * 0.99 / (self.n * self.seeds)) / self.per_node
        grain = 1 / self.per_node  # keys are whole
        deviation = math.sqrt(1 / self.per_node + 1 / self.r)
        spread = 3.5 * math.sqrt((0.5 + 1.5 / self.r) / (self.n * self.seeds))
        return {
            "1st percentile / mean": within(low, max(0.04, error / self.density(low) + grain)),
            "99th percentile / mean": within(high, max(0.04 * high, error / self.density(high) + grain)),
            "coefficient of variation": relative(deviation, max(0.04, spread)),
        }

    def density(self, share: float) -> float:
        """How probable it is to hold just so many keys."""
        keys, m, r = round(share * self.per_node), self.per_node, self.r
        log = math.lgamma(keys + r) - math.lgamma(keys + 1) - math.lgamma(r)
        return math.exp(log + r * math.log(r / (m + r)) + keys * math.log(m / (m + r)))

    def quantile(self, q: float) -> int:
        """Of the negative binomial distribution with this mean, and shape r."""
        p = self.per_node / (self.per_node + self.r)
        keys, share = 0, (1 - p) ** self.r
        below = share
        while below < q:
            keys += 1
            share *= p * (keys + self.r - 1) / keys
            below += share
        return keys

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.r, self.per_node, seed) for seed in seeds]
        low, high, deviation = zip(*spread_out(_shares, jobs, tell))
        return {
            "1st percentile / mean": fmean(low),
            "99th percentile / mean": fmean(high),
            "coefficient of variation": fmean(deviation),
        }


def _shares(job: tuple[int, int, int, int]) -> tuple[float, float, float]:
    """Percentiles and variation of keys per peer, over their mean."""
    n, virtual, per_node, seed = job
    arcs = _arcs((n * virtual, seed), virtual)
    random = Random(seed).fork("keys")
    ids = [id for id, _, _ in arcs]
    held = [0] * n
    for _ in range(n * per_node):
        key = random.below(1 << BITS)
        id, arc, process = arcs[bisect_left(ids, key) % len(ids)]
        assert (id - key) % (1 << BITS) < arc
        held[process] += 1
    held.sort()
    deviation = math.sqrt(fmean((h - per_node) ** 2 for h in held))
    return held[int(0.01 * n)] / per_node, held[int(0.99 * n)] / per_node, deviation / per_node
