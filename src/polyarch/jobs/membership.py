"""Know who is alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter
from polyarch.core.tasks import settle

__all__ = ["Membership", "Notice", "Present", "Registrar", "View"]


class Notice(Record, array_like=True):
    """A member has changed its mind about another one."""

    subject: str
    kind: Literal["alive", "suspect", "dead"]
    at: float
    """Seconds by its own clock."""
    silence: float | None
    """Seconds since it heard from the subject itself; None: it never has."""


class View(Record):
    """What one member knows."""

    address: str
    life: int
    """A number that is another one after each restart: the same life twice means never away between."""
    alive: tuple[str, ...]
    """Whom it holds to be alive, itself too."""
    notices: tuple[Notice, ...]


class Present(Record):
    """Who answers: each member's life, by its address."""

    lives: dict[str, int]


class Registrar(Node):
    """The port: members that watch each other."""

    timeout = 5.0

    @rpc
    async def holds_alive(self, member: int, other: int) -> bool:
        """Whether a member holds another one to be alive (both by number, modulo their number)."""
        raise NotImplementedError

    @rpc(timeout=120.0)
    async def present(self) -> Present:
        """All members that answer (asked before and after the load, not part of it)."""
        raise NotImplementedError

    @rpc
    async def view(self, member: str) -> View:
        """What a member knows."""
        raise NotImplementedError

    @rpc(timeout=600.0)
    async def settled(self) -> None:
        """Returns when members that answer hold each other to be alive, or when it seems that they never
        will."""
        raise NotImplementedError


class Membership(Job):
    """Know who is alive: each member about all others.

    What is checked.  When everything is healed and quiet, whoever lives holds exactly those who live to be
    alive.  *Completeness*: who was away (its life is another one afterwards) was noticed by all who stayed.
    *Accuracy*: nobody who stayed was declared dead; detectors that wait for so long and no longer cannot
    promise that, and say so: then it is a figure.  The time to detect is counted from the last sign of life
    that anybody had.
    """

    port = Registrar
    rate = 50.0
    saturates = False  # an answer is what a member knows: asking costs it nothing
    measures = (
        Measure("detection_s", "a crash is known to somebody {} s after the last sign of life", "s", "low"),
        Measure("wrongly_dead", "{} times one who lived was declared dead", better="low"),
        Measure("messages_per_period", "{} messages for each member and period", better="low"),
    )
    numbers: int = parameter(1000, "who is asked about whom: numbers below this, modulo the members", least=1)

    before: Present | None = None

    async def prepare(self, client: Any) -> None:
        self.before = await client.present()

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            yield (Operation("holds_alive", (random.below(self.numbers), random.below(self.numbers))),)

    async def audit(self, client: Any) -> tuple[View, ...]:
        await client.settled()
        present: Present = await client.present()
        everybody, views = list(present.lives), []
        for at in range(0, len(everybody), 64):
            told = await settle(*(client.view(address) for address in everybody[at : at + 64]))
            views += [view for view in told if isinstance(view, View)]
        return tuple(views)

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        views = msgspec.convert(audit, tuple[View, ...])
        stayed, away = self._lives(views)
        return [_complete_at_the_end(views), _noticed(away, stayed), _accurate(history, stayed)]

    def figures(self, history: Sequence[Done], audit: Any) -> dict[str, Any]:
        """The mean time until somebody knew of one who was away (if anybody was, and was noticed), and how
        often one who stayed was declared dead by one who stayed."""
        stayed, away = self._lives(msgspec.convert(audit, tuple[View, ...]))
        times = detection_times(away, stayed)
        found: dict[str, Any] = {"detection_s": sum(times) / len(times)} if times else {}
        return {**found, "wrongly_dead": len(_wrongly_dead(stayed))}

    def _lives(self, views: Sequence[View]) -> tuple[list[View], list[str]]:
        """The views of those who stayed, and who was away between the beginning and now."""
        before = self.before.lives if self.before else {v.address: v.life for v in views}
        stayed = [v for v in views if before.get(v.address) == v.life]
        there = {v.address: True for v in stayed}
        return stayed, [v.address for v in views if v.address in before and v.address not in there]


def _complete_at_the_end(views: Sequence[View]) -> Verdict:
    present = sorted(v.address for v in views)
    wrong = [v for v in views if sorted(v.alive) != present]
    detail = f"{len(present)} live; {len(wrong)} of them have another view"
    if wrong:
        missing = [a for a in present if a not in wrong[0].alive]
        extra = [a for a in wrong[0].alive if a not in present]
        which = f"misses {', '.join(missing[:3])}" if missing else f"has {', '.join(extra[:3])} too"
        detail += f"; first: {wrong[0].address} {which}"
    return Verdict("all who live know each other", not wrong, detail)


def _noticed(away: Sequence[str], stayed: Sequence[View]) -> Verdict:
    missed = [(v.address, a) for v in stayed for a in away if all(n.subject != a for n in v.notices)]
    detail = f"{len(away)} were away, {len(missed)} of {len(away) * len(stayed)} times unnoticed"
    times = detection_times(away, stayed)
    if times:
        mean = sum(times) / len(times)
        detail += f"; from the last sign of life to the first who knew {mean:.3f} s (mean of {len(times)})"
    if missed:
        detail += "; first: {} about {}".format(*missed[0])
    return Verdict("who was away was noticed by all who stayed", not missed, detail)


def detection_times(away: Sequence[str], views: Sequence[View]) -> list[float]:
    """For each of these who was declared dead: seconds from the last sign of life that any member had of it
    until the first member declared it dead."""
    times = []
    for subject in away:
        deaths = [n for v in views for n in v.notices if n.subject == subject and n.kind == "dead"]
        signs = [n.at - n.silence for n in deaths if n.silence is not None]
        if signs:
            first = min(n.at for n in deaths)
            times.append(first - max(sign for sign in signs if sign <= first))
    return times


def _wrongly_dead(stayed: Sequence[View]) -> list[tuple[str, Notice]]:
    """Who declared one who stayed dead."""
    lived = {v.address: True for v in stayed}
    return [(v.address, n) for v in stayed for n in v.notices if n.kind == "dead" and n.subject in lived]


def _accurate(history: Sequence[Done], stayed: Sequence[View]) -> Verdict:
    wrong = _wrongly_dead(stayed)
    answers = [done.value for done in history if done.outcome == "ok"]
    detail = f"{len(wrong)} times one of {len(stayed)} who stayed declared another one dead"
    if answers:
        detail += f"; {answers.count(False) / len(answers):.2%} of {len(answers)} answers were: not alive"
    if wrong:
        detail += f"; first: {wrong[0][0]} about {wrong[0][1].subject} at {wrong[0][1].at:.3f} s"
    return Verdict("nobody who stayed was declared dead", not wrong, detail)
