"""Sessions: users log in, put things into a basket, look at it, and log out.

What a user has done is remembered from one request to the next.  Where, is what the architectures of this
job differ in, and what becomes of it when a server crashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyarch.core import (
    Job,
    Node,
    Operation,
    Random,
    Refused,
    Verdict,
    Visit,
    parameter,
    rpc,
    settle,
)
from polyarch.core.errors import Failure
from polyarch.core.job import Done

__all__ = ["NOTHING_LOST", "SessionJob", "SessionLost", "Sessions"]

NOTHING_LOST = "nothing that was answered is lost"

_AUDITED = 1000  # users whose baskets are looked at in the end


class SessionLost(Refused, code="session-lost"):
    """The server knows nothing of this session: what was in it is lost, and the user must log in again."""


class Sessions(Node):
    """The port: what a user does in a browser.  A user does one thing at a time."""

    timeout = 10.0

    @rpc
    async def log_in(self, user: str) -> None:
        """Begin a session, with an empty basket."""
        raise NotImplementedError

    @rpc
    async def add(self, user: str, item: str) -> int:
        """Put something into the basket; how many are in it.  What is in it already is not added again.
        A user without a session logs in first."""
        raise NotImplementedError

    @rpc
    async def basket(self, user: str) -> tuple[str, ...]:
        """What is in the basket."""
        raise NotImplementedError

    @rpc
    async def log_out(self, user: str) -> tuple[str, ...]:
        """End the session; what was in the basket."""
        raise NotImplementedError

    @rpc
    async def logged_in(self) -> tuple[str, ...]:
        """Users that have a session, as far as their browsers know."""
        raise NotImplementedError


class SessionJob(Job):
    """Sessions: log in, put things into a basket, look at it, log out.

    What is checked: a basket holds all that was put into it and answered, in whatever session since the user
    came, and nothing that was not.  A user whose session is lost is told so, logs in again, and goes on: what
    was in the basket then is lost, and counted.
    """

    name = "session"
    port = Sessions
    small = {"users": 1, "length": 8.0, "apart": False}

    users: int = parameter(50, "users that are there at a time", least=1, most=100_000)
    length: float = parameter(20.0, "mean operations of a user between log in and log out", least=1)
    adds: float = parameter(0.5, "share of these operations that add something", least=0, most=1)
    abandoned: float = parameter(0.3, "share of users that leave without logging out", least=0, most=1)

    apart: bool = parameter(
        True, "between two operations of a user others do something; false: one visit, one after another"
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not self.apart:
            self.mean_visit = self.length + 1 - self.abandoned

    def visits(self, random: Random) -> Iterator[Visit]:
        if self.apart:
            yield from ((operation,) for operation in self.operations(random))
        visit: list[Operation] = []
        for operation in SessionJob(**{**self.values, "users": 1, "apart": True}).operations(random):
            if operation.name == "log_in" and visit:
                yield tuple(visit)
                visit = []
            visit.append(operation)

    def operations(self, random: Random) -> Iterator[Operation]:
        """What the users do, one after another or by turns."""
        there: list[str] = [""] * self.users
        came = put = 0
        while True:
            place = random.below(self.users)
            user = there[place]
            if not user:
                there[place] = user = f"user-{came}"
                came += 1
                yield Operation("log_in", (user,))
            elif random.chance(1 / self.length):
                there[place] = ""
                if not random.chance(self.abandoned):
                    yield Operation("log_out", (user,))
            elif random.chance(self.adds):
                put += 1
                yield Operation("add", (user, f"{user}'s {put}"))
            else:
                yield Operation("basket", (user,))

    async def audit(self, client: Any) -> dict[str, tuple[str, ...] | None]:
        """What is in the baskets of those who have not logged out; None for a session that is lost."""
        users = (await client.logged_in())[-_AUDITED:]
        found: dict[str, tuple[str, ...] | None] = {}
        for user, basket in zip(users, await settle(*map(client.basket, users))):
            if isinstance(basket, Failure):
                if basket.code != SessionLost.code:
                    raise basket
                found[user] = None
            else:
                found[user] = basket
        return found

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        lost, alien = _wrong(history, audit or {})
        users = len({done.arguments[0] for done in history if done.outcome == "ok"})
        first = next((f"; first: {user} lost {len(items)}" for user, items in lost.items()), "")
        detail = (
            f"{len(lost)} of {users} users lost a session, with {sum(map(len, lost.values()))} items{first}"
        )
        others = f"; first: {alien[0]}" if alien else ""
        return [
            Verdict(NOTHING_LOST, not lost, detail),
            Verdict("baskets hold only what was put into them", not alien, f"{len(alien)} do not{others}"),
        ]

    def conflict(self, history: Sequence[Done], audit: Any) -> Sequence[Done]:
        lost, _ = _wrong(history, audit or {})
        user = next(iter(lost), None)
        return [done for done in history if done.arguments[0] == user] if user else ()


def _wrong(
    history: Sequence[Done], final: dict[str, tuple[str, ...] | None]
) -> tuple[dict[str, set[str]], list[str]]:
    """By user who lost a session: the items that were in it and answered.  And what baskets held that had
    not been put into them."""
    over = max((done.end for done in history), default=0.0) + 1.0
    of: dict[str, list[Done]] = {}
    for done in history:
        of.setdefault(done.arguments[0], []).append(done)
    for user, items in final.items():
        outcome, code = ("ok", "") if items is not None else ("fail", SessionLost.code)
        of.setdefault(user, []).append(Done(-1, "basket", (user,), over, over, over, outcome, items, code))  # type: ignore[arg-type]
    lost: dict[str, set[str]] = {}
    alien: list[str] = []
    for user, dones in of.items():
        adds = [done for done in dones if done.name == "add" and done.outcome != "fail"]
        # Who logs in has an empty basket, and who logs out has none.
        ends = [done for done in dones if done.name in ("log_in", "log_out") and done.outcome != "fail"]
        for done in dones:
            if any(e.name == "log_out" and e.outcome == "info" and e.start < done.start for e in ends):
                continue  # perhaps the session had been ended
            answered = {
                add.arguments[1]
                for add in adds
                if add.outcome == "ok"
                and add.end <= done.start
                and not any(add.start <= e.end and e.start <= done.end for e in ends if e is not done)
            }
            if done.code == SessionLost.code:
                lost.setdefault(user, set()).update(answered)
            elif done.outcome == "ok" and done.name in ("basket", "log_out"):
                held = list(done.value)
                if missing := answered - set(held):
                    lost.setdefault(user, set()).update(missing)
                begun = {a.arguments[1] for a in adds if a.start < done.end}
                if len(set(held)) < len(held) or set(held) - begun:
                    alien.append(f"{user} had {held}")
    return lost, alien
