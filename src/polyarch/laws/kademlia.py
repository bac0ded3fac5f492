"""Laws of Kademlia's lookups: their steps and messages, before and after failures; on networks of
``kademlia``'s peers that start with full buckets, each entry drawn from all that fit.

What is expected of settings for which nothing was published comes from ``Trie``: the same search, written
once more on a sorted list of identifiers, without nodes and without messages.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import cache
from itertools import islice
from statistics import fmean
from typing import Any

from polyarch.architectures.kademlia import Kademlia, KademliaClient
from polyarch.blocks.overlay import Peer
from polyarch.blocks.ring import identifier
from polyarch.core import Failure, Random, System, parameter, settle
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    at_least,
    exactly,
    spread_out,
    within,
)
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

BITS = 62
PAPER = "Maymounkov and Mazieres, Kademlia, IPTPS 2002"
DELAY = 0.010  # seconds that each message takes


class Peers:
    """A network of peers with full buckets, in a simulation."""

    def __init__(self, n: int, seed: int, **settings: Any) -> None:
        system = System()
        self.addresses = system.addresses(f"peer{seed}", n)
        self.peers = sorted(Peer(identifier(a, BITS), a) for a in self.addresses)
        self.trie = Trie([p.id for p in self.peers])
        settings = {"everybody": tuple(self.peers), "refresh_every": 0.0, **settings}
        system.role(f"peer{seed}", Kademlia(bits=BITS, addresses=self.addresses, **settings), count=n)
        system.clients(KademliaClient(addresses=self.addresses, bits=BITS, rule="xor"))
        network = Network(latency=Constant(DELAY))
        self.session = SimSession(system, seed=seed, network=network, detailed=False)
        self.random = Random(seed).fork("law")

    def keys(self, count: int) -> list[int]:
        return [self.random.below(1 << BITS) for _ in range(count)]

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, Any]]) -> Any:
        return self.session.perform(experiment)


class Trie:
    """Identifiers in order: those that share a prefix stand side by side."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids

    def halves(self, id: int) -> Iterator[tuple[int, int, int, int]]:
        """Bit by bit of ``id``, of those that share all bits before: where they are that share this one too
        (first, last + 1), and where those are that do not."""
        low, high = 0, len(self.ids)
        for bit in reversed(range(BITS)):
            middle = bisect_left(self.ids, (id >> bit | 1) << bit, low, high)
            one = id >> bit & 1
            same, other = ((middle, high), (low, middle)) if one else ((low, middle), (middle, high))
            yield *same, *other
            low, high = same
            if high - low == 0:
                return

    def closest(self, key: int) -> int:
        """The identifier closest to a key."""
        low, high = 0, len(self.ids)
        for first, last, other_first, other_last in self.halves(key):
            if high - low == 1:
                break
            low, high = (first, last) if first < last else (other_first, other_last)
            if first == last:
                break
        return min(self.ids[low:high], key=lambda id: id ^ key)

    def buckets(self, id: int, k: int, random: Random) -> list[list[int]]:
        """Full buckets of a node, drawn at random."""
        buckets = []
        for _, _, first, last in self.halves(id):
            buckets.append([self.ids[i] for i in drawn(range(first, last), k, True, random)])
        return buckets


# -- steps (KA-01) ----------------------------------------------------------------------------------------


def bits_gained(k: int) -> float:
    """Bits by which the best of k contacts is closer than oneself: the largest of k geometric numbers."""
    return sum(1 - (1 - 2.0**-j) ** k for j in range(200))


