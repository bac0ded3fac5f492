"""What replicated key-value stores have in common, however they agree on the order of commands: the
command, the state machine that executes each one once, and the client that finds the leader.

A client that got no answer does not know whether its command was executed, and sends it again.  So each
command has a name, (client, sequence), and the state machine remembers the results of those that may come
again (Raft, section 8; Lee et al., "Implementing linearizability at large scale and low latency", 2015).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from polyarch.core.errors import Refused, Timeout, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.jobs.kv import KeyValue, Value

__all__ = ["Command", "LeaderClient", "NotLeader", "Replica", "Session", "StateMachine"]


class Command(Record, array_like=True):
    """What a client wants to be done."""

    client: str
    sequence: int
    oldest: int
    """All of the client's commands before this one have ended for it: their results may be forgotten."""
    name: Literal["put", "compare_and_set"]
    key: str
    value: str | int
    expected: str | int | None = None


class NotLeader(Refused, code="not-leader"):
    """Only the leader serves clients; the detail is its address, as far as known."""


class Replica(Node):
    """The port of a server: what ``LeaderClient`` sends."""

    @rpc
    async def submit(self, command: Command) -> bool | None:
        """Execute a command, however often it is sent: its result."""
        raise NotImplementedError

    @rpc
    async def read(self, key: str) -> Value:
        """The value of a key."""
        raise NotImplementedError


class Session:
    """What is remembered of a client."""

    def __init__(self) -> None:
        self.oldest = 0
        self.results: dict[int, bool | None] = {}


class StateMachine:
    """The key-value store itself: equal on all replicas that have applied the same commands."""

    def __init__(self) -> None:
        self.data: dict[str, Value] = {}
        self.sessions: dict[str, Session] = {}

    def apply(self, command: Command) -> bool | None:
        """Execute a command, unless it has been executed: then give its first result again."""
        session = self.sessions.setdefault(command.client, Session())
        if command.sequence < session.oldest:
            return None  # nobody waits for it any more
        if command.sequence not in session.results:
            session.results[command.sequence] = self.execute(command)
            for sequence in range(session.oldest, command.oldest):
                session.results.pop(sequence, None)
            session.oldest = max(session.oldest, command.oldest)
        return session.results[command.sequence]

    def execute(self, command: Command) -> bool | None:
        """What the command does."""
        swap = command.name == "compare_and_set"
        if swap and self.data.get(command.key) != command.expected:
            return False
        self.data[command.key] = command.value
        return True if swap else None


class LeaderClient(KeyValue):
    """Finds the leader, and asks again with the same sequence number until it answers."""

    servers: tuple[str, ...]
    patience: float = 5.0
    """Seconds after which it gives up."""
    attempt: float = 1.0
    """Seconds that it waits for one server."""

    async def start(self) -> None:
        self.identity = f"{self.address}/{self.random.bits64():016x}"  # another one after each restart
        self.leader = self.servers[0]
        self.next_sequence = 0
        self.open: dict[int, None] = {}  # sequence numbers of commands that have not ended, in order

    @rpc
    async def get(self, key: str) -> Value:
        value: Value = await self.ask(lambda server: server.read(key))
        return value

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.submit("put", key, value)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return bool(await self.submit("compare_and_set", key, value, expected))

    async def submit(
        self, name: Literal["put", "compare_and_set"], key: str, value: str | int, expected: Value = None
    ) -> bool | None:
        sequence = self.next_sequence
        self.next_sequence += 1
        self.open[sequence] = None
        command = Command(self.identity, sequence, next(iter(self.open)), name, key, value, expected)
        try:
            result: bool | None = await self.ask(lambda server: server.submit(command))
            return result
        finally:
            del self.open[sequence]

    async def ask(self, send: Callable[[Replica], Awaitable[Any]]) -> Any:
        """Send to whom we think the leader is, until it answers or our patience ends.  If any attempt may
        have had an effect, giving up is a Timeout; if none has, a refusal."""
        give_up = self.now + self.patience
        doubt: Timeout | None = None
        while True:
            server, hint = self.leader, ""
            try:
                return await send(self.at(server, Replica, timeout=min(self.attempt, give_up - self.now)))
            except NotLeader as refusal:
                failure: Refused | Timeout = refusal
                hint = refusal.detail
            except Unreachable as refusal:
                failure = refusal
            except Timeout as timeout:
                failure = doubt = timeout
            if server == self.leader:  # and no other request has found a better one meanwhile
                self.leader = hint or self.random.choice(self.servers)
            if hint in ("", server):
                await self.sleep(0.01)
            if self.now >= give_up:
                raise doubt or failure
