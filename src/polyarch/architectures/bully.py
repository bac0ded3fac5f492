"""The bully algorithm: of those that live, the one with the highest number leads.

Garcia-Molina: "Elections in a distributed computing system", IEEE Transactions on Computers C-31(1), 1982; as
told by van Steen and Tanenbaum, "Distributed systems", 4th ed., section 5.4.1.

Who notices that there is no leader sends ELECTION to all with higher numbers.  If none answers, it leads,
and says so to all others (COORDINATOR).  If one answers (OK), that one goes on, and says the same to those
above it; whoever asked waits to be told, and begins again if nobody does.  Who comes back after a crash
holds an election.

Messages of an election: n-2 in the best case (the second highest notices: only COORDINATOR), about n^2 in the
worst (the lowest does).  It assumes that who does not answer in time is dead.  If that is wrong, as in a
partition, each side has a leader of its own.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.electorate import ELECTIONS, ElectionClient, Participant, agreed, figures
from polyarch.core import Architecture, Failure, Node, System, Verdict, oneway, parameter, rpc, settle
from polyarch.jobs.election import Election


class Bully(Participant):
    """One participant; its number is its priority."""

    electing = False

    async def elect(self) -> None:
        if self.electing:
            return
        self.electing = True
        try:
            await self.ask_those_above()
        finally:
            self.electing = False

    async def ask_those_above(self) -> None:
        above = self.participants[self.number + 1 :]
        answers = await settle(*(self.at(a, timeout=self.patience).election(self.number) for a in above))
        if all(isinstance(answer, Failure) for answer in answers):
            self.follow(self.address)
            for other in self.participants:
                if other != self.address:
                    self.at(other).coordinator(self.number)

    @rpc
    async def election(self, number: int) -> None:
        """ELECTION, from somebody below; the answer is OK: leave it to me."""
        if self.leader == self.address:
            self.at(self.participants[number]).coordinator(self.number)
        elif not self.electing:
            self.call_election()

    @oneway
    def coordinator(self, number: int) -> None:
        """COORDINATOR: the participant of that number leads."""
        if number > self.number:
            self.follow(self.participants[number])
        else:
            self.call_election()  # it did not hear us: be heard


class BullyElection(Architecture):
    """The participant with the highest number of those that live leads."""

    name = "bully"
    family = "agreement"
    source = "Garcia-Molina, Elections in a distributed computing system, 1982"
    jobs = (Election,)
    claims = ("the highest that lives leads", "about n^2 messages at worst")
    metrics = ELECTIONS

    nodes: int = parameter(5, "participants", least=1)
    watch_every: float = parameter(0.2, "time between two looks at the leader", least=0.001, unit="s")
    patience: float = parameter(0.2, "time without an answer after which one is dead", least=0.001, unit="s")

    def build(self, system: System) -> None:
        everybody = system.addresses("participant", self.nodes)
        participant: Node = Bully(
            participants=everybody, watch_every=self.watch_every, patience=self.patience
        )
        system.role("participant", participant, count=self.nodes)
        system.clients(ElectionClient(participants=everybody))

    async def ready(self, x: Any) -> None:
        await agreed(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        everybody = tuple(f"participant-{i}" for i in range(self.nodes))
        views = (await x.client.views()).of
        metrics, verdicts = await figures(x, everybody, ("election", "coordinator"))
        highest = max(views, key=everybody.index, default="")
        wrong = [f"{a} follows {view or 'nobody'}" for a, view in views.items() if view != highest]
        detail = f"{highest} is the highest of {len(views)}" + (f"; {wrong[0]}" if wrong else "")
        return metrics, [*verdicts, Verdict("the highest that lives leads", not wrong, detail)]
