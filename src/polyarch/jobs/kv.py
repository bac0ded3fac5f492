"""Keep values under keys, for clients that read and write at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from polyarch.blocks.popularity import Popularity
from polyarch.checkers.linearizability import KV, Call, check, explain
from polyarch.checkers.staleness import lost_writes, stale_reads
from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.system import parameter
from polyarch.core.tasks import gather

__all__ = ["FRESH", "LINEARIZABLE", "NOTHING_LOST", "KeyValue", "Kv", "Value", "calls_of"]

LINEARIZABLE = "linearizable"
FRESH = "no read is stale"
NOTHING_LOST = "no acknowledged write is lost"

Value = str | int | None
"""What a key holds; None: nothing."""

_AUDITED = 1000  # keys that are looked at in the end


class KeyValue(Node):
    """The port of a key-value store."""

    timeout = 10.0

    @rpc
    async def get(self, key: str) -> Value:
        """The value of a key; None if it has none."""
        raise NotImplementedError

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        """Set the value of a key."""
        raise NotImplementedError

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        """Set the value of a key if it is ``expected`` now (None: if it has none); whether it was."""
        raise NotImplementedError


class Kv(Job):
    """Keep values under keys: get, put, compare and set.

    What is checked: the history of each key is linearizable, what the keys hold in the end included.  No two
    writes write the same value, so that each value read tells which write it was.  If it is not linearizable
    (which not every architecture promises), then at least: did no read miss a write that had been answered
    before, and is every such write there in the end, unless it was overwritten?
    """

    port = KeyValue
    measures = (
        Measure("lost_keys", "{} keys have lost a write that was acknowledged", better="low"),
        Measure("stale_reads", "{} reads were stale", better="low"),
        Measure("copies", "{} copies of each key", better="high"),
        Measure("hops", "over {} hops", better="low"),
        Measure("timeouts", "{} dead peers met on the way", better="low"),
        Measure("upkeep", "each sends {} messages/s when nobody asks", "messages/s", "low"),
        Measure("imbalance", "the busiest handles {} times the mean", better="low"),
    )
    small = {"keys": 3, "swaps": 0.2}
    keys: int = parameter(100, "different keys", least=1)
    skew: float = parameter(0.0, "Zipf exponent of their popularity; 0: uniform", least=0, most=4)
    reads: float = parameter(0.5, "share of operations that read", least=0, most=1)
    swaps: float = parameter(0.1, "share of the writes that compare and set", least=0, most=1)
    budget: int = parameter(3_000_000, "steps of the search for an order", least=1)

    def visits(self, random: Random) -> Iterator[Visit]:
        popularity = Popularity(self.keys, self.skew)
        latest: dict[str, int] = {}
        written = 0
        while True:
            key = f"key-{popularity.draw(random)}"
            if random.chance(self.reads):
                yield (Operation("get", (key,)),)
                continue
            written += 1
            if random.chance(self.swaps):
                yield (Operation("compare_and_set", (key, latest.get(key), written)),)
            else:
                yield (Operation("put", (key, written)),)
            latest[key] = written

    async def audit(self, client: Any) -> dict[str, Value]:
        """What the keys hold in the end."""
        keys = [f"key-{i}" for i in range(min(self.keys, _AUDITED))]
        final: dict[str, Value] = {}
        for i in range(0, len(keys), 50):
            some = keys[i : i + 50]
            final.update(zip(some, await gather(*map(client.get, some))))
        return final

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        calls, final = calls_of(history), audit or {}
        outcome = check([*calls, *_looks(history, final)], KV, budget=self.budget)
        # What could not be decided is not said to hold.
        verdicts = [Verdict(LINEARIZABLE, outcome.holds is True, outcome.detail, outcome.holds is None)]
        if outcome.holds is not True:
            stale, reads = stale_reads(calls), sum(call.name == "get" for call in calls)
            first = f"; first: {stale[0]}" if stale else ""
            verdicts.append(Verdict(FRESH, not stale, f"{len(stale)} of {reads} reads are stale{first}"))
            lost = lost_writes(calls, final)
            first = f"; first: {lost[0]} holds {final[lost[0]]!r}" if lost else ""
            verdicts.append(Verdict(NOTHING_LOST, not lost, f"{len(lost)} of {len(final)} keys{first}"))
        return verdicts

    def figures(self, history: Sequence[Done], audit: Any) -> dict[str, Any]:
        """How many keys do not hold their last acknowledged write in the end (nor a later one), and how many
        reads gave a value that had been overwritten before they began."""
        calls = calls_of(history)
        return {"lost_keys": len(lost_writes(calls, audit or {})), "stale_reads": len(stale_reads(calls))}

    def conflict(self, history: Sequence[Done], audit: Any) -> Sequence[Done]:
        looks = _looks(history, audit or {})
        calls = [*calls_of(history), *looks]
        outcome = check(calls, KV, budget=self.budget)
        if outcome.holds is not False:
            return ()
        chosen = {(c.client, c.start, c.key) for c in explain(calls, KV, outcome)}
        seen = [Done(-1, "get", (c.key,), c.start, c.start, c.end, "ok", c.result) for c in looks]
        return [d for d in (*history, *seen) if (d.client, d.start, d.arguments[0]) in chosen]


def _looks(history: Sequence[Done], final: dict[str, Value]) -> list[Call]:
    """What the keys held in the end, as reads of client -1 after all others."""
    over = max((done.end for done in history), default=0.0) + 1.0
    return [Call("get", (), over, over + 1.0, value, key, -1) for key, value in final.items()]


def calls_of(history: Sequence[Done]) -> list[Call]:
    """The operations of a history as the checker wants them.  Refused ones did not happen; those that
    timed out may have, at any time since."""
    return [
        Call(
            done.name,
            done.arguments[1:],
            done.start,
            done.end if done.outcome == "ok" else math.inf,
            done.value,
            done.arguments[0],
            done.client,
        )
        for done in history
        if done.outcome != "fail"
    ]
