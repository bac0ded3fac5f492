"""Mutual exclusion with a coordinator, which lets one in after another.

Van Steen and Tanenbaum: "Distributed systems", 4th ed., section 5.3.2.

A process asks the coordinator and waits.  The coordinator answers (grants) when nobody is inside, else it
puts the process into its queue, and answers when its turn has come.  Who leaves says so.  Three messages an
entry: request, grant, release; two of them before the entry.

What a crash costs.  The coordinator is a single point of failure: while it is away nobody gets in.  It
keeps who is inside on its disk, so that nobody else is let in when it comes back; those that waited ask
again.  A process that dies inside would never leave: the coordinator looks now and then whether it still
wants to be in.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.critical_section import ENTRIES, Participant, Resource, SectionClient, figures
from polyarch.core import (
    Architecture,
    Failure,
    Future,
    Node,
    Record,
    System,
    Timeout,
    Verdict,
    oneway,
    parameter,
    rpc,
)
from polyarch.jobs.mutex import Mutex

# -- the coordinator ----------------------------------------------------------------------------------------


class Grant(Record, array_like=True):
    """Who is inside, and the how manyth stay it is; nobody: ``""``."""

    who: str
    number: int


class Coordinator(Node):
    """Lets one in at a time, first come, first served."""

    look_every: float = 1.0
    """Seconds between two looks at whether who is inside still lives."""
    remember: bool = True
    """Whether it keeps on disk who is inside."""

    async def start(self) -> None:
        self.inside = self.disk.get("inside", Grant, Grant("", 0))
        self.queue: dict[str, Future[None]] = {}  # who waits, in order
        self.every(self.look_every, self.look)

    @rpc(timeout=1.0)
    async def request(self, who: str) -> int:
        """Asks to go in; the answer grants it, and numbers the stay."""
        if who != self.inside.who:  # or else the grant was lost on its way
            granted = self.queue.setdefault(who, self.future())  # who asks again keeps its place
            self.admit()
            await granted
        stay = self.inside.number
        if self.remember:
            await self.disk.sync()
        return stay

    @oneway
    def release(self, who: str, stay: int) -> None:
        """Has come out."""
        if self.inside == Grant(who, stay):
            self.let_in("")
            self.admit()

    def admit(self) -> None:
        """Let the first of the queue in, if nobody is inside."""
        if not self.inside.who and self.queue:
            first = next(iter(self.queue))
            self.let_in(first)
            self.queue.pop(first).set(None)

    def let_in(self, who: str) -> None:
        self.inside = Grant(who, self.inside.number + 1)
        if self.remember:
            self.disk.put("inside", self.inside)

    async def look(self) -> None:
        """Who has died inside, or has given up, is out."""
        grant = self.inside
        if grant.who:
            try:
                interested = await self.at(grant.who, Participant, timeout=self.look_every).is_interested()
            except Failure as failure:
                interested = not failure.definite  # a process that cannot be reached may be inside
            if not interested:
                self.release(grant.who, grant.number)


PATIENCE = 30.0
"""Seconds after which a process gives up."""

# -- the others ---------------------------------------------------------------------------------------------


class Member(Participant):
    """A process that asks the coordinator."""

    coordinator: str
    """Its address."""

    async def acquire(self) -> None:
        give_up = self.now + PATIENCE
        while True:
            try:
                self.granted = await self.at(self.coordinator, Coordinator).request(self.address)
                return
            except Failure as failure:  # ask again: it does no harm
                if self.now > give_up:
                    raise Timeout(f"not let in: {failure}") from failure
                await self.sleep(0.05)

    def release(self) -> None:
        self.at(self.coordinator, Coordinator).release(self.address, self.granted)


class CentralMutex(Architecture):
    """A coordinator lets one process after another into the critical section."""

    family = "agreement"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 5.3.2"
    jobs = (Mutex,)
    claims = ("3 messages per entry", "first come, first served")
    metrics = ENTRIES

    nodes: int = parameter(5, "processes that want to enter", least=1)
    look_every: float = parameter(1.0, "time between looks for who has died inside", least=0.01, unit="s")

    def build(self, system: System) -> None:
        resource = Resource()
        coordinator = Coordinator(look_every=self.look_every)
        system.role("coordinator", coordinator)
        (address,) = system.addresses(coordinator)
        system.role("member", Member(coordinator=address, resource=resource), count=self.nodes)
        system.role("resource", resource)
        system.clients(SectionClient(participants=system.addresses("member"), resource=resource))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        members = tuple(f"member-{i}" for i in range(self.nodes))
        return await figures(x, members, ("request", "release")), []
