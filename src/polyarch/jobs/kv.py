"""Keep values under keys, for clients that read and write at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from polyarch.blocks.popularity import Popularity
from polyarch.checkers.linearizability import KV, Call, check
from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.system import parameter

__all__ = ["KeyValue", "Kv", "Value", "calls_of"]

Value = str | int | None
"""What a key holds; None: nothing."""


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

    What is checked: the history of each key is linearizable.  No two writes write the same value, so that
    each value read tells which write it was.
    """

    port = KeyValue
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

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        outcome = check(calls_of(history), KV, budget=self.budget)
        # What could not be decided is not said to hold.
        return [Verdict("linearizable", outcome.holds is True, outcome.detail)]


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
