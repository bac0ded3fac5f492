"""Laws of Kademlia: steps and messages of lookups, who stays in a bucket, the parameters of the paper and of
BEP 5; on networks of ``kademlia``'s peers that start with full buckets, each entry drawn from all that fit.

What is expected of settings for which nothing was published comes from ``Trie``: the same search, written
once more on a sorted list of identifiers, without nodes and without messages.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import Any

from polyarch.architectures.kademlia import MAINLINE, Kademlia, KademliaClient, KademliaNetwork
from polyarch.blocks.buckets import Peer
from polyarch.blocks.ring import identifier
from polyarch.core import Failure, Random, System, parameter, settle
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    exactly,
    relative,
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
            some = range(first, last) if last - first <= k else random.sample(range(first, last), k)
            buckets.append([self.ids[i] for i in some])
        return buckets


def _ids(n: int, random: Random) -> list[int]:
    return sorted({random.below(1 << BITS) for _ in range(n)})


def _searches(random: Random, count: int, trie: Trie) -> Iterator[tuple[int, int]]:
    """Where lookups start, and their keys."""
    for _ in range(count):
        yield random.choice(trie.ids), random.below(1 << BITS)


# -- steps (KA-01) ----------------------------------------------------------------------------------------


def bits_gained(k: int) -> float:
    """Bits by which the best of k contacts is closer than oneself: the largest of k geometric numbers."""
    return sum(1 - (1 - 2.0**-j) ** k for j in range(200))


@cache
def greedy_hops(n: int, k: int, lookups: int = 40_000) -> float:
    """Mean steps from a random node to the closest of a random key."""
    random = Random(1).fork(f"greedy {n} {k}")
    hops = 0
    networks = max(1, min(10, 100_000 // n))
    for _ in range(networks):
        trie = Trie(_ids(n, random))
        for at, key in _searches(random, lookups // networks, trie):
            while True:
                # One's contacts in the key's own bucket, if that is not empty; else there may be somebody
                # closer among those that share as many bits as oneself: a few.
                prefix = BITS - (at ^ key).bit_length()
                if prefix == BITS:
                    break
                *_, first, last = next(h for i, h in enumerate(trie.halves(at)) if i == prefix)
                if first == last:
                    closest = trie.closest(key)
                    if closest == at:
                        break
                    known = [id for bucket in trie.buckets(at, k, random) for id in bucket]
                else:
                    some = range(first, last) if last - first <= k else random.sample(range(first, last), k)
                    known = [trie.ids[i] for i in some]
                best = min(known, key=lambda id: id ^ key)
                if best ^ key >= at ^ key:
                    break
                at = best
                hops += 1
    return hops / (lookups // networks * networks)


def _walks(job: tuple[int, int, int, int]) -> list[int]:
    """Steps of greedy walks: from each node to the closest of the contacts that it names itself."""
    n, k, lookups, seed = job
    peers = Peers(n, seed, k=k)

    async def walk(x: Experimenter, start: str, key: int) -> int:
        at, hops = Peer(identifier(start, BITS), start), 0
        while True:
            known = await x.at(at, Kademlia).find_node(None, key)
            best = min(known, key=lambda p: p.id ^ key, default=at)
            if best.id ^ key >= at.id ^ key:
                assert at.id == peers.trie.closest(key)
                return hops
            at, hops = best, hops + 1

    async def experiment(x: Experimenter) -> list[int]:
        hops: list[int] = []
        for page in range(0, lookups, 500):
            keys = peers.keys(min(500, lookups - page))
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
        "each step goes to the closest contact that the node names in answer to FIND_NODE; means at sizes "
        "and k other than the listed ones from an independent simulation"
    )
    seeds = 2
    k: int = parameter(8, "contacts in a bucket", least=1, most=100)
    smallest: int = parameter(1000, "peers of the smallest network", least=100, most=10_000)
    largest: int = parameter(100_000, "peers of the largest; between are factors of 10", least=1000)
    lookups: int = parameter(50_000, "at each size, on the networks of all seeds", least=1000)
    listed = ({"k": 1, "largest": 10_000}, {"k": 8, "largest": 10_000}, {"k": 20, "largest": 10_000})
    long = ({"k": 1}, {"k": 8}, {"k": 20})
    means = {1: (4.93, 6.59, 8.24), 8: (2.43, 3.18, 3.93), 20: (1.97, 2.57, 3.15)}

    @property
    def sizes(self) -> list[int]:
        sizes = [self.smallest]
        while sizes[-1] * 10 < self.largest:
            sizes.append(sizes[-1] * 10)
        return [*sizes, self.largest] if self.largest > sizes[-1] else sizes

    def expected(self) -> dict[str, Expected]:
        slope = 1 / (math.log(2) * bits_gained(self.k))
        # The mean moves a little with the fraction of log2 N, the more so the larger k is.
        spread = math.log(self.largest / self.smallest)
        noise = 0.012 + 4 / math.sqrt(self.lookups)
        expected = {"slope per ln N": within(slope, max(0.03 * slope, noise / spread))}
        for n in self.sizes:
            listed = dict(zip((1000, 10_000, 100_000), self.means.get(self.k, ())))
            mean = listed[n] if n in listed else greedy_hops(n, self.k)
            expected[f"hops, N {n}"] = within(mean, max(0.05, 5 / math.sqrt(self.lookups)))
        return expected

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = []
        for n in self.sizes:
            each = max(1, min(10, 20_000 // n))  # small networks differ: several of them for each seed
            networks = [seed * 10 + i for seed in seeds for i in range(each)]
            share = -(-self.lookups // len(networks))
            jobs += [(n, self.k, share, seed) for seed in networks]
        hops: dict[int, list[int]] = {n: [] for n in self.sizes}
        for job, walks in zip(jobs, spread_out(_walks, jobs, tell)):
            hops[job[0]] += walks
        means = {n: fmean(walks) for n, walks in hops.items()}
        slope = (means[self.largest] - means[self.smallest]) / math.log(self.largest / self.smallest)
        return {"slope per ln N": slope, **{f"hops, N {n}": mean for n, mean in means.items()}}


# -- messages (KA-02) -------------------------------------------------------------------------------------


@cache
def iterative_cost(n: int, k: int, alpha: int, lookups: int = 600) -> tuple[float, float]:
    """Mean messages and rounds of lookups in strict batches of alpha, until the k closest were asked."""
    random = Random(2).fork(f"iterative {n} {k} {alpha}")
    asked_in_all = rounds = 0
    networks = 3
    for _ in range(networks):
        trie = Trie(_ids(n, random))
        tables: dict[int, list[int]] = {}

        def known(id: int, key: int, trie: Trie = trie, tables: dict[int, list[int]] = tables) -> list[int]:
            if id not in tables:
                tables[id] = [other for bucket in trie.buckets(id, k, random) for other in bucket]
            return sorted(tables[id], key=lambda other: other ^ key)[:k]

        for start, key in _searches(random, lookups // networks, trie):
            heard, asked = {start, *known(start, key)}, {start}
            while batch := [id for id in sorted(heard, key=lambda i: i ^ key)[:k] if id not in asked][:alpha]:
                rounds += 1
                asked.update(batch)
                heard.update(*(known(id, key) for id in batch))
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
        return {
            "success": exactly(1.0),
            "rpcs": relative(rpcs, 0.1),
            "rounds": relative(rounds, 0.1),
            "success, with it": exactly(1.0),
            "rpcs, with it": relative(rpcs, 0.1),
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

    id = "KA-06"
    architecture = "kademlia"
    claim = (
        "After a fraction p of all fails at once, lookups are still right, and p of their questions time out"
    )
    source = "derived here: each contact is dead with probability p, whoever names it"
    certainty = "theory (success needs one living contact of k in each bucket: 1 - p^k)"
    note = "full buckets, no upkeep, so that nobody knows who is dead before the first question"
    seeds = 2
    n: int = parameter(1000, "peers", least=50, most=100_000)
    k: int = parameter(20, "contacts in a bucket", least=8, most=100)
    p: float = parameter(0.2, "fraction that fails", least=0.0, most=0.5)
    lookups: int = parameter(1000, "on the networks of all seeds", least=100, most=1_000_000)
    listed = ({"p": 0.2}, {"p": 0.5})

    def expected(self) -> dict[str, Expected]:
        p = round(self.p * self.n) / self.n
        return {"right": exactly(1.0), "share of timeouts": within(p, 0.03)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.lookups // len(seeds))
        told = spread_out(_lookups, [(self.n, self.k, 3, self.p, share, True, s) for s in seeds], tell)
        lookups = [one for some in told for one in some]
        timeouts = sum(timeouts for _, _, timeouts, _ in lookups)
        return {
            "right": fmean(right for right, *_ in lookups),
            "share of timeouts": timeouts / sum(rpcs for _, rpcs, *_ in lookups),
        }


# -- buckets (KA-03, KA-05) -------------------------------------------------------------------------------


def _tables(job: tuple[int, int, int]) -> tuple[float, int, int, int, int]:
    """Non-empty buckets of a peer, those with more than k, those with fewer than k though more fit; distances
    that differ by who measures them; triangles in which the detour is shorter."""
    n, k, seed = job
    peers = Peers(n, seed, k=k)

    async def experiment(x: Experimenter) -> tuple[float, int, int, int, int]:
        tables: dict[Peer, tuple[Peer, ...]] = {}
        for page in range(0, n, 250):
            some = peers.peers[page : page + 250]
            told = await settle(*(x.at(p, Kademlia).contacts() for p in some))
            tables |= {p: t for p, t in zip(some, told) if not isinstance(t, Failure)}
        filled = over = short = crooked = detours = 0
        nodes = peers.session.kernel.directory
        for me, contacts in tables.items():
            sizes = [0] * (BITS + 1)
            for c in contacts:
                sizes[BITS - (me.id ^ c.id).bit_length()] += 1
                here, there = nodes[me.address].node, nodes[c.address].node
                crooked += here.buckets.prefix(c.id) != there.buckets.prefix(me.id)
            fit = [last - first for _, _, first, last in peers.trie.halves(me.id)]
            filled += sum(size > 0 for size in sizes)
            over += sum(size > k for size in sizes)
            short += sum(size < min(k, all_) for size, all_ in zip(sizes, fit))
            for a, b in pairwise(contacts):
                detours += me.id ^ b.id > (me.id ^ a.id) + (a.id ^ b.id)
        assert len(tables) == n
        return filled / n, over, short, crooked, detours

    result: tuple[float, int, int, int, int] = peers.perform(experiment)
    return result


class Structure(Law):
    """What buckets look like."""

    id = "KA-03"
    architecture = "kademlia"
    claim = "XOR is a metric, buckets hold at most k, about log2 N of them are not empty"
    source = PAPER + ", section 2"
    certainty = "from memory; the number of buckets: exact, sum over j of 1 - (1 - 2^-j)^(N-1)"
    note = "for N = 1000: log2 N + 0.33; the list allows log2 N + 0.33 to 1.4, +-1"
    seeds = 3
    n: int = parameter(1000, "peers", least=2, most=20_000)
    k: int = parameter(20, "contacts in a bucket", least=1, most=100)

    def expected(self) -> dict[str, Expected]:
        buckets = sum(1 - (1 - 2.0**-j) ** (self.n - 1) for j in range(1, BITS + 1))
        return {
            "non-empty buckets": within(buckets, 0.1 + 4 / math.sqrt(self.n)),
            "buckets with more than k": exactly(0),
            "buckets with fewer than fit": exactly(0),
            "d(a, b) is not d(b, a)": exactly(0),
            "d(a, c) > d(a, b) + d(b, c)": exactly(0),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        told = spread_out(_tables, [(self.n, self.k, seed) for seed in seeds], tell)
        filled, *wrong = zip(*told)
        return dict(zip(self.expected(), (fmean(filled), *(sum(counts) for counts in wrong))))


def _one_bucket(k: int, spares: int, seed: int) -> dict[str, Figure]:
    """One peer meets k + 1 others that fit into the same bucket of its."""
    system = System()
    (one,), others = system.addresses(f"one{seed}", 1), system.addresses(f"other{seed}", 4 * k + 20)
    me = Peer(identifier(one, BITS), one)
    everybody = tuple(sorted(Peer(identifier(a, BITS), a) for a in others))
    common: dict[str, Any] = {"bits": BITS, "k": k, "spares": spares, "refresh_every": 0.0}
    system.role(f"one{seed}", Kademlia(everybody=(me,), **common), count=1)
    system.role(f"other{seed}", Kademlia(everybody=everybody, **common), count=len(others))
    system.clients(KademliaClient(addresses=others, bits=BITS, rule="xor"))
    fitting = [p for p in everybody if (p.id ^ me.id) >> (BITS - 1)][: k + 1]
    *first, newcomer = fitting

    async def experiment(x: Experimenter) -> dict[str, Figure]:
        for other in first:
            await x.at(one, Kademlia).ping(other)
        await x.at(one, Kademlia).ping(newcomer)
        await x.sleep(1.0)
        kept = await x.at(one, Kademlia).contacts()
        live = set(kept) == set(first)
        await x.control.crash(kept[0].address)
        await x.at(one, Kademlia).ping(newcomer)
        if spares:  # it is noticed when it is asked: section 4.1
            await x.at(one, Kademlia).lookup(kept[0].id)
        await x.sleep(5.0)
        now = await x.at(one, Kademlia).contacts()
        return {
            "live head, newcomer dropped": live,
            "dead head, replaced": kept[0] not in now and newcomer in now and set(kept[1:]) < set(now),
            "contacts": len(now),
        }

    return SimSession(system, seed=seed, detailed=False).perform(experiment)


class Retention(Law):
    """Who has been there long stays."""

    id = "KA-05"
    architecture = "kademlia"
    claim = "A full bucket with a live head rejects a newcomer; a dead head is replaced by it"
    source = "BEP 5, Routing Table; " + PAPER + ", sections 2.2 and 4.1"
    certainty = "quoted from the paper"
    note = (
        "spares 0: the head is pinged when a newcomer comes (2.2); otherwise the newcomer waits until the "
        "dead one is noticed (4.1)"
    )
    seeds = 2
    k: int = parameter(20, "contacts in a bucket", least=1, most=100)
    spares: int = parameter(0, "newcomers that wait for a place", least=0, most=100)
    listed = ({"spares": 0}, {"spares": 8})

    def expected(self) -> dict[str, Expected]:
        return {
            "live head, newcomer dropped": exactly(True),
            "dead head, replaced": exactly(True),
            "contacts": exactly(self.k),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        told = [_one_bucket(self.k, self.spares, seed) for seed in seeds]
        return {name: min(figures[name] for figures in told) for name in told[0]}


# -- parameters, tokens and pairs (KA-04, KA-07) ------------------------------------------------------------


def _token_life(wait: float, every: float) -> float:
    """For how long a token is good that is given ``wait`` seconds after the secret has changed: seconds."""
    peers = Peers(2, 0, token_every=every)
    asker, keeper = peers.peers

    async def experiment(x: Experimenter) -> float:
        await x.sleep(wait)
        given = x.now
        token = (await x.at(keeper, Kademlia).find_value(asker, "key")).token
        try:
            while x.now < given + 10 * every:
                await x.at(keeper, Kademlia).store(asker, "key", "value", 60.0, token)
                await x.sleep(every / 100)
        except Failure:
            pass
        return x.now - given

    life: float = peers.perform(experiment)
    return life


class Parameters(Law):
    """What the paper and BEP 5 say."""

    id = "KA-04"
    architecture = "kademlia"
    claim = (
        "k = 20, alpha = 3; mainline: k = 8, 15 min until questionable or refreshed, tokens last 5 to 10 min"
    )
    source = PAPER + " (memory); BEP 5 (quoted)"
    certainty = "quoted (BEP 5 seen); k = 20, alpha = 3 from memory"
    note = (
        "the first six are the architecture's defaults and its MAINLINE; the life of tokens is measured on "
        "a peer, by storing until it refuses.  Identifiers are of at most 64 bits, not 160: integers in "
        "messages end there"
    )
    seeds = 1

    def expected(self) -> dict[str, Expected]:
        return {
            "k_paper": exactly(20),
            "alpha": exactly(3),
            "k_BEP5": exactly(8),
            "questionable_min": exactly(15.0),
            "refresh_min": exactly(15.0),
            "token_rotates_min": exactly(5.0),
            "token_valid_min": within(10, 0.1),
            "token_valid_min, given late": within(5, 0.1),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        paper, mainline = KademliaNetwork(), KademliaNetwork(**MAINLINE)
        return {
            "k_paper": paper.k,
            "alpha": paper.alpha,
            "k_BEP5": mainline.k,
            "questionable_min": mainline.questionable / 60,
            "refresh_min": mainline.refresh / 60,
            "token_rotates_min": mainline.tokens / 60,
            "token_valid_min": _token_life(0.0, mainline.tokens) / 60,
            "token_valid_min, given late": _token_life(0.999 * mainline.tokens, mainline.tokens) / 60,
        }


def _days(job: tuple[int, int, float, float, int]) -> tuple[int, bool, bool]:
    """At how many a pair is stored; whether it is found shortly before it expires, when all of those are
    gone; and whether it is not any more a little later."""
    n, k, republish, expire, seed = job
    peers = Peers(n, seed, k=k, republish_every=republish, expire_after=expire)

    async def experiment(x: Experimenter) -> tuple[int, bool, bool]:
        id = identifier("key", BITS)
        holders = sorted(peers.peers, key=lambda p: p.id ^ id)
        publisher, reader = x.at(holders[-1], Kademlia), x.at(holders[-2], Kademlia)
        begin = x.now
        stored = await publisher.publish("key", "value")
        # One after another, all that have it now crash, each when it has been stored again.
        for holder in holders[:stored]:
            await x.sleep(1.5 * republish)
            await x.control.crash(holder.address)
        await x.sleep(begin + 0.99 * expire - x.now)
        before = await reader.retrieve("key")
        await x.sleep(begin + 1.01 * expire - x.now)
        return stored, before == "value", await reader.retrieve("key") is None

    result: tuple[int, bool, bool] = peers.perform(experiment)
    return result


class PairsLast(Law):
    """Soft state."""

    id = "KA-07"
    architecture = "kademlia"
    claim = (
        "A pair outlives those that it was stored at, as all store it again every hour, and ends after a day"
    )
    source = PAPER + ", sections 2.3 and 2.5 (3600 s, 86400 s)"
    certainty = "from memory"
    note = "published once; all k that have it then crash one after another, 1.5 intervals apart"
    seeds = 3
    n: int = parameter(100, "peers", least=50, most=2000)
    k: int = parameter(8, "peers that store a pair", least=2, most=12)
    republish: float = parameter(3600.0, "time until it is stored again", least=60, unit="s")
    expire: float = parameter(86_400.0, "time until it expires", least=60, unit="s")

    def expected(self) -> dict[str, Expected]:
        lasts = self.expire > 1.6 * self.republish * self.k
        return {
            "stored at": exactly(self.k),
            "found, all first holders gone": exactly(True) if lasts else Expected(None, 0, 1, "either"),
            "gone when it expires": exactly(True),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.k, self.republish, self.expire, seed) for seed in seeds]
        told = spread_out(_days, jobs, tell)
        return {
            "stored at": fmean(stored for stored, _, _ in told),
            "found, all first holders gone": all(found for _, found, _ in told),
            "gone when it expires": all(gone for _, _, gone in told),
        }
