"""Stateless servers, and a store that they share: a session is on the store's disk, its name in the cookie.

Any server can take any request, as in ``signed_cookies``, and the browser keeps only a name; what it cannot
have any more is yesterday's basket.  A change is written only if the session is still as it was read
(optimistic: Kung and Robinson, ACM TODS 6(2), 1981): two tabs cannot overwrite each other's changes.

What is the problem with this?  Each request asks the store, two more messages to read and four to change,
and waits for its disk.  The state has moved, not gone: the store is now what all wait for, what has to be
scaled and what must not fail (or has to be replicated, with all that this costs: ``quorum``, ``raft``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from polyarch.blocks.sessions import METRICS, Browser, Session, SessionServer, observe_sessions
from polyarch.blocks.switch import Policy, Switch
from polyarch.blocks.values import Values
from polyarch.core import Architecture, Conflict, Node, Request, System, Verdict, parameter, rpc
from polyarch.jobs.session import SessionJob, SessionLost

__all__ = ["SessionStore", "Store", "StoringServer"]


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
        text, new = self.sessions.data.get(name), msgspec.json.encode(session).decode()
        known = msgspec.json.decode(str(text), type=Session).version if text else -1
        if text != new:  # else it is the same change, delivered twice
            if session.version != known + 1:
                return False
            self.sessions.change({name: new})
        await self.sessions.durable()
        return True

    @rpc
    async def forget(self, name: str) -> None:
        """It is not needed any more."""
        self.sessions.change({name: None})
        await self.sessions.durable()


class StoringServer(SessionServer):
    """Asks the store; a token is the name of a session, which nobody can guess."""

    store: Store

    async def begin(self, session: Session) -> str:
        return await self.keep(self.secret(16).hex(), session)

    async def find(self, token: str, request: Request) -> Session:
        session = await self.store.read(token)
        if session is None:
            raise SessionLost("there is no such session")
        return session

    async def keep(self, token: str, session: Session) -> str:
        if not await self.store.write(token, session):
            raise Conflict("the session has changed in the meantime")
        return token

    async def end(self, token: str) -> None:
        await self.store.forget(token)


class SessionStore(Architecture):
    """Servers that keep nothing, and a store with a disk that keeps the sessions for all of them."""

    name = "session_store"
    family = "vertical"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.1"
    jobs = (SessionJob,)
    claims = (
        "no crash costs a session",
        "the store is a single point of failure while it is down",
    )
    metrics = METRICS

    servers: int = parameter(3, "servers behind the switch", least=1, most=1000)
    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    seconds: float = parameter(0.0, "work of each request on a core", least=0, most=10, unit="s")
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        store = Store()
        system.role("store", store)
        server = StoringServer(store=store, seconds=self.seconds)
        system.role("server", server, count=self.servers, cores=self.cores)
        switch = Switch(backends=system.addresses(server), policy=self.policy)
        system.role("switch", switch)
        system.clients(Browser(front=switch))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await observe_sessions(x, self.servers)
