"""Mutual exclusion by a token that goes round a ring: who has it may enter.

Le Lann: "Distributed systems: towards a formal approach", IFIP 1977; van Steen and Tanenbaum: "Distributed
systems", 4th ed., section 5.3.4.

The processes form a ring.  The token goes from each one to the next.  Who receives it and wants to enter
does so, once, and passes it on when it has come out; who does not passes it on at once.  An entry costs
between one message (everybody wants to enter) and any number (nobody does, and the token goes round); one
waits for at most the n-1 others.

What a crash costs.  A dead process is no successor: the token is passed to the one behind it.  A process
that dies with the token takes it along.  Then the *monitor*, the first process, misses it for
``lost_after`` seconds and makes a new one with a higher number; older ones are dropped where they come.
That is a guess: a stay longer than that, or a partition, lets two in (with ``lost_after`` 0 there is no new
token, and no second one).
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.critical_section import ENTRIES, Participant, Resource, SectionClient, figures
from polyarch.core import (
    Architecture,
    Broken,
    Failure,
    Record,
    System,
    Unreachable,
    Verdict,
    parameter,
    rpc,
)
from polyarch.jobs.mutex import Mutex


class Token(Record, array_like=True, order=True):
    """The right to enter."""

    number: int
    """Of the token: a newer one has a higher number."""
    hops: int
    """How often it has been passed on: of one that comes twice, the second does not count."""


class Station(Participant):
    """One process on the ring."""

    ring: tuple[str, ...]
    """All of them, in order."""
    rest: float = 0.001
    """Seconds that a station which does not want to enter keeps the token: or an idle ring would be busy."""
    lost_after: float = 2.0
    """Seconds without a token after which the monitor makes a new one; 0: never."""
    drop_old: bool = True
    """Whether a token that has been here, or an older one, is dropped."""

    async def start(self) -> None:
        await super().start()
        self.token: Token | None = None  # if it is here
        self.latest = Token(self.disk.get("latest", int, 0), 0)  # the newest seen
        self.waiting = self.future()
        self.asked = False
        self.seen = self.now
        if self.address == self.ring[0]:
            if not self.latest.number:
                await self.make_token()
            if self.lost_after:
                self.every(self.lost_after / 4, self.monitor)

    # -- the token -----------------------------------------------------------------------------------------

    @rpc(timeout=0.5)
    async def take(self, token: Token) -> None:
        """The token comes; the answer says only that this process lives."""
        if token <= self.latest and self.drop_old:
            return  # a newer one has been here; or this one, and our answer was lost
        renewed = token.number > self.latest.number
        self.latest = token
        if renewed:
            self.disk.put("latest", token.number)
            await self.disk.sync()
        self.have(token)

    def have(self, token: Token) -> None:
        self.token, self.seen = token, self.now
        if self.asked:
            self.asked = False
            self.waiting.set(None)
        elif len(self.ring) > 1:
            self.after(self.rest, self.pass_on, token)

    async def pass_on(self, token: Token | None) -> None:
        """Give the token to the next process that lives."""
        if token is None or self.token != token:
            return  # a newer one has come
        if self.asked:
            return self.have(token)
        self.token = None
        own, step = self.ring.index(self.address), 1
        token = Token(token.number, token.hops + 1)
        while step < len(self.ring) and self.latest < token:
            try:
                return await self.at(self.ring[(own + step) % len(self.ring)]).take(token)
            except (Unreachable, Broken):
                step += 1  # it is dead
            except Failure:
                pass  # it may have the token: again, which does no harm
        if step == len(self.ring):
            self.have(token)  # alone on the ring

    async def monitor(self) -> None:
        """If no token has come for long: make a new one."""
        if not self.token and self.now > self.seen + self.lost_after:
            await self.make_token()

    async def make_token(self) -> None:
        self.latest = Token(self.latest.number + 1, 0)
        self.disk.put("latest", self.latest.number)
        await self.disk.sync()
        self.have(self.latest)

    # -- the critical section --------------------------------------------------------------------------------

    async def acquire(self) -> None:
        self.waiting, self.asked = self.future(), True
        if self.token and len(self.ring) == 1:
            self.have(self.token)
        await self.waiting

    def release(self) -> None:
        if len(self.ring) > 1:
            self.spawn(self.pass_on(self.token))


class TokenRing(Architecture):
    """A token goes round a ring of processes; who has it may enter."""

    family = "agreement"
    source = "Le Lann 1977; van Steen and Tanenbaum, Distributed Systems, 4th ed., section 5.3.4"
    jobs = (Mutex,)
    claims = ("every process gets its turn in a rotation",)
    metrics = ENTRIES

    nodes: int = parameter(5, "processes on the ring", least=1)
    rest: float = parameter(
        0.001, "time that a process which does not enter keeps the token", least=0, unit="s"
    )
    lost_after: float = parameter(
        2.0, "time without a token after which there is a new one; 0: never", least=0, unit="s"
    )

    def build(self, system: System) -> None:
        ring = system.addresses("station", self.nodes)
        resource = Resource()
        station = Station(ring=ring, resource=resource, rest=self.rest, lost_after=self.lost_after)
        system.role("station", station, count=self.nodes)
        system.role("resource", resource)
        system.clients(SectionClient(participants=ring, resource=resource))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        ring = tuple(f"station-{i}" for i in range(self.nodes))
        return await figures(x, ring, ("take",)), []
