"""One server, one disk: what everything that is distributed has to be compared with.

A server executes one request after another, writes what it changes into a log, and answers when that is on
the disk; what comes in the meantime shares the next flush (group commit: DeWitt et al., "Implementation
techniques for main memory database systems", 1984, section 5.2).  There is one order of operations, because
there is one server.  While it is down there is no service, and what its disk loses is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from polyarch.blocks.accounts import BankClient, BankServer, changed
from polyarch.blocks.keyed import KeyedClient, KeyedServer
from polyarch.blocks.once import Ticket
from polyarch.core import Architecture, Refused, System, parameter, rpc
from polyarch.jobs.bank import BankJob, Receipt, Statement
from polyarch.jobs.kv import Kv

__all__ = ["Server", "ServerClient", "SingleServer"]

T = TypeVar("T")


class Server(KeyedServer, BankServer):
    """Values under keys (``blocks/keyed.py``), and accounts."""

    def statement(self, account: str) -> Statement:
        told = [self.values.data.get(f"{what} of {account}", 0) for what in ("entries", "balance")]
        return Statement(*(value if isinstance(value, int) else 0 for value in told))

    def state(self, statements: dict[str, Statement]) -> None:
        """What the accounts are from now on, all in one."""
        entries = {f"entries of {account}": s.entries for account, s in statements.items()}
        self.values.change(
            {**entries, **{f"balance of {account}": s.balance for account, s in statements.items()}}
        )

    @rpc
    async def open(self, ticket: Ticket, balances: dict[str, int]) -> None:
        async def execute() -> None:
            self.state({account: Statement(0, balance) for account, balance in balances.items()})
            await self.durable()

        await self.once(ticket, execute)

    @rpc
    async def transfer(self, ticket: Ticket, source: str, target: str, amount: int) -> Receipt:
        if amount < 1 or source == target:
            raise Refused("a transfer is of something, between two accounts")

        async def execute() -> Receipt:
            a, b = self.statement(source), self.statement(target)
            if a.balance < amount:
                receipt = Receipt(False, a)
            else:
                a, b = changed(a, -amount), changed(b, amount)
                self.state({source: a, target: b})
                receipt = Receipt(True, a, b)
            await self.durable()
            return receipt

        return await self.once(ticket, execute)

    @rpc
    async def balances(self, accounts: tuple[str, ...]) -> tuple[Statement, ...]:
        statements = tuple(map(self.statement, accounts))
        await self.durable()
        return statements


class ServerClient(KeyedClient, BankClient):
    """Asks the one server that there is."""

    bank: Server

    async def at_server(self, key: str, ask: Callable[[str, float], Awaitable[T]]) -> T:
        return await ask(self.bank.address, self.now + self.patience)


class SingleServer(Architecture):
    """One server with one disk: the base line of whatever is distributed."""

    name = "single_server"
    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 2.3.1"
    jobs = (Kv, BankJob)
    claims = (
        "linearizable, and every transfer atomic",
        "what was answered survives a crash of the server",
        "the server is a single point of failure",
    )

    cores: int = parameter(1, "cores of the server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        server = Server()
        system.role("server", server, cores=self.cores)
        system.clients(ServerClient(bank=server))