@cache
def greedy_hops(n: int, k: int, different: bool, lookups: int = 20_000) -> float:
    """Mean steps from a node to another one, both chosen at random."""
    random = Random(1).fork(f"greedy {n} {k} {different}")
    hops = 0
    networks = max(1, min(10, 100_000 // n))
    for _ in range(networks):
        trie = Trie(sorted({random.below(1 << BITS) for _ in range(n)}))
        for _ in range(lookups // networks):
            at, key = random.choice(trie.ids), random.choice(trie.ids)
            while at != key:
                # The first bit in which one differs from the key: so do all contacts before its bucket.
                differing = BITS - (at ^ key).bit_length()
                *_, first, last = next(islice(trie.halves(at), differing, None))
                at = min(drawn(range(first, last), k, different, random), key=lambda i: trie.ids[i] ^ key)
                at = trie.ids[at]
                hops += 1
    return hops / (lookups // networks * networks)


def drawn(fitting: range, k: int, different: bool, random: Random) -> Sequence[int]:
    """All that fit into a bucket, or k of them."""
    if len(fitting) <= k:
        return fitting
    return random.sample(fitting, k) if different else [random.choice(fitting) for _ in range(k)]


def _walks(job: tuple[int, int, bool, int, int]) -> list[int]:
    """Steps of greedy walks: from each node to the closest of the contacts that it names itself."""
    n, k, different, lookups, seed = job
    peers = Peers(n, seed, k=k, different=different)

    async def walk(x: Experimenter, start: str, key: int) -> int:
        at, hops = Peer(identifier(start, BITS), start), 0
        while True:
            known = await x.at(at, Kademlia).find_node(None, key)
            best = min(known, key=lambda p: p.id ^ key, default=at)
            if best.id ^ key >= at.id ^ key:
                assert at.id == key
                return hops
            at, hops = best, hops + 1

    async def experiment(x: Experimenter) -> list[int]:
        hops: list[int] = []
        for page in range(0, lookups, 500):
            keys = [peers.random.choice(peers.peers).id for _ in range(min(500, lookups - page))]
            walks = await settle(*(walk(x, peers.random.choice(peers.addresses), key) for key in keys))
            hops += [h for h in walks if isinstance(h, int)]
        assert len(hops) == lookups
        return hops

    result: list[int] = peers.perform(experiment)
    return result


class GreedySteps(Law):
    """How far the closest known contact leads."""

    id = "KA-01"
    architecture = "kademlia"
    claim = "Greedy hop count grows as ln N / (ln 2 * E[max of k geometric(1/2)])"
    source = "derived here (bits gained per hop); cf. Cai and Devroye 2013-14, c_k log n"
    certainty = "theory, value computed and confirmed by reference simulation"
    note = (
        "from peer to peer, each chosen at random; each step goes to the closest contact that the peer names "
        "in answer to FIND_NODE.  The listed means hold for k independent draws, of which some are the same "
        "contact; with k different ones, which is what peers have, walks are 0.04 to 0.06 shorter.  "
        "Means of settings that are not listed: from an independent simulation; the slope too, where the "
        "smallest network has fewer than 12 k peers"
    )
    seeds = 2
    k: int = parameter(8, "contacts in a bucket", least=1, most=100)
    smallest: int = parameter(1000, "peers of the smallest network", least=100, most=10_000)
    largest: int = parameter(100_000, "peers of the largest; between are factors of 10", least=1000)
    different: bool = parameter(False, "whether the contacts drawn for a bucket are all different")
    lookups: int = parameter(50_000, "at each size, on the networks of all seeds", least=1000)
    listed = (
        {"k": 1, "largest": 10_000, "lookups": 20_000},
        {"k": 8, "largest": 10_000, "lookups": 20_000},
        {"k": 20, "largest": 10_000, "lookups": 20_000},
        {"k": 8, "largest": 10_000, "lookups": 20_000, "different": True},
    )
    long = ({"k": 1}, {"k": 8}, {"k": 20})
    means = {1: (4.93, 6.59, 8.24), 8: (2.43, 3.18, 3.93), 20: (1.97, 2.57, 3.15)}

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.largest < 1.5 * self.smallest:
            raise ValueError(f"--largest {self.largest}: a slope needs 1.5 times --smallest {self.smallest}")

    @property
    def sizes(self) -> list[int]:
        sizes = [self.smallest]
        while sizes[-1] * 10 < self.largest:
            sizes.append(sizes[-1] * 10)
        return [*sizes, self.largest] if self.largest > sizes[-1] else sizes

    def expected(self) -> dict[str, Expected]:
        spread = math.log(self.largest / self.smallest)
        slope = 1 / (math.log(2) * bits_gained(self.k))
        if self.smallest < 12 * self.k:  # there most know nearly all: the formula is for many more peers
            ends = (greedy_hops(n, self.k, self.different) for n in (self.largest, self.smallest))
            slope = (next(ends) - next(ends)) / spread
        # The mean moves a little with the fraction of log2 N, the more so the larger k is.
        noise = 0.012 + 4 / math.sqrt(self.lookups)
        expected = {"slope per ln N": within(slope, max(0.03 * slope, noise / spread))}
        for n in self.sizes:
            listed = dict(zip((1000, 10_000, 100_000), self.means.get(self.k, ())))
            published = n in listed and not self.different
            mean = listed[n] if published else greedy_hops(n, self.k, self.different)
            expected[f"hops, N {n}"] = within(mean, max(0.05, 5 / math.sqrt(self.lookups)))
        return expected

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = []
        for n in self.sizes:
            each = max(1, min(10, 20_000 // n))  # small networks differ: several of them for each seed
            networks = [seed * 10 + i for seed in seeds for i in range(each)]
            share = -(-self.lookups // len(networks))
            jobs += [(n, self.k, self.different, share, seed) for seed in networks]
        hops: dict[int, list[int]] = {n: [] for n in self.sizes}
        for job, walks in zip(jobs, spread_out(_walks, jobs, tell)):
            hops[job[0]] += walks
        means = {n: fmean(walks) for n, walks in hops.items()}
        slope = (means[self.largest] - means[self.smallest]) / math.log(self.largest / self.smallest)
        return {"slope per ln N": slope, **{f"hops, N {n}": mean for n, mean in means.items()}}


# -- messages (KA-02) -------------------------------------------------------------------------------------


@cache
def iterative_cost(n: int, k: int, alpha: int, lookups: int = 900) -> tuple[float, float]:
    """Mean messages of lookups that keep alpha questions on the way, until the k closest were asked; and in
    how many times of a question and its answer."""
    random = Random(2).fork(f"iterative {n} {k} {alpha}")
    asked_in_all = rounds = 0
    networks = 3 if n > 100 else 30
    for _ in range(networks):
        trie = Trie(sorted({random.below(1 << BITS) for _ in range(n)}))
        tables: dict[int, list[int]] = {}

        def known(id: int, key: int, trie: Trie = trie, tables: dict[int, list[int]] = tables) -> list[int]:
            if id not in tables:
                tables[id] = [other for bucket in trie.buckets(id, k, random) for other in bucket]
            return sorted(tables[id], key=lambda other: other ^ key)[:k]

        for _ in range(lookups // networks):
            start, key = random.choice(trie.ids), random.below(1 << BITS)
            heard, asked = {start, *known(start, key)}, {start}
            under_way: deque[tuple[int, int]] = deque()
            now = 0
            while True:
                closest = (id for id in sorted(heard, key=lambda i: i ^ key)[:k] if id not in asked)
                for id in islice(closest, alpha - len(under_way)):
                    asked.add(id)
                    under_way.append((now + 1, id))
                if not under_way:
                    break
                now, id = under_way.popleft()
                heard.update(known(id, key))
            rounds += now
            asked_in_all += len(asked) - 1
    return asked_in_all / lookups, rounds / lookups


def _lookups(job: tuple[int, int, int, float, int, bool, int]) -> list[tuple[bool, int, int, float]]:
    """Whether lookups named the closest living peer, what they asked, timeouts and rounds."""
    n, k, alpha, failed, lookups, widen, seed = job
    peers = Peers(n, seed, k=k, alpha=alpha, widen=widen)

    async def experiment(x: Experimenter) -> list[tuple[bool, int, int, float]]:
        dead = dict.fromkeys(peers.random.sample(peers.addresses, round(failed * n)))
        for victim in dead:
            await x.control.crash(victim)
        living = [a for a in peers.addresses if a not in dead]
        trie = Trie([p.id for p in peers.peers if p.address not in dead])

        async def one(key: int) -> tuple[bool, int, int, float]:
            asker = x.at(peers.random.choice(living), Kademlia, timeout=60.0)
            begin = x.now
            found = await asker.lookup(key)
            rounds = (x.now - begin) / (2 * DELAY) - 1  # the last is between the asker and us
            return found.peer.id == trie.closest(key), found.rpcs, found.timeouts, rounds

        told: list[Any] = []
        for page in range(0, lookups, 100):
            told += await settle(*(one(key) for key in peers.keys(min(100, lookups - page))))
        return [(False, 0, 0, 0.0) if isinstance(one, Failure) else one for one in told]

    result: list[tuple[bool, int, int, float]] = peers.perform(experiment)
    return result


class LookupCost(Law):
    """A lookup asks the k closest, and a few on the way."""

    id = "KA-02"
    architecture = "kademlia"
    claim = "Iterative lookup with full buckets always returns the closest node; about k + 1.5 to 3 RPCs"
    source = "reference simulation"
    certainty = "reference simulation (derived, no published value)"
    note = (
        "rounds: in strict batches of alpha, without the paper's last step (ask all of the k closest at once "
        "when nobody closer turns up), which is how peers are run otherwise: 'with it'"
    )
    seeds = 2
    n: int = parameter(1000, "peers", least=2, most=100_000)
    k: int = parameter(20, "contacts in a bucket", least=1, most=100)
    alpha: int = parameter(3, "questions at the same time", least=1, most=20)
    lookups: int = parameter(600, "on the networks of all seeds", least=50, most=1_000_000)
    listed = ({"n": 1000, "k": 20}, {"n": 10_000, "k": 20}, {"n": 10_000, "k": 8})
    published = {(1000, 20, 3): (21.5, 7.5), (10_000, 20, 3): (22.8, 8.0), (10_000, 8, 3): (12.9, 4.7)}

    def expected(self) -> dict[str, Expected]:
        setting = (self.n, self.k, self.alpha)
        rpcs, rounds = self.published.get(setting) or iterative_cost(*setting)
        # Lookups vary by a question or so, and few peers from network to network.
        noise = 3.5 * 1.2 / math.sqrt(self.lookups) if self.lookups < 600 else 0.0
        noise += 1 / math.sqrt(self.n) if self.n < 100 else 0.0
        return {
            "success": exactly(1.0),
            "rpcs": within(rpcs, 0.1 * rpcs + noise),
            "rounds": within(rounds, 0.1 * rounds + noise),
            "success, with it": exactly(1.0),
            "rpcs, with it": within(rpcs, 0.1 * rpcs + noise),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.lookups // len(seeds))
        jobs = [(self.n, self.k, self.alpha, 0.0, share, w, s) for w in (False, True) for s in seeds]
        told = spread_out(_lookups, jobs, tell)
        strict = [one for some in told[: len(seeds)] for one in some]
        widened = [one for some in told[len(seeds) :] for one in some]
        return {
            "success": fmean(right for right, *_ in strict),
            "rpcs": fmean(rpcs for _, rpcs, *_ in strict),
            "rounds": fmean(rounds for *_, rounds in strict),
            "success, with it": fmean(right for right, *_ in widened),
            "rpcs, with it": fmean(rpcs for _, rpcs, *_ in widened),
        }


class AfterFailures(Law):
    """Many fail at once, and nothing is repaired."""

    id = "KA-A"
    architecture = "kademlia"
    claim = (
        "After a fraction p of all fails at once, lookups are still right, and p of their questions time out"
    )
    source = "derived here: each contact is dead with probability p, whoever names it"
    certainty = "theory (right unless all k contacts of a bucket are dead: at least 1 - p^k log2 N)"
    note = "full buckets, no upkeep, so that nobody knows who is dead before the first question"
    seeds = 2
    n: int = parameter(1000, "peers", least=50, most=100_000)
    k: int = parameter(20, "contacts in a bucket", least=8, most=100)
    p: float = parameter(0.2, "fraction that fails", least=0.0, most=0.5)
    lookups: int = parameter(1000, "on the networks of all seeds", least=100, most=1_000_000)
    listed = ({"p": 0.2}, {"p": 0.5})

    def expected(self) -> dict[str, Expected]:
        p = round(self.p * self.n) / self.n
        noise = 4 * math.sqrt(p * (1 - p) / (self.lookups * self.k))
        return {
            # On a way of log2 N buckets all k contacts of one are dead: then it may end before the closest.
            "right": at_least(1 - math.log2(self.n) * p**self.k, 1.0),
            "share of timeouts": within(p, 0.02 + noise),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.lookups // len(seeds))
        told = spread_out(_lookups, [(self.n, self.k, 3, self.p, share, True, s) for s in seeds], tell)
        lookups = [one for some in told for one in some]
        timeouts = sum(timeouts for _, _, timeouts, _ in lookups)
        return {
            "right": fmean(right for right, *_ in lookups),
            "share of timeouts": timeouts / sum(rpcs for _, rpcs, *_ in lookups),
        }
