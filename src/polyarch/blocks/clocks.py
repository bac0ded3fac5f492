"""Logical clocks: order without a clock that all share.

An event *happened before* another one if it could have influenced it: it came earlier in the same process, or
a message leads from it to the other, or both in steps (Lamport, "Time, clocks, and the ordering of events in
a distributed system", CACM 21(7), 1978).  Two events of which neither happened before the other are
*concurrent*.

* ``LamportClock``: a number.  What happened before has a smaller one; the converse does not hold.
* ``VectorClock``: a number for each process (Fidge, "Timestamps in message-passing systems that preserve the
  partial ordering", 1988; Mattern, "Virtual time and global states of distributed systems", 1989).  An event
  happened before another one if *and only if* its vector is smaller.
"""

from __future__ import annotations

__all__ = ["LamportClock", "VectorClock", "before"]


class LamportClock:
    """Rules IR1 and IR2 of the paper."""

    def __init__(self, time: int = 0) -> None:
        self.time = time

    def tick(self) -> int:
        """Something happens here (IR1): its time."""
        self.time += 1
        return self.time

    def receive(self, time: int) -> int:
        """A message with this time arrives (IR2): the time of its arrival."""
        self.time = max(self.time, time) + 1
        return self.time


class VectorClock:
    """What a process knows of how much has happened in each one."""

    def __init__(self, size: int, own: int, time: tuple[int, ...] = ()) -> None:
        """The clock of process number ``own`` of ``size``."""
        self.own = own
        self.time = list(time) or [0] * size

    def tick(self) -> tuple[int, ...]:
        """Something happens here: its time."""
        self.time[self.own] += 1
        return tuple(self.time)

    def receive(self, time: tuple[int, ...]) -> tuple[int, ...]:
        """A message with this time arrives: the time of its arrival."""
        self.time = [max(mine, theirs) for mine, theirs in zip(self.time, time, strict=True)]
        return self.tick()


def before(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether one vector is smaller than another: nowhere greater, and not the same."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
