"""A key-value server on one disk, and its client: what a single server is, and each shard of many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from polyarch.blocks.once import OnceClient, OnceServer, Ticket
from polyarch.blocks.values import Values
from polyarch.core.messages import rpc
from polyarch.jobs.kv import KeyValue, Value

__all__ = ["KeyedClient", "KeyedServer"]

T = TypeVar("T")


class KeyedServer(OnceServer):
    """Executes each request once, and answers when what it has changed, or read, is on the disk."""

    async def start(self) -> None:
        await super().start()
        self.values = Values(self.disk)

    async def durable(self) -> None:
        """Before any answer: neither what was written nor what was read must be taken back by a crash."""
        await self.values.durable()

    def serve(self, key: str) -> None:
        """A key is about to be read or written: raises if that is not for us to do."""

    @rpc
    async def get(self, key: str) -> Value:
        """The value of a key; None if it has none."""
        self.serve(key)
        value = self.values.data.get(key)
        await self.durable()
        return value

    @rpc
    async def put(self, ticket: Ticket, key: str, value: str | int) -> None:
        """Set the value of a key."""

        async def execute() -> None:
            self.serve(key)
            self.values.change({key: value})
            await self.durable()

        await self.once(ticket, execute)

    @rpc
    async def compare_and_set(self, ticket: Ticket, key: str, expected: Value, value: str | int) -> bool:
        """Set the value of a key if it is ``expected`` now; whether it was."""

        async def execute() -> bool:
            self.serve(key)
            same = self.values.data.get(key) == expected
            if same:
                self.values.change({key: value})
            await self.durable()
            return same

        return await self.once(ticket, execute)


class KeyedClient(KeyValue, OnceClient):
    """Asks the server that has a key."""

    async def at_server(self, key: str, ask: Callable[[str, float], Awaitable[T]]) -> T:
        """``ask(server, give_up)`` at the right server."""
        raise NotImplementedError

    @rpc
    async def get(self, key: str) -> Value:
        return await self.at_server(
            key, lambda server, give_up: self.ask(server, KeyedServer, lambda s: s.get(key), give_up)
        )

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.write(key, lambda server, ticket: server.put(ticket, key, value))

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return await self.write(
            key, lambda server, ticket: server.compare_and_set(ticket, key, expected, value)
        )

    async def write(self, key: str, send: Callable[[KeyedServer, Ticket], Awaitable[T]]) -> T:
        """Send a request that changes something."""
        return await self.at_server(
            key, lambda server, give_up: self.ask_once(server, KeyedServer, send, give_up)
        )
