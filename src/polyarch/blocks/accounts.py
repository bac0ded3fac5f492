"""A bank that is asked over a network: what its servers and its clients say to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from polyarch.blocks.once import OnceClient, OnceServer, Ticket
from polyarch.core.errors import Refused
from polyarch.core.messages import rpc
from polyarch.jobs.bank import Bank, Receipt, Statement

__all__ = ["UNOPENED", "Aborted", "BankClient", "BankServer", "changed"]


T = TypeVar("T")

UNOPENED = Statement(-1, 0)
"""An account that has not been opened, which takes one entry."""


def changed(statement: Statement, change: int) -> Statement:
    """The account after one more entry."""
    return Statement(statement.entries + 1, statement.balance + change)


class Aborted(Refused, code="aborted"):
    """The transaction did not happen; it may be tried again."""


class BankServer(OnceServer):
    """The port of a server that has accounts, or knows who has."""

    @rpc
    async def open(self, ticket: Ticket, balances: dict[str, int]) -> None:
        """Open accounts that hold so much."""
        raise NotImplementedError

    @rpc
    async def transfer(self, ticket: Ticket, source: str, target: str, amount: int) -> Receipt:
        """Move money."""
        raise NotImplementedError

    @rpc
    async def balances(self, accounts: tuple[str, ...]) -> tuple[Statement, ...]:
        """What accounts hold, all at one moment."""
        raise NotImplementedError


class BankClient(Bank, OnceClient):
    """Asks a server until it answers, and again when the transaction was aborted."""

    bank: BankServer

    @rpc
    async def open(self, balances: dict[str, int]) -> None:
        await self._once(lambda bank, ticket: bank.open(ticket, balances))

    @rpc
    async def transfer(self, source: str, target: str, amount: int) -> Receipt:
        return await self._once(lambda bank, ticket: bank.transfer(ticket, source, target, amount))

    async def _once(self, send: Callable[[BankServer, Ticket], Awaitable[T]]) -> T:
        give_up = self.now + self.patience
        while True:
            try:
                return await self.ask_once(self.bank.address, BankServer, send, give_up)
            except Aborted:
                if self.now >= give_up:
                    raise

    @rpc
    async def balance(self, account: str) -> Statement:
        (statement,) = await self.balances((account,))
        return statement

    @rpc
    async def balances(self, accounts: tuple[str, ...]) -> tuple[Statement, ...]:
        give_up = self.now + self.patience
        while True:
            try:
                return await self.ask(self.bank.address, BankServer, lambda b: b.balances(accounts), give_up)
            except Aborted:
                if self.now >= give_up:
                    raise
