"""Laws of Chord: path lengths and failures; on converged rings of ``chord``'s peers.

The rings of different seeds have different identifiers.  Path lengths count hops to the key's predecessor, as
the paper's figures do.  What is expected at settings for which nothing was published comes from ``routes``:
the same routing, written once more on a sorted list of identifiers, without nodes and without messages.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from polyarch.architectures.chord import Chord, ChordClient, Found
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


@cache
def ways(n: int, r: int, failed: float = 0.0, count: int = 20_000) -> list[tuple[int | None, int]]:
    """Hops (None: it ends nowhere) and timeouts of lookups among n peers with successor lists of r, when a
    fraction has failed, and everybody goes on through the best that lives of those whom it knows."""
    random = Random(1).fork(f"routes {n} {r} {failed}")
    found: list[tuple[int | None, int]] = []
    mask, rings = (1 << BITS) - 1, max(3, min(20, 50_000 // n))
    for _ in range(rings):
        ids = sorted({random.below(1 << BITS) for _ in range(n)})
        dead = frozenset(random.sample(range(n), round(failed * n)))
        living = [i for i in range(n) if i not in dead]
        for _ in range(count // rings):
            at, key, hops, timeouts = random.choice(living), random.below(1 << BITS), 0, 0
            while True:
                whole = (key - ids[at]) & mask or mask + 1
                listed = [(at + k) % n for k in range(1, min(r, n - 1) + 1)]
                first = next((k for k, i in enumerate(listed) if i not in dead), len(listed))
                if n == 1 or (first < len(listed) and whole <= (ids[listed[first]] - ids[at]) & mask):
                    found.append((hops, timeouts + first))
                    break
                best, met = at, set()
                for i in reversed(listed):
                    if (ids[i] - ids[at]) & mask < whole:
                        best = i
                        if i not in dead:
                            break
                        met.add(i)
                else:
                    best = at
                for bit in range(whole.bit_length() - 1, -1, -1):
                    finger = bisect_left(ids, (ids[at] + (1 << bit)) & mask) % n
                    reached = (ids[finger] - ids[at]) & mask
                    if reached <= (ids[best] - ids[at]) & mask:
                        break
                    if reached < whole:
                        if finger not in dead:
                            best = finger
                            break
                        met.add(finger)
                least = (ids[best] - ids[at]) & mask
                timeouts += sum((ids[i] - ids[at]) & mask > least for i in met)
                if best == at:
                    found.append((None, timeouts))
                    break
                at, hops = best, hops + 1
    return found


def routes(n: int, r: int, failed: float = 0.0) -> Counter[int | None]:
    """How many of these lookups take so many hops."""
    return Counter(hops for hops, _ in ways(n, r, failed))


def mean_route(n: int, r: int, failed: float = 0.0) -> float:
    """The mean of ``routes``."""
    return mean_of(list(routes(n, r, failed).elements()))


def _hops(job: tuple[int, int, int, float, int]) -> list[Any]:
    """Hops of lookups (None: failed or wrong) on one ring, after a fraction of it has failed."""
    n, length, lookups, failed, seed = job
    ring = Ring(n, seed, length=length)

    async def experiment(x: Experimenter) -> list[Any]:
        alive = await ring.fail(x, failed) if failed else list(ring.addresses)
        up = frozenset(alive)
        living = [p for p in ring.peers if p.address in up]
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


def noise(n: int, lookups: int) -> float:
    """How far the mean of so many hops may be from its expectation: each varies by half a hop for each
    doubling of n, in variance 1/4."""
    return 3.5 * 0.55 * math.sqrt(max(1.0, math.log2(n)) / lookups)


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
        mean = within(0.5 * math.log2(self.n) - 0.13, max(0.1, noise(self.n, self.lookups)))
        return {"mean": mean, "failed or wrong": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(self.n, 1, self.lookups, 0.0, seeds, tell)
        return {"mean": mean_of(hops), "failed or wrong": hops.count(None)}


class PathLengths(Law):
    """Their distribution."""

    id = "CH-03"
    architecture = "chord"
    claim = "Distribution of the path length at N = 4096: a bell with its peak at 6, just under 0.25"
    source = TON + "figure 10b (the peak); shares from reference simulation"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = "fingers only: successor lists of one peer.  Other N: the same routing without nodes"
    seeds = 5
    n: int = parameter(4096, "peers", least=16, most=100_000)
    lookups: int = parameter(50_000, "on the rings of all seeds", least=1000, most=10_000_000)
    shares = {
        2: 0.0169, 3: 0.057, 4: 0.1278, 5: 0.2024, 6: 0.2366, 7: 0.1928, 8: 0.11, 9: 0.0411, 10: 0.01,
    }  # fmt: skip

    def expected(self) -> dict[str, Expected]:
        shares, slack = self.shares, max(0.012, 1.9 / math.sqrt(self.lookups))
        if self.n != 4096:
            drawn = routes(self.n, 1)
            shares = {hops: count / drawn.total() for hops, count in drawn.items() if hops is not None}
            shares = {hops: shares[hops] for hops in sorted(shares) if shares[hops] >= 0.009}
            slack += 0.012 + 0.12 / math.sqrt(self.n)  # a small ring is not like another one
        bins = {f"share of {hops} hops": within(share, slack) for hops, share in shares.items()}
        if self.n != 4096:
            return bins
        return {**bins, "mode": exactly(6), "peak": between(0.234 - slack - 0.002, 0.238 + slack)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(self.n, 1, self.lookups, 0.0, seeds, tell)
        count = Counter(h for h in hops if h is not None)
        mode, most = max(count.items(), key=lambda pair: pair[1])
        figures: dict[str, Figure] = {f"share of {h} hops": count[h] / len(hops) for h in range(64)}
        figures = {name: share for name, share in figures.items() if share or name in self.expected()}
        return {**figures, "mode": mode, "peak": most / len(hops)}


class PathWithSuccessors(Law):
    """Successor lists shorten paths."""

    id = "CH-07"
    architecture = "chord"
    claim = "With a successor list of r: 1/2 log2 N - 1/2 log2 r + 1 hops"
    source = TON + "section V-D"
    certainty = "quoted from the paper"
    note = (
        "The formula is good for the paper's r = 20 and above.  Short lists do not save log2(r)/2 - 1 hops: "
        "for r = 10, 5, 2 it is 0.16, 0.33, 0.72 too high among 1000 peers (with r = 1, CH-02, by 1.13). "
        "Expected there, and where r is near N, is what the same routing takes without nodes"
    )
    seeds = 3
    n: int = parameter(1000, "peers", least=16, most=100_000)
    r: int = parameter(20, "length of the successor list", least=1, most=100)
    lookups: int = parameter(10_000, "on the rings of all seeds", least=1000, most=10_000_000)
    listed = ({"n": 1000, "r": 20}, {"n": 1000, "r": 5})

    def expected(self) -> dict[str, Expected]:
        mean = 0.5 * math.log2(self.n) - 0.5 * math.log2(self.r) + 1
        if self.r < 20 or self.n < 10 * self.r:
            mean = mean_route(self.n, self.r)
        return {
            "mean": within(mean, max(0.15, noise(self.n, self.lookups))),
            "failed or wrong": exactly(0),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(self.n, self.r, self.lookups, 0.0, seeds, tell)
        return {"mean": mean_of(hops), "failed or wrong": hops.count(None)}


class PathAfterFailures(Law):
    """Many fail at once, and nothing is repaired."""

    id = "CH-04"
    architecture = "chord"
    claim = "Table II: mean path length when a fraction p of all peers fails at once, without stabilisation"
    source = TON + "table II"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = (
        "A peer that has run into a dead one forgets it; failed hops are timeouts, and not counted.  An "
        "independent simulation of N = 1000, r = 20 gave 3.76, 3.92, 4.09, 4.35, 4.70, 5.09.  Other N and r: "
        "the same routing without nodes; lookups that end nowhere are left out of means, here and there"
    )
    seeds = 3
    n: int = parameter(1000, "peers", least=16, most=20_000)
    r: int = parameter(20, "length of the successor list", least=1, most=100)
    lookups: int = parameter(10_000, "for each p, on the rings of all seeds", least=1000, most=1_000_000)
    table = {0.0: 3.84, 0.1: 4.03, 0.2: 4.22, 0.3: 4.44, 0.4: 4.69, 0.5: 5.09}

    def expected(self) -> dict[str, Expected]:
        known = (self.n, self.r) == (1000, 20)
        slack = max(0.2, noise(self.n, self.lookups))
        # Which of few peers have failed matters.
        slack += 0.0 if known else 6 / self.n
        return {
            f"p = {p}": within(mean if known else mean_route(self.n, self.r, p), slack)
            for p, mean in self.table.items()
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for done, p in enumerate(self.table):

            def told(part: float, done: int = done) -> None:
                tell((done + part) / len(self.table))

            figures[f"p = {p}"] = mean_of(hops_of(self.n, self.r, self.lookups, p, seeds, told))
        return figures


class TimeoutsAfterFailures(Law):
    """What the dead cost those who ask."""

    id = "CH-A"
    architecture = "chord"
    claim = "Table II: dead nodes that a lookup runs into when a fraction p of all peers fails at once"
    source = TON + "table II: 0.60, 1.17, 2.02, 3.23, 5.10 for p = 0.1 to 0.5"
    certainty = "remembered"
    note = (
        "How many it are depends on how soon the dead are forgotten.  Here a peer forgets dead successors "
        "and not dead fingers, which comes near: 0.5, 1.1, 1.9, 2.8, 4.2 (chord's default is to forget both: "
        "0.12 in 10,000 lookups for p = 0.1).  If nothing is forgotten it is 0.72, 1.68, 2.83, 4.66, 7.35 by "
        "the same routing without nodes: for other N and r, expected are 0.45 to 1.1 times as many as that"
    )
    seeds = 2
    n: int = parameter(1000, "peers", least=50, most=20_000)
    r: int = parameter(20, "length of the successor list", least=2, most=100)
    lookups: int = parameter(3000, "for each p, on each ring", least=200, most=100_000)
    table = {0.1: 0.60, 0.2: 1.17, 0.3: 2.02, 0.4: 3.23, 0.5: 5.10}

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.lookups > 5 * self.n:
            raise ValueError(f"--lookups {self.lookups}: the dead are forgotten after 5 for each of {self.n}")

    def expected(self) -> dict[str, Expected]:
        if (self.n, self.r, self.lookups) == (1000, 20, 3000):
            return {f"p = {p}": between(0.7 * met, 1.2 * met, met) for p, met in self.table.items()}
        mean = {p: fmean(m for hops, m in ways(self.n, self.r, p) if hops is not None) for p in self.table}
        varies = 1.0 + 3.5 / math.sqrt(self.n)  # who has fallen matters among few
        return {f"p = {p}": between(0.45 / varies * m, 1.1 * varies * m) for p, m in mean.items()}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.r, p, self.lookups, seed) for p in self.table for seed in seeds]
        means = spread_out(_timeouts, jobs, tell)
        count = len(seeds)
        return {f"p = {p}": fmean(means[i * count : (i + 1) * count]) for i, p in enumerate(self.table)}


def _timeouts(job: tuple[int, int, float, int, int]) -> float:
    n, length, failed, lookups, seed = job
    ring = Ring(n, seed, length=length, eager=False)

    async def experiment(x: Experimenter) -> float:
        alive = await ring.fail(x, failed)
        found = await ring.look_up(x, ring.keys(lookups), alive)
        return fmean(f.timeouts for f in found if isinstance(f, Found))

    result: float = ring.perform(experiment)
    return result


class HalfFail(Law):
    """Successor lists keep the ring together."""

    id = "CH-06"
    architecture = "chord"
    claim = "No lookup fails after half of all peers have, if r = 20 = 2 log2 N"
    source = TON + "section V-D, last sentence"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = (
        "A peer loses all of its successors with probability p^r.  Where that is to be expected of some of "
        "the peers that live, lookups fail: about as many as without nodes"
    )
    seeds = 3
    n: int = parameter(1000, "peers", least=16, most=20_000)
    r: int = parameter(20, "length of the successor list", least=1, most=100)
    p: float = parameter(0.5, "fraction that fails", least=0, most=0.9)
    lookups: int = parameter(10_000, "on the rings of all seeds", least=100, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        lost = self.seeds * self.n * (1 - self.p) * self.p ** min(self.r, self.n)
        if lost <= 0.02:
            return {"failed or wrong": exactly(0)}
        drawn = routes(self.n, self.r, self.p)
        share = drawn[None] / drawn.total()
        # One peer without successors ends all lookups that come its way: rings differ.
        slack = 3.5 * math.sqrt(share * (1 - share) * (1 / self.lookups + 3 / self.n)) + 4 / self.n
        low, high = max(0.0, share - slack), min(1.0, share + slack)
        return {"failed or wrong": between(low * self.lookups, high * self.lookups, share * self.lookups)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        hops = hops_of(self.n, self.r, self.lookups, self.p, seeds, tell)
        return {"failed or wrong": hops.count(None)}


class LostKeys(Law):
    """What fails with its holder, and nothing else."""

    id = "CH-08"
    architecture = "chord"
    claim = "After a failure of p and stabilisation, lookups miss the original owner with probability p"
    source = "Stoica et al., Chord, SIGCOMM 2001, section 6.4 and figure 11 (almost exactly p)"
    certainty = "quoted from the paper"
    note = "keys weighted by owners: each is any key of a peer chosen at random"
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
        chosen = [ring.random.below(n) for _ in range(lookups)]
        owners = [ring.peers[i] for i in chosen]
        arcs = [(ring.peers[i].id - ring.peers[i - 1].id) % (1 << BITS) for i in chosen]
        keys = [(owner.id - ring.random.below(arc)) % (1 << BITS) for owner, arc in zip(owners, arcs)]
        found = await ring.look_up(x, keys, alive)
        living = frozenset(alive)
        missed = [o for o, f in zip(owners, found) if isinstance(f, Failure) or f.peer != o]
        return len(missed), sum(o.address in living for o in missed)

    result: tuple[int, int] = ring.perform(experiment)
    return result
