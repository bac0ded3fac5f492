"""Which server gets the next request: the policies of switches, each a small class without I/O.

A ``Balancer`` knows its members and picks one of those that are usable at the moment: by what it has done
so far (in turn, by weight), by how many requests each has under way (the shortest queue, one of few drawn),
or by the request's *key* (hashing, so that requests of one key meet at one server).  A switch, of either
layer, counts what is under way and asks.

What is the problem with this?  ``random`` and the hashing policies know no load: each server is a queue of
its own, as slow as an M/M/1 queue.  ``round_robin`` evens out arrivals but not what they take.  Least
connections and JSQ need a count of every server, exact only where one switch sees all requests; with several
switches all see the same server idle at the same moment.  Two choices need two counts and come close.
"""

from __future__ import annotations

import abc
import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal

from polyarch.core.randomness import Random

__all__ = [
    "WEIGHTED", "Balancer", "BoundedHash", "Choices", "LeastConnections", "Maglev", "PolicyName",
    "RandomChoice", "Rendezvous", "RoundRobin", "ShortestQueue", "WeightedRoundRobin", "balancer",
    "maglev_size",
]  # fmt: skip

PolicyName = Literal[
    "random", "round_robin", "weighted", "least_connections", "two_choices", "join_shortest_queue",
    "consistent_hash", "rendezvous", "maglev",
]  # fmt: skip
"""Which server gets a request: any; the next; the next by weight, smoothly; the one with the fewest requests
under way for its weight; the less busy of two drawn at random; the one with the fewest requests; the one that
the request's key belongs to, by one of three ways of hashing."""

WEIGHTED = ("weighted", "least_connections", "consistent_hash", "rendezvous")
"""The policies that look at weights."""

_MASK = (1 << 64) - 1


class Balancer(abc.ABC):
    """Chooses among backends.  ``weights``: by address, 1 unless given; few policies have a use for them."""

    keyed = False
    """Whether it looks at keys: then computing them is worth it."""

    def __init__(self, random: Random, weights: Mapping[str, float] | None = None) -> None:
        self.random = random
        self.weights: dict[str, float] = dict(weights or {})
        self.backends: tuple[str, ...] = ()
        for backend, weight in self.weights.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"{backend} has a weight of {weight:g}; a positive number is needed")

    def members(self, backends: Sequence[str]) -> None:
        """From now on these are all backends: some have joined or left."""
        self.backends = tuple(backends)

    @abc.abstractmethod
    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        """One of the ``usable`` members (at least one, in order); ``load``: what each has under way."""


class RandomChoice(Balancer):
    """Any, each with the same probability."""

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        return usable[self.random.below(len(usable))]


class RoundRobin(Balancer):
    """One after the other."""

    turn = 0
    detour = 0
    """The turn among those that are left where some are ill, full, or were tried for this request."""

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        if len(usable) == len(self.backends):
            self.turn += 1
            return usable[self.turn % len(usable)]
        # Else two servers, one of which refuses, would give that one the first try of every request.
        self.detour += 1
        return usable[self.detour % len(usable)]


class WeightedRoundRobin(Balancer):
    """In turn, by weight, and smoothly: 5, 1, 1 gives a a b a c a a, not a a a a a b c (nginx 1.3.1, 2012).

    Each turn every backend gains its weight, the richest is chosen, and pays the weights of all."""

    def members(self, backends: Sequence[str]) -> None:
        super().members(backends)
        known: dict[str, float] = getattr(self, "credit", {})
        self.credit = {b: known.get(b, 0.0) for b in backends}

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        credit, total = self.credit, 0.0
        best = usable[0]
        for backend in usable:
            weight = self.weights.get(backend, 1.0)
            total += weight
            credit[backend] += weight
            if credit[backend] > credit[best]:
                best = backend
        credit[best] -= total
        return best


