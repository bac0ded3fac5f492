"""k-buckets: the contacts of a Kademlia node, and which of them are kept when there are too many.

Maymounkov, Mazieres: "Kademlia: a peer-to-peer information system based on the XOR metric", IPTPS 2002,
sections 2.1, 2.2 and 4.1; BEP 5, "Routing Table".

The distance of two identifiers is their exclusive or, as a number.  A node has a bucket for each number of
leading bits that another identifier may share with its own: half of all nodes fit into the first bucket
(they share none), a quarter into the second, and so on, so that all but about log2 N buckets are empty.  (The
paper counts from the other end: contacts that share p of b bits are in its bucket i = b - 1 - p.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polyarch.blocks.overlay import Peer
from polyarch.core.randomness import Random

__all__ = ["Buckets", "converged", "few_of"]


PATIENCE = 5
"""A contact that fails to answer so often in a row is forgotten, even if nobody can take its place
(section 4.1)."""


class Buckets:
    """At most ``k`` contacts for each shared prefix, the one heard of least recently first.

    Who has been there long is likely to stay long: a contact that answers is never replaced by a newcomer.
    """

    __slots__ = (
        "_buckets", "_doubts", "_heard", "_spare", "bits", "changes", "id", "k", "questionable", "spares"
    )  # fmt: skip

    def __init__(self, id: int, bits: int, k: int, spares: int = 0, questionable: float = 0.0) -> None:
        """``spares``: newcomers that are remembered for each full bucket (section 4.1: its replacement
        cache); ``questionable``: seconds after which it is in doubt if a silent contact lives (BEP 5)."""
        self.id, self.bits, self.k = id, bits, k
        self.spares = spares
        self.questionable = questionable
        self.changes = 0
        """Counts contacts that came or went, or whom this node began or ceased to doubt."""
        self._buckets: list[list[Peer]] = []
        self._spare: dict[int, list[Peer]] = {}
        self._doubts: dict[int, int] = {}  # contacts that have not answered, and how often in a row
        self._heard: dict[int, float] = {}  # when, of contacts; only if ``questionable`` is given

    def prefix(self, id: int) -> int:
        """How many leading bits an identifier shares with this node's: the number of its bucket."""
        return self.bits - (self.id ^ id).bit_length()

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __iter__(self) -> Iterator[Peer]:
        for bucket in self._buckets:
            yield from bucket

    def __contains__(self, contact: Peer) -> bool:
        return contact in self[self.prefix(contact.id)]

    def __getitem__(self, prefix: int) -> Sequence[Peer]:
        """One bucket: who was heard of least recently first."""
        return self._buckets[prefix] if prefix < len(self._buckets) else ()

    @property
    def depth(self) -> int:
        """Buckets up to the last that is not empty, where the closest neighbour is."""
        return len(self._buckets)

    def fill(self, buckets: list[list[Peer]]) -> None:
        """Know these, bucket by bucket."""
        self._buckets = buckets

    # -- who is kept --------------------------------------------------------------------------------------

    def heard(self, contact: Peer, now: float = 0.0) -> Peer | None:
        """A message of ``contact`` has come, a request or an answer.  If it is a newcomer for whom there is
        no place: whom to ping, to see if there is one (section 2.2); with spares nobody is, as it is
        remembered instead."""
        prefix = self.prefix(contact.id)
        if prefix == self.bits:
            return None  # this node itself
        while prefix >= len(self._buckets):
            self._buckets.append([])
        bucket = self._buckets[prefix]
        if contact in bucket:
            if bucket[-1] is not contact:
                bucket.remove(contact)
                bucket.append(contact)
            if contact.id in self._doubts:
                self.changes += 1
                del self._doubts[contact.id]
        elif len(bucket) < self.k:
            self.changes += 1
            bucket.append(contact)
        elif bucket[0].id in self._doubts:
            self.changes += 1
            self._forget(bucket.pop(0))
            bucket.append(contact)
        elif self.spares:
            spare = self._spare.setdefault(prefix, [])
            if contact in spare:
                spare.remove(contact)
            elif len(spare) == self.spares:
                del spare[0]
            spare.append(contact)
            return None
        else:
            head = bucket[0]
            good = self.questionable and now - self._heard.get(head.id, -1e18) < self.questionable
            return None if good else head
        if self.questionable:
            self._heard[contact.id] = now
        return None

    def failed(self, contact: Peer, *, dead: bool) -> None:
        """``contact`` has not answered.  It gives its place to who was heard of last, if anybody waits for
        one.  Otherwise it is forgotten only if it is ``dead`` for sure or has failed again and again: it may
        be this node that is cut off (section 4.1).  Until then it is in doubt: not told to others, and the
        first to be replaced."""
        prefix = self.prefix(contact.id)
        bucket = self._buckets[prefix] if prefix < len(self._buckets) else []
        spare = self._spare.get(prefix)
        if spare and contact in spare:
            spare.remove(contact)
        if contact not in bucket:
            return
        self.changes += 1
        bucket.remove(contact)
        doubts = self._doubts.get(contact.id, 0) + 1
        if spare:
            self._forget(contact)
            bucket.append(spare.pop())
        elif dead or doubts >= PATIENCE:
            self._forget(contact)
            while self._buckets and not self._buckets[-1]:
                self._buckets.pop()
        else:
            self._doubts[contact.id] = doubts
            bucket.insert(0, contact)

    def _forget(self, contact: Peer) -> None:
        self._doubts.pop(contact.id, None)
        self._heard.pop(contact.id, None)

    def doubted(self) -> list[Peer]:
        """Contacts that did not answer when they were asked last."""
        return [c for c in self if c.id in self._doubts] if self._doubts else []

    # -- who is told --------------------------------------------------------------------------------------

    def closest(self, key: int, count: int) -> list[Peer]:
        """The ``count`` contacts closest to a key (all, if there are fewer), in no order.  Those in doubt
        are left out, unless all are."""
        # Contacts in the key's own bucket share one bit more with it than this node does: nobody is closer.
        # Next are all in the buckets behind it, which share as many as this node; then, one after another,
        # the buckets before it.
        prefix = self.prefix(key)
        found = self._certain(self[prefix])
        if len(found) < count:
            behind = [c for bucket in self._buckets[prefix + 1 :] for c in self._certain(bucket)]
            found = found + _nearest(behind, key, count - len(found))
            before = min(prefix, len(self._buckets)) - 1
            while len(found) < count and before >= 0:
                found = found + _nearest(self._certain(self._buckets[before]), key, count - len(found))
                before -= 1
            return found or _nearest(list(self), key, count)
        return _nearest(found, key, count)

    def _certain(self, bucket: Sequence[Peer]) -> list[Peer]:
        if not self._doubts:
            return list(bucket)
        return [c for c in bucket if c.id not in self._doubts]


