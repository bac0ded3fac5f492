"""Know who leads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = ["Election", "Electorate", "Views"]


class Views(Record):
    """Whom each participant that lives holds to be the leader; ``""``: it knows none."""

    of: dict[str, str]


class Electorate(Node):
    """The port: participants that have a leader."""

    timeout = 5.0

    @rpc
    async def leader(self, participant: int) -> str:
        """Whom a participant (by number, modulo their number) holds to be the leader."""
        raise NotImplementedError

    @rpc
    async def views(self) -> Views:
        """The same of all participants that live."""
        raise NotImplementedError


class Election(Job):
    """Know who leads: one of the participants, the same one for all.

    What is checked: when everything is healed and quiet, all participants that live name the same one, and it
    lives.  During an election they may differ, or know none: those answers are counted.
    """

    port = Electorate
    rate = 50.0
    participants: int = parameter(1000, "who is asked: a number below this, modulo the participants", least=1)

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            yield (Operation("leader", (random.below(self.participants),)),)

    async def audit(self, client: Any) -> Views:
        views: Views = await client.views()
        return views

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        views = (audit if isinstance(audit, Views) else msgspec.convert(audit, Views)).of
        named = sorted(set(views.values()))
        agreed = len(named) == 1 and named[0] in views
        answers = [done.value for done in history if done.outcome == "ok"]
        none = answers.count("")
        led = ", ".join(f"{name or 'none'} {answers.count(name)} times" for name in sorted(set(answers)))
        detail = f"{len(views)} live and name {', '.join(name or 'none' for name in named) or 'nobody'}"
        share = f"; during the load {none} of {len(answers)} answers were that there is none ({led})"
        return [Verdict("all who live name the same leader, who lives", agreed, detail + share)]
