"""A distributed hash table: values under keys, on the peers of any structured overlay.

A key has a *place* among the identifiers (``identifier(key, bits)``), and the overlay says which peer is
*responsible* for a place.  That peer decides: it puts the reads and writes of a key in one order, and
answers a write when the key's other *holders*, the ``replicas - 1`` peers nearest to the place, have a copy
(DHash: Dabek et al., "Wide-area cooperative storage with CFS", SOSP 2001, section 5.1; PAST: Rowstron and
Druschel, SOSP 2001, section 3).  Values are in memory: what survives a crash is on the other holders.

**What is the problem with this?**  While membership is stable there is one decider for each key, and the
store is linearizable.  When peers crash, all holders of a key may be among them, and the key is lost; and
who is only slow or cut off is taken for dead, so that two may decide at once.  There are no range queries:
hashing scatters neighbouring keys, so that each key of a range is a lookup of its own.

**How an overlay offers it.**  Its peer is a ``StoringPeer`` (``blocks/storing.py``, which says what happens
when peers come and go), its client a ``DhtClient`` with the overlay's ``ask``.  The architecture offers
``jobs = (Lookup, Kv)``, has a parameter ``replicas`` (give it to peers and client), the metrics
``{**TALLY, **DHT}``, adds ``await x.client.stored()`` to them in ``observe``, says ``DISCLAIMED`` in
``disclaims_under(faults)``, and ``too_many_copies(…)`` in ``unfit(job)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from polyarch.blocks.once import growing
from polyarch.blocks.overlay import OverlayClient
from polyarch.blocks.ring import identifier
from polyarch.blocks.storing import StoringPeer, Version
from polyarch.core.errors import Failure, Refused, Timeout
from polyarch.core.messages import rpc
from polyarch.core.tasks import settle
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST, KeyValue, Kv, Value

__all__ = ["DHT", "DISCLAIMED", "DhtClient", "too_many_copies"]

T = TypeVar("T")

DHT = {
    "keys": "keys of which some peer holds a value (only if any is)",
    "copies": "mean peers that hold a key",
    "short": "keys that fewer peers hold than should, if there are so many",
}
"""What ``DhtClient.stored`` measures."""

DISCLAIMED = (LINEARIZABLE, FRESH, NOTHING_LOST)
"""What is not promised while peers crash, or seem to."""


class DhtClient(OverlayClient, KeyValue):
    """Finds the responsible peer of a key, and asks it."""

    replicas: int = 3
    patience: float = 5.0
    """Seconds after which it gives up."""

    @rpc
    async def get(self, key: str) -> Value:
        return await self.decided(key, lambda peer: peer.read(key), again=True)

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        ticket = self.random.below(1 << 62)
        await self.decided(key, lambda peer: peer.write(key, value, ticket), again=False)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        ticket = self.random.below(1 << 62)
        return await self.decided(key, lambda peer: peer.swap(key, expected, value, ticket), again=False)

    async def decided(self, key: str, ask: Callable[[StoringPeer], Awaitable[T]], *, again: bool) -> T:
        """What the responsible peer answers.  What was refused may always be asked again; what got no answer
        only if ``again``: a write must not come back after others."""
        place, give_up, pauses = identifier(key, self.bits), self.now + self.patience, growing(most=0.25)
        while True:
            refusal: Failure
            try:
                holder = await self.lookup(place)
            except Failure as failure:
                refusal = failure if failure.definite else Refused(f"{key} was not found: {failure}")
            else:
                try:
                    return await ask(self.at(holder.address, StoringPeer))
                except Refused as failure:
                    refusal = failure
                except Timeout as failure:
                    if not again:
                        raise
                    refusal = failure
            if self.now > give_up:
                raise refusal
            await self.sleep(next(pauses))

    @rpc(timeout=120.0)
    async def stored(self) -> dict[str, float]:
        """``DHT``, now; nothing if nothing is stored."""
        held: dict[str, list[Version]] = {}
        peers = 0
        for holdings in await self.everybody(self.addresses):
            peers += 1
            for key, version in holdings.items():
                held.setdefault(key, []).append(version)
        if not held:
            return {}
        newest = [versions.count(max(versions)) for versions in held.values()]
        due = min(self.replicas, peers)
        short = sum(count < due for count in newest)
        return {"keys": len(held), "copies": sum(newest) / len(held), "short": short}

    async def everybody(self, addresses: Iterable[str]) -> list[dict[str, Version]]:
        """What each peer that lives holds."""
        asked = list(addresses)
        holdings: list[dict[str, Version]] = []
        for at in range(0, len(asked), 256):
            page = asked[at : at + 256]
            told = await settle(*(self.at(a, StoringPeer).holdings() for a in page))
            holdings += [t for t in told if isinstance(t, dict)]
        return holdings


def too_many_copies(job: type, replicas: int, most: int, limit: str) -> str | None:
    """Why an overlay whose peers know for sure the ``most - 1`` others nearest to a place (``limit`` is the
    option that says so) cannot keep values so many times; None if it can, or the job stores nothing."""
    if not issubclass(job, Kv) or replicas <= most:
        return None
    return f"--replicas {replicas}: with {limit} a peer knows who is to hold {most} copies, not more"