class ShortestQueue(Balancer):
    """Join the shortest queue: the fewest requests under way; ties are broken at random (in order, the first
    would get all there is at low load).

    What this switch has sent and not got back is a server's queue if all its requests come this way."""

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        least = min(map(load.__getitem__, usable))
        shortest = [b for b in usable if load[b] == least]
        return shortest[self.random.below(len(shortest))] if len(shortest) > 1 else shortest[0]


class LeastConnections(ShortestQueue):
    """The fewest requests (or connections) under way for its weight: JSQ where all weights are the same."""

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        if not self.weights:
            return super().pick(usable, load, key)
        # As if it had this request already: else weights would not matter to those that are idle.
        ratio = {b: (load[b] + 1) / self.weights.get(b, 1.0) for b in usable}
        least = min(ratio.values())
        shortest = [b for b in usable if ratio[b] == least]
        return shortest[self.random.below(len(shortest))]


class Choices(Balancer):
    """The less busy of ``d`` drawn at random: the supermarket model (Mitzenmacher, "The power of two choices
    in randomized load balancing", IEEE TPDS 12(10), 2001; Vvedenskaya, Dobrushin and Karpelevich, 1996)."""

    d = 2

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        if self.d >= len(usable):
            drawn = self.random.sample(usable, len(usable))  # in random order, for ties
        else:
            drawn = self.random.sample(usable, self.d)
        return min(drawn, key=load.__getitem__)


# -- by the request's key ---------------------------------------------------------------------------------


