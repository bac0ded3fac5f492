"""Requests that are executed once, however often they are sent or arrive.

A client that got no answer does not know whether its request was executed, and sends it again; a network may
deliver one request twice.  So each request carries a *ticket*: a name that no other request has.  A server
remembers what it answered to which ticket, and gives the same answer again (Birrell and Nelson, "Implementing
remote procedure calls", 1984, section 3.2).

The memory is of one *life* of the server: a restart begins a new life, whose number is on the disk, and the
tickets of an earlier one are refused.  Their requests may have been executed or not, and the client says so
(Timeout).  A server that must know even then has to keep the answers in its log, as replicated ones do
(``blocks/replicas.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from polyarch.core.errors import Failure, Refused, Timeout, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import Future

__all__ = ["LifeOver", "OnceClient", "OnceServer", "Ticket", "growing"]

S = TypeVar("S", bound="OnceServer")
T = TypeVar("T")


class Enrolled(Record, array_like=True):
    """A client's number in a life of a server."""

    life: int
    client: int


class Ticket(Record, array_like=True):
    """The name of a request."""

    life: int
    client: int
    number: int
    oldest: int
    """All of the client's requests before this one have ended for it: their answers may be forgotten."""


class LifeOver(Refused, code="life-over"):
    """The ticket is of an earlier life of the server.  This copy of the request was not executed."""


class OnceServer(Node):
    """The side that executes."""

    async def start(self) -> None:
        self.life = self.disk.get("life", int, 0) + 1
        self.disk.put("life", self.life)
        await self.disk.sync()
        self.clients: dict[int, dict[int, Future[Any]]] = {}
        self.floors: dict[int, int] = {}  # for each client the oldest number that may still come
        self.enrolled = 0

    @rpc
    async def enroll(self) -> Enrolled:
        """A new client."""
        self.enrolled += 1
        return Enrolled(self.life, self.enrolled)

    async def once(self, ticket: Ticket, execute: Callable[[], Awaitable[T]]) -> T:
        """What ``execute`` returns or raises, the first time that this ticket comes."""
        if ticket.life != self.life:
            raise LifeOver(f"life {ticket.life} of {self.address} is over")
        client = ticket.client
        answers, floor = self.clients.setdefault(client, {}), self.floors.get(client, 0)
        if ticket.number < floor:
            raise Refused("an old copy of a request, for whose answer nobody waits")
        for number in range(floor, ticket.oldest):
            answers.pop(number, None)
        self.floors[client] = max(floor, ticket.oldest)
        answer = answers.get(ticket.number)
        if answer is None:
            answers[ticket.number] = answer = self.future()
            try:
                answer.set(await execute())
            except Failure as failure:
                answer.fail(failure)
        result: T = await answer
        return result


def growing(first: float = 0.005, most: float = 0.05) -> Iterator[float]:
    """Seconds to wait before one more attempt."""
    while True:
        yield first
        first = min(2 * first, most)


class OnceClient(Node):
    """The side that asks, again and again, until it knows or its patience ends."""

    patience: float = 5.0
    """Seconds after which it gives up."""
    attempt: float = 1.0
    """Seconds that it waits for one answer."""

    async def start(self) -> None:
        self.books: dict[str, Enrolled] = {}
        self.next_number = 0
        self.pending: dict[int, None] = {}  # numbers of requests that have not ended, in order

    async def ask_once(
        self, server: str, of: type[S], send: Callable[[S, Ticket], Awaitable[T]], give_up: float
    ) -> T:
        """Send a request that changes something.  When we give up: if any copy may have been executed, that
        is a Timeout; if none was, a refusal."""
        doubt: Timeout | None = None
        ticket: Ticket | None = None
        number, self.next_number = self.next_number, self.next_number + 1
        self.pending[number] = None
        pauses = growing()
        try:
            while True:
                there = self.at(server, of, timeout=self.attempt)
                failure: Failure
                try:
                    if ticket is None:
                        enrolled = await self.enroll_at(server)
                        ticket = Ticket(enrolled.life, enrolled.client, number, next(iter(self.pending)))
                    return await send(there, ticket)
                except Unreachable as refusal:
                    failure = refusal
                except LifeOver as refusal:
                    book = self.books.get(server)
                    if book is not None and ticket is not None and book.life == ticket.life:
                        del self.books[server]
                    ticket, failure = None, refusal
                    if doubt is not None:  # it may have been executed in the life that is over
                        raise doubt from None
                except Timeout as timeout:
                    failure = doubt = timeout
                if self.now >= give_up:
                    raise doubt or failure
                await self.sleep(next(pauses))
        finally:
            del self.pending[number]

    async def enroll_at(self, server: str) -> Enrolled:
        book = self.books.get(server)
        if book is None:
            try:
                book = await self.at(server, OnceServer, timeout=self.attempt).enroll()
            except Timeout as timeout:  # whatever it has done, our request was not sent
                raise Unreachable(f"{server} does not enroll us: {timeout}") from None
            book = self.books.setdefault(server, book)
        return book

    async def ask(self, server: str, of: type[S], send: Callable[[S], Awaitable[T]], give_up: float) -> T:
        """Send a request that changes nothing."""
        pauses = growing()
        while True:
            try:
                return await send(self.at(server, of, timeout=self.attempt))
            except (Unreachable, Timeout):
                if self.now >= give_up:
                    raise
                await self.sleep(next(pauses))
