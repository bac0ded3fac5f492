"""What replicated key-value stores have in common, however they agree on the order of commands: the
command, the state machine that executes each one once, and the client that finds the leader.

A client that got no answer does not know whether its command was executed, and sends it again.  So a client
opens a *session* by a command of its own; each further command has a name, (session, sequence); and the
state machine remembers the results of those that may come again (Raft, section 8; Ongaro's thesis, section
6.3).  Of the sessions only the most recently used are kept.  All replicas forget the same ones at the same
command, and a command of a forgotten session is refused: it may have been executed before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal
from zlib import crc32

import msgspec

from polyarch.core.errors import Failure, Refused, Timeout, Unreachable
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import Future
from polyarch.jobs.kv import KeyValue, Value

__all__ = [
    "Command",
    "LeaderClient",
    "NotLeader",
    "Replica",
    "Result",
    "Session",
    "SessionExpired",
    "StateMachine",
    "until_it_answers",
]

Result = bool | int | None
"""What a command gives: whether a swap was made, the number of a new session, or nothing."""


class Command(Record, array_like=True):
    """What a client wants to be done."""

    client: int
    """The client's session."""
    sequence: int
    oldest: int
    """All of the client's commands before this one have ended for it: their results may be forgotten."""
    name: Literal["put", "compare_and_set", "register"]
    key: str = ""
    value: str | int = ""
    expected: str | int | None = None


REGISTER = Command(0, 0, 0, "register")
"""Open a session: its number.  Sent twice, it opens two, and nobody uses the first."""


class NotLeader(Refused, code="not-leader"):
    """Only the leader serves clients; the detail is its address, as far as known."""


class SessionExpired(Refused, code="session-expired"):
    """The session of this command has been forgotten.  This copy of it was not executed; an earlier one
    may have been."""


class Replica(Node):
    """The port of a server: what ``LeaderClient`` sends."""

    @rpc
    async def submit(self, command: Command) -> Result:
        """Execute a command, however often it is sent: its result."""
        raise NotImplementedError

    @rpc
    async def read(self, key: str) -> Value:
        """The value of a key."""
        raise NotImplementedError


class Session(msgspec.Struct):
    """What is remembered of a client."""

    oldest: int = 0
    results: dict[int, Result] = msgspec.field(default_factory=dict)


class _State(Record, array_like=True):
    data: dict[str, Value]
    sessions: dict[int, Session]
    registered: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class StateMachine:
    """The key-value store itself: equal on all replicas that have applied the same commands."""

    def __init__(self, sessions: int = 10_000, *, deduplicate: bool = True) -> None:
        """``sessions``: how many are remembered."""
        self.most = sessions
        self.deduplicate = deduplicate
        self.data: dict[str, Value] = {}
        self.sessions: dict[int, Session] = {}  # in the order of their last use
        self.registered = 0

    def apply(self, command: Command) -> Result:
        """Execute a command, unless it has been executed: then give its first result again."""
        if command.name == "register":
            self.registered += 1
            self.sessions[self.registered] = Session()
            if len(self.sessions) > self.most:
                del self.sessions[next(iter(self.sessions))]
            return self.registered
        if not self.deduplicate:
            return self.execute(command)
        session = self.sessions.pop(command.client, None)
        if session is None:
            raise SessionExpired(f"session {command.client} is not remembered any more")
        self.sessions[command.client] = session
        if command.sequence < session.oldest:
            return None  # nobody waits for it any more
        if command.sequence not in session.results:
            session.results[command.sequence] = self.execute(command)
            for sequence in range(session.oldest, command.oldest):
                session.results.pop(sequence, None)
            session.oldest = max(session.oldest, command.oldest)
        return session.results[command.sequence]

    def answer(self, command: Command | None, waiting: Future[Any] | None) -> None:
        """Apply what all have agreed on (None: nothing), and tell who waits for it, if somebody does."""
        try:
            result = None if command is None else self.apply(command)
        except Refused as refusal:  # the same on all replicas
            if waiting is not None:
                waiting.fail(refusal)
        else:
            if waiting is not None:
                waiting.set(result)

    def execute(self, command: Command) -> bool | None:
        """What the command does."""
        swap = command.name == "compare_and_set"
        if swap and self.data.get(command.key) != command.expected:
            return False
        self.data[command.key] = command.value
        return True if swap else None

    def snapshot(self, *, sessions: bool = True) -> bytes:
        """All of it, for another replica or a later start."""
        return _encode(_State(self.data, self.sessions if sessions else {}, self.registered))

    def digest(self) -> int:
        """A number that tells stores apart which hold different things."""
        return crc32(_encode(sorted(self.data.items())))

    def restore(self, snapshot: bytes) -> None:
        """Become what a snapshot says."""
        state = _decode(snapshot)
        self.data, self.sessions, self.registered = dict(state.data), state.sessions, state.registered


