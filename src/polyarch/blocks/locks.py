"""Locks of transactions on named things: shared to read, exclusive to write.

Transactions that wait for each other in a circle would wait for ever.  *Wait-die* lets no circle begin: a
transaction waits only for younger ones; one that would have to wait for an older one dies, and is tried again
with the age of its first attempt, so that it becomes the oldest in the end (Rosenkrantz, Stearns and Lewis:
"System level concurrency control for distributed database systems", 1978, section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from polyarch.core.errors import Refused
from polyarch.core.tasks import Future

__all__ = ["Died", "Locks"]


class Died(Refused, code="died"):
    """The transaction gives way to an older one, or was ended while it waited."""


@dataclasses.dataclass
class _Request:
    transaction: int
    age: int
    exclusive: bool
    granted: Future[Any] | None = None

    def conflicts(self, other: _Request) -> bool:
        return self.transaction != other.transaction and (self.exclusive or other.exclusive)


class Locks:
    """The locks of one node.  ``node.future`` makes what a transaction waits for."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.holders: dict[str, list[_Request]] = {}
        self.waiting: dict[str, list[_Request]] = {}

    async def acquire(self, transaction: int, age: int, name: str, *, exclusive: bool) -> None:
        """Wait for the lock, or die.  A smaller age is older."""
        request = _Request(transaction, age, exclusive)
        before = [*self.holders.get(name, ()), *self.waiting.get(name, ())]
        rivals = [other for other in before if request.conflicts(other)]
        if not rivals:
            self.holders.setdefault(name, []).append(request)
            return
        if any(other.age <= age for other in rivals):
            raise Died(f"{name} is locked by an older transaction")
        request.granted = self.node.future()
        self.waiting.setdefault(name, []).append(request)
        await request.granted

    def hold(self, transaction: int, age: int, names: Iterable[str]) -> None:
        """Locks that were held before a crash: nobody else can have them."""
        for name in names:
            self.holders.setdefault(name, []).append(_Request(transaction, age, True))

    def release(self, transaction: int) -> None:
        """The transaction is over: all that it holds is free, all that it waits for will not come."""
        for name in [n for n in {**self.holders, **self.waiting} if self._involved(n, transaction)]:
            queue = self.waiting.get(name, [])
            for request in queue:
                if request.transaction == transaction and request.granted is not None:
                    request.granted.fail(Died("the transaction was ended"))
            queue = [r for r in queue if r.transaction != transaction]
            held = [r for r in self.holders.get(name, ()) if r.transaction != transaction]
            while queue and not any(queue[0].conflicts(holder) for holder in held):
                request = queue.pop(0)
                held.append(request)
                assert request.granted is not None
                request.granted.set(None)
            for table, left in ((self.holders, held), (self.waiting, queue)):
                if left:
                    table[name] = left
                else:
                    table.pop(name, None)

    def _involved(self, name: str, transaction: int) -> bool:
        requests = (*self.holders.get(name, ()), *self.waiting.get(name, ()))
        return any(r.transaction == transaction for r in requests)

    def __len__(self) -> int:
        """How many things are locked."""
        return len(self.holders)
