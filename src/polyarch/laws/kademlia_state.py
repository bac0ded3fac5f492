"""Laws of Kademlia's state: what is in buckets and who stays there, the parameters of the paper and of BEP 5,
how long tokens are good and pairs last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from polyarch.architectures.kademlia import MAINLINE, Kademlia, KademliaClient, KademliaNetwork
from polyarch.blocks.overlay import Peer
from polyarch.blocks.ring import identifier
from polyarch.core import Failure, System, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, exactly, spread_out, within
from polyarch.laws.kademlia import BITS, PAPER, Peers
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

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
            "non-empty buckets": within(buckets, min(1.0, 0.1 + 4 / math.sqrt(self.n))),
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


# -- parameters, tokens and pairs (KA-04, KA-B) ------------------------------------------------------------


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

    id = "KA-B"
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
