"""Soft state: a server keeps a session for a while, and the browser can always bring it back.

The server promises to remember a session until its *lease* is over, which every request renews; then it
forgets, and no harm is done: the browser has a signed copy, from the answer to its latest change.  Its
cookie is only the copy's signature.  A server that does not know the signature (it was another one; it has
crashed; the lease was over; this is not the latest change) says so, and the browser asks again and brings
the copy. State that can be lost and comes back from the ends is Clark's *soft state* ("The design
philosophy of the DARPA Internet protocols", SIGCOMM 1988, section 10).

A session is known by the signature of what is in it, never by a name: a server that knows the signature has
that very version of it, and an older one that some server still has cannot be taken for it.

What is the problem with this?  Each first request to another server is asked twice, so a switch does well
to be sticky: 4.1 messages and 880 bytes an operation then, and 6.0 messages and 1,420 bytes when three
servers take turns (sim, one crash; nothing is lost in either).  The copy travels with each change and each
return.  And, as with signed cookies, an old copy is as good as a new one.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.blocks.sessions import Browser, Session, SessionServer, SessionServers
from polyarch.blocks.signing import KeyKeeper, keys_of
from polyarch.blocks.switch import Policy
from polyarch.core import Refused, Request, Response, System, parameter

__all__ = ["SoftBrowser", "SoftServer", "SoftState"]


class BringIt(Refused, code="bring-your-copy"):
    """The server has forgotten the session, or has never known it."""


class SoftServer(SessionServer):
    """Remembers sessions until their lease is over; a token is the signature of a session's copy."""

    keeper: KeyKeeper
    lease: float
    """Seconds after a request in which the session is remembered."""

    async def start(self) -> None:
        self.signer = await keys_of(self, self.keeper)
        self.sessions: dict[str, Session] = {}
        self.until: dict[str, float] = {}
        self.every(self.lease / 4, self.forget)

    def forget(self) -> None:
        """Whatever has no lease any more."""
        for token in [token for token, until in self.until.items() if until <= self.now]:
            del self.until[token], self.sessions[token]

    async def begin(self, session: Session) -> str:
        token = self.signer.tag(self.signer.copy(session))
        self.sessions[token], self.until[token] = session, self.now + self.lease
        return token

    async def find(self, token: str, request: Request) -> Session:
        if token not in self.sessions:
            copy = request.headers.get("session-copy", "")
            if not copy:
                raise BringIt("this session is not known here (any more)")
            self.sessions[token] = self.signer.read(copy, token)
        self.until[token] = self.now + self.lease
        return self.sessions[token]

    async def keep(self, token: str, session: Session) -> str:
        # The old version stays until its lease is over: this answer may not arrive.
        return await self.begin(session)

    async def end(self, token: str) -> None:
        self.sessions.pop(token, None)
        self.until.pop(token, None)

    def headers(self, session: Session) -> dict[str, str]:
        return {"session-copy": self.signer.copy(session)}

    async def held(self) -> int:
        return len({session.serial for session in self.sessions.values()})


class SoftBrowser(Browser):
    """Keeps the copy that came with the latest change, and brings it when it is asked to."""

    async def start(self) -> None:
        await super().start()
        self.copies: dict[str, str] = {}

    async def ask(self, user: str, request: Request) -> Any:
        try:
            return await super().ask(user, request)
        except BringIt:
            headers = {**request.headers, "session-copy": self.copies[user]}
            return await super().ask(user, Request(request.method, request.target, request.body, headers))

    def remember(self, user: str, response: Response) -> None:
        super().remember(user, response)
        if copy := response.headers.get("session-copy"):
            self.copies[user] = copy
        if not self.has_session(user):
            self.copies.pop(user, None)


class SoftState(SessionServers):
    """Servers that remember sessions for a lease, and browsers that can bring them back."""

    name = "soft_state"
    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.1; Clark, SIGCOMM 1988"
    claims = (
        "a crash of a server costs no session",
        "what users leave behind is forgotten when its lease is over",
    )

    lease: float = parameter(5.0, "how long a session is remembered without a request", least=0.01, unit="s")
    sticky: Literal["address", "no"] = parameter("address", "by what a user gets the same server again")

    def build(self, system: System) -> None:
        keeper = KeyKeeper()
        system.role("keeper", keeper)
        server = SoftServer(keeper=keeper, seconds=self.seconds, lease=self.lease)
        policy: Policy = "rendezvous" if self.sticky == "address" else "round_robin"
        self.behind_a_switch(system, server, policy, browser=SoftBrowser)
