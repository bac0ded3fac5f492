"""Tell everybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec

from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter
from polyarch.core.tasks import settle

__all__ = ["Account", "Broadcast", "Broadcaster", "Delivery", "Members"]


class Delivery(Record, array_like=True):
    """One message, given to whoever uses the member."""

    message: int
    at: float
    """Seconds by the member's own clock."""
    body: int
    """CRC-32 of the text."""


class Account(Record, array_like=True):
    """What one member says that has happened to it."""

    address: str
    life: int
    """A number that is another one after each restart: the same life twice means never away between."""
    since: float
    """Seconds by its own clock at which it became a member."""
    deliveries: tuple[Delivery, ...]
    """In their order.  What is in here twice was delivered twice."""
    copies: int
    """Times that the text of a message came from another member, the first time too."""
    sent: int
    """Messages of the protocol that it has sent to spread what was published: texts, offers, requests and
    answers."""


class Members(Record):
    """Who takes part: each one's life, by its address."""

    lives: dict[str, int]


class Broadcaster(Node):
    """The port: members that tell each other what is published."""

    timeout = 10.0

    @rpc
    async def publish(self, message: int, body: str) -> None:
        """Publish a message through any member.  The same message again is the same message."""
        raise NotImplementedError

    @rpc(timeout=120.0)
    async def members(self) -> Members:
        """All members there are now (asked before and after the load, not part of it)."""
        raise NotImplementedError

    @rpc
    async def account(self, member: str) -> Account:
        """What a member has delivered."""
        raise NotImplementedError

    @rpc(timeout=600.0)
    async def quiet(self) -> None:
        """Returns when nothing is under way any more, for all that can be seen."""
        raise NotImplementedError


class Broadcast(Job):
    """Publish messages through any member, so that every member delivers them.

    What is checked.  A member *stayed* if it was there before the load and after it, with the same life.
    What was published without a failure must have been delivered by all who stayed; what may have been
    published, by all of them or by none; nothing twice, and nothing that nobody published.  The order in
    which messages are delivered is not looked at.
    """

    port = Broadcaster
    rate = 5.0
    size: int = parameter(100, "length of a message", least=1, most=1_000_000, unit="bytes")

    saturates = False
    measures = (
        Measure("coverage", "{} of the deliveries that should have happened did", "%", "high", factor=100.0),
        Measure("messages_per_delivery", "{} messages for each", better="low"),
        Measure("copies_per_delivery", "{} copies of the text for each", better="low"),
        Measure("seconds_to_last", "the last had it after {} s", "s", "low"),
    )

    before: Members | None = None

    async def prepare(self, client: Any) -> None:
        self.before = await client.members()

    def visits(self, random: Random) -> Iterator[Visit]:
        while True:
            message = random.bits64() >> 11
            yield (Operation("publish", (message, text(message, self.size))),)

    async def audit(self, client: Any) -> tuple[Account, ...]:
        await client.quiet()
        members: Members = await client.members()
        accounts: list[Account] = []
        everybody = list(members.lives)
        for at in range(0, len(everybody), 64):
            told = await settle(*(client.account(address) for address in everybody[at : at + 64]))
            accounts += [account for account in told if isinstance(account, Account)]
        return tuple(accounts)

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        accounts = msgspec.convert(audit, tuple[Account, ...])
        before = self.before.lives if self.before else {a.address: a.life for a in accounts}
        stayed = [a for a in accounts if before.get(a.address) == a.life]
        published: dict[int, Done] = {d.arguments[0]: d for d in history if d.name == "publish"}
        bodies = {message: crc32(str(done.arguments[1]).encode()) for message, done in published.items()}
        sure = [message for message, done in published.items() if done.outcome == "ok"]
        held = {a.address: {d.message for d in a.deliveries} for a in stayed}
        return [
            _reached(sure, published, held),
            _agreed(held),
            _once(accounts),
            _invented(accounts, bodies),
        ]


def text(message: int, size: int) -> str:
    """A text of so many bytes that is this message's own."""
    return f"{message:x}.".ljust(size, "-")[:size]


def _reached(messages: Sequence[int], published: Mapping[int, Done], held: Mapping[str, Any]) -> Verdict:
    missed, first = 0, ""
    for message in messages:
        without = [address for address, messages in held.items() if message not in messages]
        missed += len(without)
        if without and not first:
            first = f"; first: {message} of {published[message].start:.3f} s not by {without[0]}"
    due = len(messages) * len(held)
    share = f"{1 - missed / due:.6%} of {due} deliveries" if due else "no deliveries"
    detail = f"{len(messages)} messages, {len(held)} members that stayed: {share}{first}"
    return Verdict("what was published reached all who stayed", not missed, detail)


def _agreed(held: Mapping[str, set[int]]) -> Verdict:
    counts: dict[int, int] = {}
    for messages in held.values():
        for message in sorted(messages):
            counts[message] = counts.get(message, 0) + 1
    partial = {message: n for message, n in counts.items() if n < len(held)}
    first = "; first: {} by {} of {}".format(*next(iter(partial.items())), len(held)) if partial else ""
    detail = f"{len(counts)} messages delivered by anybody who stayed, {len(partial)} not by all{first}"
    return Verdict("all who stayed delivered the same messages", not partial, detail)


def _once(accounts: Sequence[Account]) -> Verdict:
    twice, first = 0, ""
    for account in accounts:
        again = len(account.deliveries) - len({d.message for d in account.deliveries})
        twice += again
        if again and not first:
            first = f"; first at {account.address}"
    deliveries = sum(len(account.deliveries) for account in accounts)
    return Verdict("no member delivered a message twice", not twice, f"{twice} of {deliveries}{first}")


def _invented(accounts: Sequence[Account], bodies: Mapping[int, int]) -> Verdict:
    wrong = [
        (a.address, d.message) for a in accounts for d in a.deliveries if bodies.get(d.message) != d.body
    ]
    first = "; first: {1} at {0}".format(*wrong[0]) if wrong else ""
    detail = f"{len(wrong)} deliveries of what nobody published, or of another text{first}"
    return Verdict("no member delivered what was not published", not wrong, detail)
