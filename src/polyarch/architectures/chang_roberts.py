"""Election on a ring: candidacies go round, and of all of them the highest comes back.

Chang and Roberts: "An improved algorithm for decentralized extrema-finding in circular configurations of
processes", CACM 22(5), 1979.

The processes form a one-way ring.  Who wants a leader sends its number to the next one.  Who receives a
higher number than its own passes it on; a lower one it stops, and sends its own instead, unless it has done
so already; and who receives its own number has the highest, and leads.  It sends that round too.

Messages of the candidacies, if all begin: n H_n on average over all orders of the numbers on the ring (H_n
= 1 + 1/2 + ... + 1/n), n(n+1)/2 at worst, 2n-1 at best; and n for the news.  The algorithm assumes that
nobody fails. Here each message is answered, so that who gets no answer passes it to the process behind the
dead one; and an election whose leader dies, or whose message is lost with a process, is begun anew by
whoever misses its end.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.electorate import ELECTIONS, ElectionClient, Participant, agreed, figures
from polyarch.core import Architecture, Failure, Random, System, Verdict, parameter, rpc
from polyarch.jobs.election import Election


class ChangRoberts(Participant):
    """One process of the ring."""

    numbers: tuple[int, ...]
    """The unique numbers of the processes, in the order of the ring."""

    async def start(self) -> None:
        self.taking_part = False
        await super().start()

    @property
    def own(self) -> int:
        return self.numbers[self.number]

    async def elect(self) -> None:
        self.taking_part = True
        await self.pass_on("candidate", self.own)

    @rpc
    async def candidate(self, number: int) -> None:
        """The process of that number wants to lead."""
        if number == self.own:
            self.taking_part = False
            self.follow(self.address)
            self.spawn(self.pass_on("elected", number))
        elif number > self.own:
            self.taking_part = True
            self.spawn(self.pass_on("candidate", number))
        elif not self.taking_part:
            self.taking_part = True
            self.spawn(self.pass_on("candidate", self.own))

    @rpc
    async def elected(self, number: int) -> None:
        """The process of that number leads."""
        if number != self.own:
            self.taking_part = False
            self.follow(self.participants[self.numbers.index(number)])
            self.spawn(self.pass_on("elected", number))

    async def pass_on(self, message: str, number: int) -> None:
        """Send to the next process that lives."""
        ring = self.participants
        for step in range(1, len(ring) + 1):
            successor = self.at(ring[(self.number + step) % len(ring)], timeout=self.patience)
            try:
                await getattr(successor, message)(number)
                return
            except Failure:
                continue


class ChangRobertsElection(Architecture):
    """Candidacies go round a ring of processes; the highest one comes back to its sender, who leads."""

    name = "chang_roberts"
    family = "agreement"
    source = "Chang and Roberts, An improved algorithm for decentralized extrema-finding, 1979"
    jobs = (Election,)
    claims = ("n H_n messages on average",)
    metrics = ELECTIONS

    nodes: int = parameter(5, "processes on the ring", least=1)
    order: int = parameter(0, "seed of the order of the numbers on the ring", least=0)
    watch_every: float = parameter(0.2, "time between two looks at the leader", least=0.001, unit="s")
    patience: float = parameter(0.2, "time without an answer after which one is dead", least=0.001, unit="s")

    def build(self, system: System) -> None:
        ring = system.addresses("process", self.nodes)
        numbers = list(range(1, self.nodes + 1))
        Random(self.order).fork("order").shuffle(numbers)
        process = ChangRoberts(
            participants=ring, numbers=tuple(numbers), watch_every=self.watch_every, patience=self.patience
        )
        system.role("process", process, count=self.nodes)
        system.clients(ElectionClient(participants=ring))

    async def ready(self, x: Any) -> None:
        await agreed(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        ring = tuple(f"process-{i}" for i in range(self.nodes))
        return await figures(x, ring, ("candidate", "elected"))
