"""What algorithms of mutual exclusion have in common: a resource that tells if it is used by two at a time,
participants that use it, and a client that sends them there.

An algorithm is a ``Participant`` with two methods: ``acquire`` returns when it may go in, ``release`` is
called when it has come out.  One process asks for itself once at a time, as all these algorithms assume; if
its clients want more, they wait in line here.
"""

from __future__ import annotations

from typing import Any

from polyarch.core.errors import Failure, Timeout
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import Future, settle
from polyarch.jobs.mutex import CriticalSection, Turn, Usage

__all__ = ["ENTRIES", "Participant", "Resource", "SectionClient", "Waits", "figures"]

ENTRIES = {
    "messages_per_entry": "messages of the algorithm, those of the resource and of clients left out",
    "mean_wait_s": "seconds from asking to being in, in the line of the own process too",
    "longest_wait_s": "seconds",
    "entries": "stays in the critical section",
}
"""What ``figures`` measures."""


class Resource(Node):
    """What must not be used by two at a time.  It takes whoever comes, and is the witness."""

    timeout = 0.25

    async def start(self) -> None:
        self.user = ""
        self.entries = 0
        self.overlaps: list[str] = []

    @rpc
    async def begin(self, who: str) -> int:
        """Somebody is in the critical section: the how manyth."""
        self.entries += 1
        number, before, self.user = self.entries, self.user, who
        if before not in ("", who):
            try:
                inside = await self.at(before, Participant).is_inside()
            except Failure:
                inside = False  # it has died in there
            if inside:
                self.overlaps.append(f"entry {number}: {who} came in, and {before} was inside")
        return number

    @rpc
    async def end(self, who: str) -> None:
        """It is about to leave."""
        if self.user == who:
            self.user = ""

    @rpc
    async def seen(self) -> Usage:
        """What it has seen so far."""
        return Usage(self.entries, tuple(self.overlaps))


class Waits(Record):
    """How long a participant has waited."""

    entries: int
    total: float
    longest: float


class Participant(Node):
    """A process that wants to enter the critical section now and then."""

    resource: Resource

    timeout = 60.0

    async def start(self) -> None:
        self.wants = self.inside = False
        self.line: list[Future[None]] = []
        self.entries, self.waited, self.longest = 0, 0.0, 0.0

    async def acquire(self) -> None:
        """Returns when this process may go in."""
        raise NotImplementedError

    def release(self) -> None:
        """It has come out."""
        raise NotImplementedError

    @rpc
    async def enter(self, seconds: float) -> Turn:
        """Enter the critical section for so long."""
        asked = self.now
        if self.wants:  # one after another
            turn = self.future()
            self.line.append(turn)
            await turn
        self.wants = True
        try:
            await self.acquire()
            return await self.stay(seconds, self.now - asked)
        finally:
            if self.line:
                self.line.pop(0).set(None)
            else:
                self.wants = False

    async def stay(self, seconds: float, waited: float) -> Turn:
        """Be inside.  Without an answer from the resource, the work there may have been begun."""
        self.inside = True
        try:
            number = await self.resource.begin(self.address)
            if seconds:
                await self.sleep(seconds)
            await self.resource.end(self.address)
        except Failure as failure:
            self.inside = False
            self.release()
            raise Timeout(f"the resource: {failure}") from failure
        self.inside = False
        self.release()
        self.entries += 1
        self.waited += waited
        self.longest = max(self.longest, waited)
        return Turn(number, waited)

    @rpc
    async def is_inside(self) -> bool:
        """Whether it is in the critical section now."""
        return self.inside

    @rpc
    async def is_interested(self) -> bool:
        """Whether it is in the critical section, or wants to be."""
        return self.wants

    @rpc
    async def waits(self) -> Waits:
        """How long it has waited so far."""
        return Waits(self.entries, self.waited, self.longest)


class SectionClient(CriticalSection):
    """Asks the participants to enter."""

    participants: tuple[str, ...]
    resource: Resource

    @rpc
    async def enter(self, participant: int, seconds: float) -> Turn:
        address = self.participants[participant % len(self.participants)]
        return await self.at(address, Participant).enter(seconds)

    @rpc
    async def usage(self) -> Usage:
        last = await settle(*(self.at(a, Participant, timeout=10.0).enter(0.0) for a in self.participants))
        seen = await self.resource.seen()
        entered = all(isinstance(turn, Turn) for turn in last)
        return Usage(seen.entries, seen.overlaps, entered)


async def figures(x: Any, participants: tuple[str, ...], messages: tuple[str, ...]) -> dict[str, Any]:
    """``ENTRIES``, of all entries so far; ``messages``: the algorithm's own."""
    told = await settle(*(x.at(a, Participant).waits() for a in participants))
    waits = [w for w in told if isinstance(w, Waits)]
    entries = sum(w.entries for w in waits)
    found: dict[str, Any] = {"entries": entries}
    if entries:
        by_method = (await x.control.traffic()).by_method
        found["messages_per_entry"] = sum(by_method.get(name, 0) for name in messages) / entries
        found["mean_wait_s"] = sum(w.total for w in waits) / entries
        found["longest_wait_s"] = max(w.longest for w in waits)
    return found
