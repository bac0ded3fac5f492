"""Stateless servers, and a store that they share: a session is on the store's disk, its name in the cookie.

Any server can take any request, as in ``signed_cookies``, and the browser keeps only a name; what it cannot
have any more is yesterday's basket.  A change is written only if the session is still as it was read
(optimistic: Kung and Robinson, ACM TODS 6(2), 1981): two tabs cannot overwrite each other's changes.  The
store is a node with a disk, or PostgreSQL (``--store postgresql``), which does the same in transactions.

What is the problem with this?  Each request asks the store, two more messages to read and four to change,
and waits for its disk: 7.0 messages and 930 bytes an operation where ``stateful_servers`` need 4 and 640, and
10.4 and 1,300 with PostgreSQL, whose transactions begin and end (sim).  The state has moved, not gone: the
store is now what all wait for, what has to be scaled and what must not fail (or has to be replicated, with
all that this costs: ``quorum``, ``raft``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from polyarch.blocks.sessions import Session, SessionServer, SessionServers
from polyarch.blocks.switch import Policy
from polyarch.blocks.tables import Row, Tables
from polyarch.blocks.values import Values
from polyarch.components.declared import PostgreSQL
from polyarch.core import Conflict, Node, Request, System, parameter, rpc
from polyarch.jobs.session import SessionLost

__all__ = ["SessionStore", "Store", "StoringServer", "TableServer"]


# -- stores -------------------------------------------------------------------------------------------------


class Store(Node):
    """Keeps sessions by name, and answers when they are on its disk."""

    async def start(self) -> None:
        self.sessions = Values(self.disk)

    @rpc
    async def read(self, name: str) -> Session | None:
        """A session, if it is there."""
        text = self.sessions.data.get(name)
        # What is read must not be taken back by a crash either.
        await self.sessions.durable()
        return msgspec.json.decode(str(text), type=Session) if text else None

    @rpc
    async def write(self, name: str, session: Session) -> bool:
        """Keep a session; False if another change has come between."""
        text = self.sessions.data.get(name)
        before = msgspec.json.decode(str(text), type=Session) if text else None
        if not follows(session, before):
            return False
        self.sessions.change({name: msgspec.json.encode(session).decode()})
        await self.sessions.durable()
        return True

    @rpc
    async def forget(self, name: str) -> None:
        """It is not needed any more."""
        self.sessions.change({name: None})
        await self.sessions.durable()


def follows(session: Session, before: Session | None) -> bool:
    """Whether it is the next version of what is kept, or that very version, delivered twice."""
    return session == before or session.version == (before.version if before else -1) + 1


class StoredSession(Row):
    """A session in a table."""

    name: str
    content: str


class InTables:
    """The same in tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    async def read(self, name: str) -> Session | None:
        async with self.tables.transaction() as t:
            row = await t.get(StoredSession, name, lock=False)
        return msgspec.json.decode(row.content, type=Session) if row else None

    async def write(self, name: str, session: Session) -> bool:
        async with self.tables.transaction() as t:
            row = await t.get(StoredSession, name)
            if not follows(session, msgspec.json.decode(row.content, type=Session) if row else None):
                return False
            await t.put(StoredSession(name, msgspec.json.encode(session).decode()))
        return True

    async def forget(self, name: str) -> None:
        async with self.tables.transaction() as t:
            await t.delete(StoredSession, name)


# -- servers ------------------------------------------------------------------------------------------------


class StoringServer(SessionServer):
    """Asks the store; a token is the name of a session, which nobody can guess."""

    store: Store

    async def start(self) -> None:
        self.sessions: Store | InTables = self.store

    async def begin(self, session: Session) -> str:
        return await self.keep(self.secret(16).hex(), session)

    async def find(self, token: str, request: Request) -> Session:
        session = await self.sessions.read(token)
        if session is None:
            raise SessionLost("there is no such session")
        return session

    async def keep(self, token: str, session: Session) -> str:
        if not await self.sessions.write(token, session):
            raise Conflict("the session has changed in the meantime")
        return token

    async def end(self, token: str) -> None:
        await self.sessions.forget(token)


class TableServer(StoringServer):
    """The same with tables."""

    store: Tables  # type: ignore[assignment]

    async def start(self) -> None:
        self.sessions = InTables(self.store)


class SessionStore(SessionServers):
    """Servers that keep nothing, and a store with a disk that keeps the sessions for all of them."""

    name = "session_store"
    family = "vertical"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.1"
    claims = (
        "no crash costs a session",
        "the store is a single point of failure while it is down",
    )

    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    store: Literal["node", "postgresql"] = parameter("node", "what keeps the sessions")

    def build(self, system: System) -> None:
        server: SessionServer
        if self.store == "postgresql":
            data = system.component("store", PostgreSQL((StoredSession,)), cores=self.cores)
            server = TableServer(store=data, seconds=self.seconds)
        else:
            store = Store()
            system.role("store", store)
            server = StoringServer(store=store, seconds=self.seconds)
        self.behind_a_switch(system, server, self.policy)
