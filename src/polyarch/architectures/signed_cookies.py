"""Stateless servers: the whole session is in the browser's cookie, signed.

A server takes the session out of the request, changes it, and gives it back with the answer.  It keeps
nothing, so that any server can take any request, may crash, come and go.  So that a browser cannot change
what it keeps for us, the session is signed with a key that all servers have (HMAC; Fu, Sit, Smith and
Feamster, "Dos and don'ts of client authentication on the web", USENIX Security 2001, section 4); what does
not fit its signature is refused.

What is the problem with this?  Every request carries all of the session: 1,170 bytes for an operation on
small baskets instead of 640 (``stateful_servers``), and browsers carry 4,096 bytes (RFC 6265, section 6.1):
what does not fit is refused.  An *old* cookie is signed as well as a new one: whoever gives it back has
yesterday's basket, and two tabs that change the basket at the same time lose one of the changes.  A session
cannot be ended from here, but for all at once: what is signed may say until when it is good (``lifetime``),
and with a new key now and then (``rotate``) whatever was signed with the one before the last is void.  And
the key must be in every server and nowhere else.
"""

from __future__ import annotations

from polyarch.blocks.sessions import Session, SessionServer, SessionServers
from polyarch.blocks.signing import Forged, KeyKeeper, Signer, keys_of, session_in
from polyarch.blocks.switch import Policy
from polyarch.core import Failure, Request, System, TooLarge, parameter
from polyarch.jobs.session import NOTHING_LOST, SessionLost

__all__ = ["LARGEST_COOKIE", "SignedCookies", "StatelessServer"]

LARGEST_COOKIE = 4096
"""Bytes of name, value and attributes that every browser keeps (RFC 6265, section 6.1)."""


class StatelessServer(SessionServer):
    """Keeps nothing; a token is the session, when it ends if it does, and the signature of both."""

    keeper: KeyKeeper
    lifetime: float
    ask_again: float
    """Seconds after which the keeper is asked for its keys again."""

    async def start(self) -> None:
        self.signer = await keys_of(self, self.keeper)
        if self.ask_again:
            self.every(self.ask_again, self.renew)

    async def renew(self) -> None:
        try:
            self.signer = Signer(*await self.keeper.keys())
        except Failure:
            pass  # those that are known are good for a while

    async def begin(self, session: Session) -> str:
        text = self.signer.copy(session)
        if self.lifetime:
            text += f".{round((self.now + self.lifetime) * 1e3)}"
        token = f"{text}.{self.signer.tag(text)}"
        if len(f"session={token}; Path=/; HttpOnly") > LARGEST_COOKIE:
            raise TooLarge(f"{len(session.items)} items do not fit into a cookie")
        return token

    async def find(self, token: str, request: Request) -> Session:
        text, _, tag = token.rpartition(".")
        try:
            self.signer.verify(text, tag)  # before anything of it is believed
        except Forged as failure:
            if not self.ask_again:
                raise
            raise SessionLost("forged, or signed with a key of long ago: log in again") from failure
        copy, _, end = text.partition(".")
        if end and self.now * 1e3 >= int(end):
            raise SessionLost("the session is over: log in again")
        return session_in(copy)

    async def keep(self, token: str, session: Session) -> str:
        return await self.begin(session)

    async def end(self, token: str) -> None:
        """The browser is told to forget the cookie.  Whoever has a copy of it still has the session."""


class SignedCookies(SessionServers):
    """Servers that keep nothing: the session is in the browser, in a signed cookie."""

    name = "signed_cookies"
    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.1; Fu et al., 2001"
    claims = (
        "a crash of a server costs no session",
        "a cookie that was changed is refused",
    )

    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    lifetime: float = parameter(
        0.0, "after its last change until a cookie is refused; 0: for ever", least=0, unit="s"
    )
    rotate: float = parameter(
        0.0, "after which there is a new key, and the one before the last is forgotten; 0: never", least=0,
        unit="s",
    )  # fmt: skip

    @property
    def disclaims(self) -> tuple[str, ...]:
        return (NOTHING_LOST,) if self.lifetime or self.rotate else ()  # sessions end without anybody's doing

    @property
    def not_borne(self) -> tuple[str, ...]:
        return ("skew", "drift") if self.lifetime else ()

    def build(self, system: System) -> None:
        keeper = KeyKeeper(period=self.rotate)
        system.role("keeper", keeper)
        server = StatelessServer(
            keeper=keeper, seconds=self.seconds, lifetime=self.lifetime, ask_again=self.rotate / 4
        )
        self.behind_a_switch(system, server, self.policy)
