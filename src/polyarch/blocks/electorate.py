"""What election algorithms have in common: participants that watch their leader, and a client that asks them
who it is.

An algorithm is a ``Participant`` with ``elect``, which is called when there is no leader.  A participant asks
its leader now and then whether it lives and leads; no answer, or a no, is the end of it.
"""

from __future__ import annotations

from typing import Any

from polyarch.core.errors import Failure, Timeout
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.system import Verdict
from polyarch.core.tasks import settle
from polyarch.jobs.election import Electorate, Views

__all__ = ["ELECTIONS", "ElectionClient", "Participant", "agreed", "figures"]

ELECTIONS = {
    "changes": "times that a participant took up a leader, after the first one",
    "messages_per_change": "messages of the algorithm for each time that somebody became the leader",
    "mean_time_without_s": "seconds that a participant knew no leader, for each of them",
    "longest_time_without_s": "seconds",
}
"""What ``figures`` measures."""


class Gaps(Record):
    """What a participant has gone through."""

    led: int
    """Times that it became the leader itself."""
    followed: int
    """Times that it took up a leader."""
    without: tuple[float, ...]
    """Seconds from the end of one leader to the next one."""


class Participant(Node):
    """One that takes part."""

    participants: tuple[str, ...]
    """All of them; the number in this order is the priority."""
    watch_every: float = 0.2
    """Seconds between two looks at the leader."""
    patience: float = 0.2
    """Seconds after which one that does not answer is held to be dead."""

    async def start(self) -> None:
        self.number = self.participants.index(self.address)
        self.leader = ""
        self.led = self.followed = 0
        self.without: list[float] = []
        self.lost_at: float | None = None
        self.every(self.watch_every, self.watch, jitter=0.1)
        self.call_election()

    async def elect(self) -> None:
        """Begin an election."""
        raise NotImplementedError

    def call_election(self) -> None:
        """There is no leader."""
        if self.lost_at is None:
            self.lost_at = self.now
        self.leader = ""
        self.spawn(self.elect())

    def follow(self, leader: str) -> None:
        """Take up a leader."""
        if leader != self.leader:
            self.leader = leader
            self.followed += 1
            self.led += leader == self.address
            if self.lost_at is not None:
                self.without.append(self.now - self.lost_at)
        self.lost_at = None

    async def watch(self) -> None:
        """Does the leader live, and does it know that it leads?"""
        leader = self.leader
        if leader in ("", self.address):
            if not leader and self.lost_at is not None and self.now > self.lost_at + 10 * self.patience:
                self.call_election()  # a message of the last one was lost
            return
        try:
            leads = await self.at(leader, Participant, timeout=self.patience).leads()
        except Failure:
            leads = False
        if not leads and self.leader == leader:
            self.call_election()

    @rpc
    async def leads(self) -> bool:
        """Whether it leads."""
        return self.leader == self.address

    @rpc
    async def view(self) -> str:
        """Whom it holds to be the leader."""
        return self.leader

    @rpc
    async def gaps(self) -> Gaps:
        """What it has gone through."""
        return Gaps(self.led, self.followed, tuple(self.without))


class ElectionClient(Electorate):
    """Asks the participants."""

    participants: tuple[str, ...]

    @rpc
    async def leader(self, participant: int) -> str:
        return await self.at(self.participants[participant % len(self.participants)], Participant).view()

    @rpc
    async def views(self) -> Views:
        told = await settle(*(self.at(a, Participant).view() for a in self.participants))
        return Views({a: view for a, view in zip(self.participants, told) if isinstance(view, str)})


async def agreed(x: Any) -> None:
    """Returns when all who live name the same leader, who lives."""
    for _ in range(600):
        views = (await x.client.views()).of
        named = list(dict.fromkeys(views.values()))
        if len(named) == 1 and named[0] in views:
            return
        await x.sleep(0.1)
    raise Timeout(f"no agreement: {views}")


async def figures(
    x: Any, participants: tuple[str, ...], messages: tuple[str, ...]
) -> tuple[dict[str, Any], list[Verdict]]:
    """``ELECTIONS``, of everything so far; ``messages``: the algorithm's own."""
    told = await settle(*(x.at(a, Participant).gaps() for a in participants))
    gaps = [g for g in told if isinstance(g, Gaps)]
    waits = [seconds for g in gaps for seconds in g.without]
    led = sum(g.led for g in gaps)
    found: dict[str, Any] = {"changes": sum(g.followed for g in gaps) - len(gaps)}
    if led:
        by_method = (await x.control.traffic()).by_method
        found["messages_per_change"] = sum(by_method.get(name, 0) for name in messages) / led
    if waits:
        found["mean_time_without_s"] = sum(waits) / len(waits)
        found["longest_time_without_s"] = max(waits)
    return found, []