def hash64(text: str) -> int:
    """64 bits that look random, the same everywhere."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )


class BoundedHash(Balancer):
    """Consistent hashing on a ring, with bounded loads (Karger et al. 1997; Mirrokni, Thorup and
    Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018).

    A key belongs to the first backend clockwise from it; one that has ``bound`` times the mean load (for its
    weight) under way is passed over.  ``bound`` infinite: plain consistent hashing."""

    keyed = True
    places = 100
    """On the ring, of a backend of weight 1."""
    bound = 1.25

    def members(self, backends: Sequence[str]) -> None:
        super().members(backends)
        marks = sorted(
            (hash64(f"{backend}#{i}"), backend)
            for backend in backends
            for i in range(max(1, round(self.places * self.weights.get(backend, 1.0))))
        )
        self.marks = [place for place, _ in marks]
        self.owners = [owner for _, owner in marks]

    def at(self, place: int, usable: Sequence[str]) -> str:
        """The first usable backend clockwise from a place on the ring of 2^64."""
        return self._walk(place, frozenset(usable) if len(usable) < len(self.backends) else None)

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        if math.isinf(self.bound):
            return self.at(hash64(key), usable)
        # Section 2: capacities of ceil(c m / n), m counting the request that is to be placed.
        most = self.bound * (sum(map(load.__getitem__, usable)) + 1)
        if self.weights:  # each by its weight: its share of the ring is so too
            weights = {b: self.weights.get(b, 1.0) for b in usable}
            each = most / sum(weights.values())
            room = frozenset(b for b in usable if load[b] < math.ceil(each * weights[b]))
        else:
            capacity = math.ceil(most / len(usable))
            room = frozenset(b for b in usable if load[b] < capacity)
        return self._walk(hash64(key), room if len(room) < len(self.backends) else None)

    def _walk(self, place: int, fit: frozenset[str] | None) -> str:
        """Clockwise to the first of these; None: of all."""
        owners = self.owners
        count = len(owners)
        at = bisect_left(self.marks, place) % count
        if fit is not None:
            while owners[at] not in fit:
                at = (at + 1) % count
        return owners[at]


class Rendezvous(Balancer):
    """Highest random weight (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998): key and backend together are
    hashed, and the backend with the highest value has the key.  O(n) for each pick, no table."""

    keyed = True

    def members(self, backends: Sequence[str]) -> None:
        super().members(backends)
        self.seeds = {backend: hash64(backend) for backend in backends}

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        place, seeds = hash64(key), self.seeds
        if self.weights:
            return max(usable, key=lambda b: self._weighted(b, place))
        best, highest = usable[0], -1
        for (
            backend
        ) in usable:  # the finalizer of MurmurHash3 over both, written out: it is all that this costs
            z = seeds[backend] ^ place
            z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
            z = ((z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
            z ^= z >> 33
            if z > highest:
                best, highest = backend, z
        return best

    def _weighted(self, backend: str, place: int) -> float:
        """-w / ln(u), u uniform: the share of a backend is its share of all weights (Schindelhauer and
        Schomaker, 2005)."""
        z = self.seeds[backend] ^ place
        z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
        z = ((z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
        uniform = ((z ^ (z >> 33)) + 0.5) / 2.0**64
        return -self.weights.get(backend, 1.0) / math.log(uniform) if uniform < 1 else math.inf


class Maglev(Balancer):
    """A lookup table in which every backend has the same number of entries, give or take one (Eisenbud et
    al., "Maglev: a fast and reliable software network load balancer", NSDI 2016, section 3.4).

    A change of the members disturbs a few entries of others; a backend that is only unusable at the moment
    leaves its entries to whoever is next in the table."""

    keyed = True
    size = 0
    """Entries, a prime number; 0: 100 for each backend, as the paper wants at least (section 5.3)."""

    def members(self, backends: Sequence[str]) -> None:
        super().members(backends)
        size = self.size or maglev_size(100 * len(backends))
        if not is_prime(size):
            raise ValueError(
                f"a table of {size} entries; Maglev needs a prime number, such as {maglev_size(size)}"
            )
        if size < len(backends):
            raise ValueError(f"a table of {size} entries is too small for {len(backends)} backends")
        self.table = _populated(backends, size) if backends else []

    def pick(self, usable: Sequence[str], load: Mapping[str, int], key: str) -> str:
        return self.at(hash64(key), usable)

    def at(self, place: int, usable: Sequence[str]) -> str:
        """Who has the entry of a hash, or the next one whose backend is usable."""
        table, backends = self.table, self.backends
        entry = place % len(table)
        if len(usable) < len(backends):
            fit = frozenset(usable)
            while backends[table[entry]] not in fit:
                entry = (entry + 1) % len(table)
        return backends[table[entry]]


def _populated(backends: Sequence[str], size: int) -> list[int]:
    """Pseudocode 1 of the paper: backends take turns, each takes the next entry of its own permutation of
    all entries that nobody has yet."""
    at = [hash64(f"offset {b}") % size for b in backends]
    skip = [hash64(f"skip {b}") % (size - 1) + 1 for b in backends]
    table = [-1] * size
    filled = 0
    while True:
        for i, step in enumerate(skip):
            entry = at[i]
            while table[entry] >= 0:
                entry = (entry + step) % size
            table[entry] = i
            at[i] = (entry + step) % size
            filled += 1
            if filled == size:
                return table


def is_prime(n: int) -> bool:
    """By trial division: tables are small."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def maglev_size(least: int) -> int:
    """The smallest prime number from ``least`` on."""
    while not is_prime(least):
        least += 1
    return least


_KINDS: dict[str, type[Balancer]] = {
    "random": RandomChoice,
    "round_robin": RoundRobin,
    "weighted": WeightedRoundRobin,
    "least_connections": LeastConnections,
    "two_choices": Choices,
    "join_shortest_queue": ShortestQueue,
    "consistent_hash": BoundedHash,
    "rendezvous": Rendezvous,
    "maglev": Maglev,
}


def balancer(
    policy: PolicyName, random: Random, weights: Mapping[str, float] | None = None, *, choices: int = 2,
    bound: float = 1.25,
) -> Balancer:  # fmt: skip
    """The balancer of a policy.  ``choices``: how many ``two_choices`` draws; ``bound``: of loads, times the
    mean, of ``consistent_hash``."""
    made = _KINDS[policy](random, weights)
    if isinstance(made, Choices):
        if choices < 1:
            raise ValueError(f"{choices} choices; at least 1 is needed")
        made.d = choices
    if isinstance(made, BoundedHash):
        if not bound > 1:
            raise ValueError(f"a bound of {bound:g} times the mean load; it must be more than 1")
        made.bound = bound
    return made
