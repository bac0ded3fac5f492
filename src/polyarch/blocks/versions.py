"""Versions of a value that several servers may change at the same time: which one is newer?

A *version vector* (Parker et al., "Detection of mutual inconsistency in distributed systems", 1983) counts,
for each server that has ever coordinated a write, its writes that this version includes.  One version
descends from another if it includes all of its writes; two of which neither does are *siblings*: they were
written without knowledge of each other.

*Last writer wins* instead keeps the version with the latest time, and forgets the other.  It needs no
vectors; but whether that one was written later depends on the clocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from polyarch.core.records import Record
from polyarch.jobs.kv import Value

__all__ = ["Policy", "Vector", "Version", "advance", "descends", "join", "newest", "reconcile"]

Policy = Literal["vectors", "last-writer-wins"]

Vector = tuple[tuple[str, int], ...]
"""(server, count) in the order of the servers; servers that have written nothing are not there."""


class Version(Record, array_like=True):
    """A value and when it was written: by a clock, and in the order of causes."""

    value: Value
    time: int
    """Nanoseconds, by the clock of the server that coordinated the write."""
    writer: str
    vector: Vector


def descends(a: Vector, b: Vector) -> bool:
    """Whether ``a`` includes everything that ``b`` does."""
    counts = dict(a)
    return all(counts.get(server, 0) >= count for server, count in b)


def join(*vectors: Vector) -> Vector:
    """The smallest vector that includes them all."""
    counts: dict[str, int] = {}
    for vector in vectors:
        for server, count in vector:
            counts[server] = max(count, counts.get(server, 0))
    return tuple(sorted(counts.items()))


def advance(vector: Vector, server: str, count: int) -> Vector:
    """The vector with a write of ``server``, its ``count``-th, added."""
    return join(vector, ((server, count),))


def newest(versions: Iterable[Version]) -> Version | None:
    """The one with the latest time; among equal times that of the last writer in the order of names."""
    return max(versions, key=lambda v: (v.time, v.writer), default=None)


def reconcile(versions: Iterable[Version], policy: Policy) -> tuple[Version, ...]:
    """What is to be kept of these, in an order that does not depend on theirs: siblings, or the last one."""
    different = list(dict.fromkeys(versions))
    if policy == "last-writer-wins":
        last = newest(different)
        return () if last is None else (last,)
    kept = [
        v for v in different
        if not any(descends(other.vector, v.vector) for other in different if other.vector != v.vector)
    ]  # fmt: skip
    return tuple(sorted(kept, key=lambda v: (v.time, v.writer)))
