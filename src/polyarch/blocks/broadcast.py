"""What protocols that tell everybody have in common: members that deliver each message once and keep account
of it, and a client that publishes through any of them.

A protocol is a ``Teller`` with ``spread``, which is called for what a client publishes here.  It calls
``receive`` for every message that comes from another member, and ``self.sent += 1`` for every message of its
own that it sends (an answer counts as one):

    class Flood(Teller):
        def spread(self, news: News) -> None:
            for neighbour in self.neighbours:
                self.sent += 1
                self.at(neighbour).tell(news)

        @oneway
        def tell(self, news: News) -> None:
            if self.receive(news):                     # new here: delivered
                self.spread(news)
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any
from zlib import crc32

from polyarch.blocks.overlay import NotAMember
from polyarch.core.errors import Failure, Timeout, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import settle
from polyarch.jobs.broadcast import Account, Broadcaster, Delivery, Members

__all__ = ["SPREAD", "BroadcastClient", "News", "Teller", "spread_of"]

SPREAD = {
    "coverage": "share of deliveries that happened: of each message, by each member that was one by then",
    "seconds_to_last": "from a message's first delivery to its last, by the members' clocks; mean",
    "seconds_to_last_most": "the same of the slowest message",
    "seconds_to_mean": "from a message's first delivery to another one, mean",
    "messages_per_delivery": "messages of the protocol for each delivery by another than the publisher",
    "copies_per_delivery": "times that a message's text was carried for each such delivery; 1 is the least",
}
"""What ``spread_of`` measures."""


class News(Record, array_like=True):
    """A message on its way."""

    message: int
    body: str


class Teller(Node):
    """The port of a member.  A protocol whose ``start`` is its own calls ``begin`` there."""

    async def start(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The state of a member that has heard nothing yet."""
        self.store: dict[int, News] = {}
        """What it has delivered, by the message's number."""
        self.log: list[Delivery] = []
        self.copies = self.sent = 0
        self.life = 0
        self.since = self.now

    def spread(self, news: News) -> Any:
        """Tell others (a plain function, or a coroutine function)."""
        raise NotImplementedError

    def belongs(self) -> bool:
        """Whether this node is a member now."""
        return True

    def deliver(self, news: News) -> None:
        """Give it to whoever uses this member."""
        self.store[news.message] = news
        self.log.append(Delivery(news.message, self.now, crc32(news.body.encode())))

    def receive(self, news: News) -> bool:
        """A text has come from another member: deliver it if it is new here; whether it was."""
        self.copies += 1
        if news.message in self.store:
            return False
        self.deliver(news)
        return True

    @rpc
    async def publish(self, news: News) -> None:
        """A client publishes through this member: it delivers first."""
        if not self.belongs():
            raise NotAMember(self.address)
        if news.message not in self.store:
            self.deliver(news)
            spreading = self.spread(news)
            if spreading is not None:
                await spreading

    @rpc
    async def lives(self) -> int:
        """This member's life; ``not-a-member`` if it is none."""
        if not self.belongs():
            raise NotAMember(self.address)
        self.life = self.life or 1 + self.random.below(1 << 62)
        return self.life

    @rpc
    async def heard(self) -> int:
        """How many messages it has delivered."""
        return len(self.log)

    @rpc
    async def account(self) -> Account:
        """All that has happened to it."""
        life = await self.lives()
        return Account(self.address, life, self.since, tuple(self.log), self.copies, self.sent)


class BroadcastClient(Broadcaster):
    """Publishes through any member, and through another one if that does not answer: members know a message
    that comes to them twice."""

    addresses: tuple[str, ...]
    tries: int = 4
    patience: float = 2.0
    """Seconds without a new delivery anywhere after which nothing is under way any more."""

    @rpc
    async def publish(self, message: int, body: str) -> None:
        failure: Failure = Unreachable("no members are known")
        unknown: Failure | None = None
        for member in self.random.sample(self.addresses, min(self.tries, len(self.addresses))):
            try:
                return await self.at(member, Teller).publish(News(message, body))
            except Failure as error:
                failure = error
                if not error.definite:
                    unknown = error
        raise unknown or failure

    async def _ask(self, question: str) -> dict[str, Any]:
        """What every member that answers says to a question, by its address."""
        answers: dict[str, Any] = {}
        for i in range(0, len(self.addresses), 256):
            page = self.addresses[i : i + 256]
            told = await settle(*(getattr(self.at(a, Teller), question)() for a in page))
            answers |= {a: answer for a, answer in zip(page, told) if not isinstance(answer, Failure)}
        return answers

    @rpc(timeout=120.0)
    async def members(self) -> Members:
        return Members(await self._ask("lives"))

    @rpc
    async def account(self, member: str) -> Account:
        return await self.at(member, Teller).account()

    @rpc(timeout=600.0)
    async def quiet(self) -> None:
        heard: dict[str, int] | None = None
        for _ in range(200):
            last, heard = heard, await self._ask("heard")
            if heard == last:
                return
            await self.sleep(self.patience)
        raise Timeout("new deliveries all the time")


async def spread_of(x: Any) -> dict[str, Any]:
    """``SPREAD``, of everything so far (``x``: an ``Experimenter``); what there was nothing of is absent."""
    members: Members = await x.client.members()
    accounts: list[Account] = []
    everybody = list(members.lives)
    for at in range(0, len(everybody), 64):
        told = await settle(*(x.client.account(address) for address in everybody[at : at + 64]))
        accounts += [account for account in told if isinstance(account, Account)]
    times: dict[int, list[float]] = {}
    for account in accounts:
        for delivery in account.deliveries:
            times.setdefault(delivery.message, []).append(delivery.at)
    if not times:
        return {}
    first = {message: min(at) for message, at in times.items()}
    joined = sorted(account.since for account in accounts)
    due = sum(bisect_right(joined, begin) for begin in first.values())
    in_time = sum(account.since <= first[d.message] for account in accounts for d in account.deliveries)
    lasts = [max(at) - first[message] for message, at in times.items()]
    others = sum(map(len, times.values())) - len(times)
    found: dict[str, Any] = {
        "coverage": in_time / due if due else None,
        "seconds_to_last": sum(lasts) / len(lasts),
        "seconds_to_last_most": max(lasts),
    }
    if others:
        waits = sum(sum(at) - len(at) * first[message] for message, at in times.items())
        found["seconds_to_mean"] = waits / others
        found["messages_per_delivery"] = sum(a.sent for a in accounts) / others
        found["copies_per_delivery"] = sum(a.copies for a in accounts) / others
    return {name: value for name, value in found.items() if value is not None}