class LeaderClient(KeyValue):
    """Finds the leader, and asks again with the same sequence number until it answers."""

    servers: tuple[str, ...]
    patience: float = 5.0
    """Seconds after which it gives up."""
    attempt: float = 1.0
    """Seconds that it waits for one server."""

    async def start(self) -> None:
        self.leader = self.servers[0]
        self.session: int | None = None
        self.registering = False
        self.newcomers: list[Any] = []  # futures of commands that wait for the session
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
    ) -> Result:
        while True:
            session = self.session
            if session is None:
                session = await self.register()
            sequence = self.next_sequence
            self.next_sequence += 1
            self.open[sequence] = None
            command = Command(session, sequence, next(iter(self.open)), name, key, value, expected)

            def send(server: Replica, command: Command = command) -> Awaitable[Result]:
                return server.submit(command)

            try:
                result: Result = await self.ask(send)
                return result
            except SessionExpired:  # and no copy of the command has been executed: another session
                if self.session == session:
                    self.session = None
            finally:
                del self.open[sequence]

    async def register(self) -> int:
        """Open a session, one for all commands that wait for it."""
        waiting = self.future()
        self.newcomers.append(waiting)
        if not self.registering:
            self.registering = True
            try:
                self.session = await self.ask(lambda server: server.submit(REGISTER))
                outcome: Refused | Timeout | None = None
            except (Refused, Timeout) as failure:  # whatever has been done, no command of ours was
                outcome = Refused(f"no session could be opened: {failure}")
            self.registering = False
            newcomers, self.newcomers = self.newcomers, []
            for newcomer in newcomers:
                newcomer.set(self.session) if outcome is None else newcomer.fail(outcome)
        session: int = await waiting
        return session

    async def ask(self, send: Callable[[Replica], Awaitable[Any]], whom: str = "leader") -> Any:
        """Send to whom we think the leader is, until it answers or our patience ends.  If any attempt may
        have had an effect, giving up is a Timeout; if none has, a refusal.  ``whom``: the attribute that
        holds our guess, for clients that ask different servers for different things."""
        give_up = self.now + self.patience
        doubt: Timeout | None = None
        while True:
            server, hint = getattr(self, whom), ""
            try:
                return await send(self.at(server, Replica, timeout=min(self.attempt, give_up - self.now)))
            except NotLeader as refusal:
                failure: Refused | Timeout = refusal
                hint = refusal.detail
            except Unreachable as refusal:
                failure = refusal
            except SessionExpired as refusal:
                raise doubt or refusal from None
            except Timeout as timeout:
                failure = doubt = timeout
            if server == getattr(self, whom):  # and no other request has found a better one meanwhile
                setattr(self, whom, hint or self.random.choice(self.servers))
            if hint in ("", server):
                await self.sleep(0.01)
            if self.now >= give_up:
                raise doubt or failure


async def until_it_answers(x: Any) -> None:
    """Returns when a client is answered: a leader is there."""
    while True:
        try:
            await x.client.get("")
            return
        except Failure as failure:
            x.lacking = f"no client is answered: {failure}"
            await x.sleep(0.1)
