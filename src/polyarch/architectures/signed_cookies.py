"""Stateless servers: the whole session is in the browser's cookie, signed.

A server takes the session out of the request, changes it, and gives it back with the answer.  It keeps
nothing, so that any server can take any request, may crash, come and go.  So that a browser cannot change
what it keeps for us, the session is signed with a key that all servers have (HMAC; Fu, Sit, Smith and
Feamster, "Dos and don'ts of client authentication on the web", USENIX Security 2001, section 4); what does
not fit its signature is refused.

What is the problem with this?  Every request carries all of the session: 1,220 bytes for an operation on
small baskets instead of 600 (``stateful_servers``), and browsers carry 4,096 bytes (RFC 6265, section 6.1):
what does not fit is refused.  An *old* cookie is signed as well as a new one: whoever gives it back has
yesterday's basket, and two tabs that change the basket at the same time lose one of the changes.  A session
cannot be ended from here.  And the key must be in every server and nowhere else.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.sessions import (
    METRICS,
    Browser,
    KeyKeeper,
    Session,
    SessionServer,
    observe_sessions,
    signer,
)
from polyarch.blocks.switch import Policy, Switch
from polyarch.core import Architecture, Request, System, TooLarge, Verdict, parameter
from polyarch.jobs.session import SessionJob

__all__ = ["LARGEST_COOKIE", "SignedCookies", "StatelessServer"]

LARGEST_COOKIE = 4096
"""Bytes of name, value and attributes that every browser keeps (RFC 6265, section 6.1)."""


class StatelessServer(SessionServer):
    """Keeps nothing; a token is the session and its signature."""

    keeper: KeyKeeper

    async def start(self) -> None:
        self.signer = await signer(self, self.keeper)

    async def begin(self, session: Session) -> str:
        copy = self.signer.copy(session)
        token = f"{copy}.{self.signer.tag(copy)}"
        if len(f"session={token}; Path=/; HttpOnly") > LARGEST_COOKIE:
            raise TooLarge(f"{len(session.items)} items do not fit into a cookie")
        return token

    async def find(self, token: str, request: Request) -> Session:
        copy, _, tag = token.partition(".")
        return self.signer.read(copy, tag)

    async def keep(self, token: str, session: Session) -> str:
        return await self.begin(session)

    async def end(self, token: str) -> None:
        """The browser is told to forget the cookie.  Whoever has a copy of it still has the session."""


class SignedCookies(Architecture):
    """Servers that keep nothing: the session is in the browser, in a signed cookie."""

    name = "signed_cookies"
    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.1; Fu et al., 2001"
    jobs = (SessionJob,)
    claims = (
        "a crash of a server costs no session",
        "a cookie that was changed is refused",
    )
    metrics = METRICS

    servers: int = parameter(3, "servers behind the switch", least=1, most=1000)
    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    seconds: float = parameter(0.0, "work of each request on a core", least=0, most=10, unit="s")
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        keeper = KeyKeeper()
        system.role("keeper", keeper)
        server = StatelessServer(keeper=keeper, seconds=self.seconds)
        system.role("server", server, count=self.servers, cores=self.cores)
        switch = Switch(backends=system.addresses(server), policy=self.policy)
        system.role("switch", switch)
        system.clients(Browser(front=switch))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await observe_sessions(x, self.servers)