def _nearest(contacts: list[Peer], key: int, count: int) -> list[Peer]:
    if len(contacts) <= count:
        return contacts
    return sorted(contacts, key=lambda c: c.id ^ key)[:count]


# -- buckets as they are in the end ----------------------------------------------------------------------


def converged(
    me: Peer, everybody: Sequence[Peer], bits: int, k: int, random: Random, different: bool = True
) -> list[list[Peer]]:
    """Buckets as full as they can be, each of contacts drawn from all that fit.  ``everybody``: all nodes,
    ``me`` too, in the order of their identifiers.  Not ``different``: where more than k fit, k independent
    draws, of which some may be the same contact."""
    buckets = []
    low, high = 0, len(everybody)  # those that share the first bits with ``me``: they stand side by side
    for prefix in range(bits):
        if high - low == 1:
            break
        # The first that has a 1 as the next bit.
        bit = 1 << (bits - 1 - prefix)
        middle = _first(everybody, (me.id & -2 * bit) | bit, low, high)
        first, last = (low, middle) if me.id & bit else (middle, high)
        fitting = last - first
        if different or fitting <= k:
            some = few_of(fitting, k, random)
        else:
            some = list(dict.fromkeys(random.below(fitting) for _ in range(k)))
        buckets.append([everybody[first + i] for i in some])
        low, high = (middle, high) if me.id & bit else (low, middle)
    return buckets


def few_of(n: int, k: int, random: Random) -> Sequence[int]:
    """``k`` different ones of the numbers below ``n``, in random order; all, if there are no more."""
    if n <= k:
        return range(n)
    # Two draws from each 64 bits: a network of 100,000 takes 25 million.  (The shares differ by n / 2^32.)
    drawn: dict[int, None] = {}
    while len(drawn) < k:
        word = random.bits64()
        drawn[(word >> 32) * n >> 32] = None
        drawn[(word & 0xFFFFFFFF) * n >> 32] = None
    return list(drawn)[:k]


def _first(everybody: Sequence[Peer], id: int, low: int, high: int) -> int:
    """The first from ``low`` to ``high`` whose identifier is ``id`` or more."""
    while low < high:
        middle = (low + high) // 2
        if everybody[middle].id < id:
            low = middle + 1
        else:
            high = middle
    return low
