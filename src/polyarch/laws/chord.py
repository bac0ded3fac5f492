"""Laws of Chord: path lengths, failures, who holds how many keys; on converged rings of ``chord``'s peers.

The rings of different seeds have different identifiers.  Path lengths count hops to the key's predecessor, as
the paper's figures do.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from statistics import fmean
from typing import Any

from polyarch.architectures.chord import Chord, ChordClient, Found, Neighbours
from polyarch.blocks.overlay import Peer
from polyarch.blocks.ring import identifier
from polyarch.core import Failure, Random, System, parameter, settle
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
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

BITS = 62
TON = "Stoica et al., Chord, IEEE/ACM Transactions on Networking 11(1), 2003, "


class Ring:
    """A converged ring of peers in a simulation."""

    def __init__(
        self,
        n: int,
        seed: int,
        *,
        length: int,
        upkeep: float = 0.0,
        jitter: float = 0.1,
        eager: bool = True,
        newcomers: int = 0,
        arrival: float = 0.0,
        virtual: int = 1,
    ) -> None:
        """``length``: of the successor lists; ``upkeep``: seconds between rounds of it, 0: none, each varied
        by a part of ``jitter``; not ``eager``: each fixes a random finger, and nothing else does;
        ``newcomers``: further peers, which will join, one every ``arrival`` seconds; ``virtual``: so many of
        the n share a process."""
        system = System()
        self.addresses = system.addresses(f"peer{seed}", n)
        self.peers = sorted(Peer(identifier(a, BITS), a) for a in self.addresses)
        common: dict[str, Any] = {"bits": BITS, "length": length, "stabilize_every": upkeep, "jitter": jitter}
        common |= {"random_fingers": not eager, "replace_fingers": eager}
        stem = f"new{seed}"
        self.newcomers = system.addresses(stem, newcomers) if newcomers else ()
        common["addresses"] = (*self.addresses, *self.newcomers)
        peer = Chord(ring=tuple(self.peers), **common)
        system.role(f"peer{seed}", peer, count=n, together=virtual)
        if newcomers:
            system.role(stem, Chord(arrival=arrival, **common), count=newcomers)
        system.clients(ChordClient(addresses=self.addresses, bits=BITS))
        network = Network(latency=Constant(0.001))
        self.session = SimSession(system, seed=seed, network=network, detailed=False)
        self.random = Random(seed).fork("law")

    def owner(self, key: int) -> Peer:
        """Who is responsible, when all live."""
        return self.peers[bisect_left(self.peers, Peer(key, "")) % len(self.peers)]

    async def look_up(self, x: Experimenter, keys: Sequence[int], askers: Sequence[str]) -> list[Any]:
        """What each of these lookups gives, each asked of any of the askers: ``Found``, or its failure."""
        results: list[Any] = []
        for at in range(0, len(keys), 100):
            page = keys[at : at + 100]
            asked = (x.at(self.random.choice(askers), Chord, timeout=60.0).find_successor(k) for k in page)
            results += await settle(*asked)
        return results

    def keys(self, count: int) -> list[int]:
        return [self.random.below(1 << BITS) for _ in range(count)]

    async def fail(self, x: Experimenter, fraction: float) -> list[str]:
        """Crash a fraction of all peers at once: the addresses of the others."""
        victims = dict.fromkeys(self.random.sample(self.addresses, round(fraction * len(self.addresses))))
        for victim in victims:
            await x.control.crash(victim)
        return [a for a in self.addresses if a not in victims]

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, Any]]) -> Any:
        return self.session.perform(experiment)


# -- path lengths -----------------------------------------------------------------------------------------


def _hops(job: tuple[int, int, int, float, int]) -> list[Any]:
    """Hops of lookups (None: failed or wrong) on one ring, after a fraction of it has failed."""
    n, length, lookups, failed, seed = job
    ring = Ring(n, seed, length=length)

    async def experiment(x: Experimenter) -> list[Any]:
        alive = await ring.fail(x, failed) if failed else list(ring.addresses)
        living = [p for p in ring.peers if p.address in set(alive)]
        keys = ring.keys(lookups)
        hops = []
        for key, found in zip(keys, await ring.look_up(x, keys, alive)):
            holder = living[bisect_left(living, Peer(key, "")) % len(living)]
            hops.append(found.hops if isinstance(found, Found) and found.peer == holder else None)
        return hops

    result: list[Any] = ring.perform(experiment)
    return result


def hops_of(
    n: int, length: int, lookups: int, failed: float, seeds: Sequence[int], tell: Tell
) -> list[int | None]:
    """So many lookups on the rings of all seeds."""
    share = -(-lookups // len(seeds))
    jobs = [(n, length, share, failed, seed) for seed in seeds]
    return [hops for some in spread_out(_hops, jobs, tell) for hops in some]


def mean_of(hops: Sequence[int | None]) -> float:
    """Of the lookups that succeeded."""
    return fmean([h for h in hops if h is not None])


class PathLength(Law):
    """With fingers only."""

    id = "CH-02"
    architecture = "chord"
    claim = "Mean path length about 1/2 log2 N, with random identifiers and fingers only"
    source = TON + "figure 10a; offset of -0.13 from reference simulation"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = "successor lists of one peer"
    seeds = 5
    n: int = parameter(1024, "peers", least=16, most=100_000)
    lookups: int = parameter(50_000, "on the rings of all seeds", least=100, most=10_000_000)
    listed = ({"n": 1024}, {"n": 4096})

    def expected(self) -> dict[str, Expected]:
        noise = 3.3 * 0.6 * math.sqrt(math.log2(self.n) / self.lookups)
        return {"mean": within(0.5 * math.log2(self.n) - 0.13, max(0.1, noise))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        return {"mean": mean_of(hops_of(self.n, 1, self.lookups, 0.0, seeds, tell))}


class PathLengths(Law):
    """Their distribution."""

    id = "CH-03"
    architecture = "chord"
    claim = "Distribution of the path length at N = 4096: a bell with its peak at 6, just under 0.25"
    source = TON + "figure 10b (the peak); shares from reference simulation"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = "fingers only: successor lists of one peer"
    seeds = 5
    lookups: int = parameter(50_000, "on the rings of all seeds", least=10_000, most=10_000_000)
    shares = {
        2: 0.0169, 3: 0.057, 4: 0.1278, 5: 0.2024, 6: 0.2366, 7: 0.1928, 8: 0.11, 9: 0.0411, 10: 0.01,
    }  # fmt: skip

    def expected(self) -> dict[str, Expected]:
        bins = {f"share of {hops} hops": within(share, 0.012) for hops, share in self.shares.items()}
        return {**bins, "mode": exactly(6), "peak": between(0.22, 0.25)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(4096, 1, self.lookups, 0.0, seeds, tell)
        count = Counter(h for h in hops if h is not None)
        mode, most = max(count.items(), key=lambda pair: pair[1])
        figures: dict[str, Figure] = {f"share of {h} hops": count[h] / len(hops) for h in self.shares}
        return {**figures, "mode": mode, "peak": most / len(hops)}


class PathWithSuccessors(Law):
    """Successor lists shorten paths."""

    id = "CH-07"
    architecture = "chord"
    claim = "With a successor list of r: 1/2 log2 N - 1/2 log2 r + 1 hops"
    source = TON + "section V-D"
    certainty = "quoted from the paper"
    seeds = 3
    n: int = parameter(1000, "peers", least=16, most=100_000)
    r: int = parameter(20, "length of the successor list", least=2, most=100)
    lookups: int = parameter(10_000, "on the rings of all seeds", least=1000, most=10_000_000)

    def expected(self) -> dict[str, Expected]:
        return {"mean": within(0.5 * math.log2(self.n) - 0.5 * math.log2(self.r) + 1, 0.15)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        return {"mean": mean_of(hops_of(self.n, self.r, self.lookups, 0.0, seeds, tell))}


class PathAfterFailures(Law):
    """Many fail at once, and nothing is repaired."""

    id = "CH-04"
    architecture = "chord"
    claim = "Table II: mean path length when a fraction p of all peers fails at once, without stabilisation"
    source = TON + "table II"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = (
        "N = 1000, r = 20.  A peer that has run into a dead one forgets it; failed hops are timeouts, and "
        "not counted.  An independent simulation gave 3.76, 3.92, 4.09, 4.35, 4.70, 5.09"
    )
    seeds = 3
    lookups: int = parameter(10_000, "for each p, on the rings of all seeds", least=1000, most=1_000_000)
    table = {0.0: 3.84, 0.1: 4.03, 0.2: 4.22, 0.3: 4.44, 0.4: 4.69, 0.5: 5.09}

    def expected(self) -> dict[str, Expected]:
        return {f"p = {p}": within(mean, 0.2) for p, mean in self.table.items()}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for done, p in enumerate(self.table):

            def told(part: float, done: int = done) -> None:
                tell((done + part) / len(self.table))

            figures[f"p = {p}"] = mean_of(hops_of(1000, 20, self.lookups, p, seeds, told))
        return figures


class HalfFail(Law):
    """Successor lists keep the ring together."""

    id = "CH-06"
    architecture = "chord"
    claim = "No lookup fails after half of all peers have, if r = 20 = 2 log2 N"
    source = TON + "section V-D, last sentence"
    certainty = "quoted from the paper + reproduced by reference simulation"
    seeds = 3
    n: int = parameter(1000, "peers", least=16, most=20_000)
    r: int = parameter(20, "length of the successor list", least=2, most=100)
    p: float = parameter(0.5, "fraction that fails", least=0, most=0.5)
    lookups: int = parameter(10_000, "on the rings of all seeds", least=100, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        return {"failed or wrong": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(self.n, self.r, self.lookups, self.p, seeds, tell)
        return {"failed or wrong": sum(h is None for h in hops)}


class LostKeys(Law):
    """What fails with its holder, and nothing else."""

    id = "CH-08"
    architecture = "chord"
    claim = "After a failure of p and stabilisation, lookups miss the original owner with probability p"
    source = "Stoica et al., Chord, SIGCOMM 2001, section 6.4 and figure 11 (almost exactly p)"
    certainty = "quoted from the paper"
    note = "keys weighted by owners: each is that of a peer chosen at random"
    seeds = 2
    n: int = parameter(1000, "peers", least=50, most=10_000)
    p: float = parameter(0.2, "fraction that fails", least=0.01, most=0.4)
    lookups: int = parameter(12_200, "on the rings of all seeds", least=1000, most=1_000_000)
    listed = ({"p": 0.05}, {"p": 0.1}, {"p": 0.2})

    def expected(self) -> dict[str, Expected]:
        p = round(self.p * self.n) / self.n
        noise = 3.3 * math.sqrt(p * (1 - p) / self.lookups)
        return {"missed": within(p, max(0.012, noise)), "missed although the owner lives": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.lookups // len(seeds))
        found = spread_out(_missed, [(self.n, self.p, share, seed) for seed in seeds], tell)
        return {
            "missed": sum(missed for missed, _ in found) / (share * len(seeds)),
            "missed although the owner lives": sum(needless for _, needless in found),
        }


def _missed(job: tuple[int, float, int, int]) -> tuple[int, int]:
    n, p, lookups, seed = job
    ring = Ring(n, seed, length=20, upkeep=1.0)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        alive = await ring.fail(x, p)
        await x.sleep(25.0)  # rounds of upkeep
        owners = [ring.random.choice(ring.peers) for _ in range(lookups)]
        found = await ring.look_up(x, [owner.id for owner in owners], alive)
        living = set(alive)
        missed = [o for o, f in zip(owners, found) if isinstance(f, Failure) or f.peer != o]
        return len(missed), sum(o.address in living for o in missed)

    result: tuple[int, int] = ring.perform(experiment)
    return result


# -- who holds how much -----------------------------------------------------------------------------------


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
    note = "theory: 4.64 and, for the expected longest arc, 9.79; each peer counts by its own predecessor"
    seeds = 3
    n: int = parameter(10_000, "peers", least=1000, most=100_000)
    per_node: int = parameter(50, "keys for each peer", least=10, most=1000)

    def expected(self) -> dict[str, Expected]:
        longest = sum(1 / k for k in range(1, self.n + 1))
        slack = 0.25 * math.sqrt(10_000 / self.n)
        return {
            "99th percentile / mean": between(4.65 - slack, 4.65 + slack, 4.6),
            "most / mean": between(longest - 2.3, longest + 4.2, 9.1 if self.n == 10_000 else longest),
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
        return {"share": within(p, max(tolerance, 3.3 * math.sqrt(p * (1 - p) / self.n)))}

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
    n: int = parameter(100, "peers before the join", least=2, most=2000)
    repeats: int = parameter(280, "joins, each on a ring of its own", least=20, most=10_000)

    def expected(self) -> dict[str, Expected]:
        # An arc is exponential: its mean over the repeats varies by 1/sqrt(repeats).
        share = 1 / (self.n + 1)
        noise = max(0.2, 3.3 / math.sqrt(self.repeats))
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
    note = "theory: a peer's share is a sum of r exponential arcs, so its keys are negative binomial"
    seeds = 1
    n: int = parameter(10_000, "peers", least=500, most=100_000)
    r: int = parameter(5, "virtual nodes of each", least=1, most=100)
    per_node: int = parameter(100, "keys for each peer", least=20, most=1000)
    listed = ({"r": 1}, {"r": 2}, {"r": 5})
    long = ({"r": 10}, {"r": 20})

    def expected(self) -> dict[str, Expected]:
        noise = max(1.0, math.sqrt(10_000 / self.n))
        low, high = (self.quantile(q) / self.per_node for q in (0.01, 0.99))
        return {
            "1st percentile / mean": within(low, 0.04 * noise),
            "99th percentile / mean": relative(high, 0.04 * noise),
            "coefficient of variation": relative(math.sqrt(1 / self.per_node + 1 / self.r), 0.04 * noise),
        }

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
