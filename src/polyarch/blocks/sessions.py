"""Sessions over HTTP: a browser with its cookies, and the part of a server that does not depend on where
sessions are kept.

HTTP remembers nothing between two requests; a cookie is what a server gives to a browser, to be given back
with each later request (RFC 6265).  In it is the session itself, or the name of one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from polyarch.blocks.switch import Policy, Switch
from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Future,
    Http,
    Request,
    Response,
    System,
    Verdict,
    gather,
    parameter,
    rpc,
)
from polyarch.core.errors import UnknownMethod
from polyarch.core.http import failure_of, failure_response
from polyarch.core.records import Record
from polyarch.jobs.session import SessionJob, SessionLost, Sessions

__all__ = ["Browser", "Seen", "Session", "SessionServer", "SessionServers"]


class Session(Record):
    """What is remembered of a user."""

    user: str
    serial: str
    """Drawn at log in: no two sessions are the same."""
    items: tuple[str, ...] = ()
    version: int = 0
    """How often it has changed."""


# -- the server ---------------------------------------------------------------------------------------------


class SessionServer(Http):
    """What is done with a session.  Where it is between two requests, subclasses say: a *token* is what the
    browser keeps in its cookie."""

    timeout = 5.0
    seconds: float = 0.0
    """Work of each request, on a core."""

    async def begin(self, session: Session) -> str:
        """Keep a new session; its token."""
        raise NotImplementedError

    async def find(self, token: str, request: Request) -> Session:
        """The session of a token; ``SessionLost``, or another failure of a token that is none."""
        raise NotImplementedError

    async def keep(self, token: str, session: Session) -> str:
        """Keep it as it is now; its token from now on."""
        raise NotImplementedError

    async def end(self, token: str) -> None:
        """It is not needed any more."""
        raise NotImplementedError

    def headers(self, session: Session) -> dict[str, str]:
        """What else the browser is told of a session that has changed."""
        return {}

    @rpc
    async def held(self) -> int:
        """How many sessions this server holds."""
        return 0

    async def http(self, request: Request) -> Response:
        if self.seconds:
            await self.work(self.seconds)
        try:
            return await self.respond(request)
        except Failure as failure:
            return failure_response(failure)

    async def respond(self, request: Request) -> Response:
        asked = f"{request.method} {request.target}"
        if asked == "POST /session":
            session = Session(_field(request, "user"), self.secret(12).hex())
            return _answer(None, await self.begin(session), self.headers(session))
        token = _cookie(request)
        if not token:
            raise SessionLost("log in first")
        if asked == "GET /basket":
            return _answer((await self.find(token, request)).items)
        if asked == "POST /basket":
            session = await self.find(token, request)
            item = _field(request, "item")
            if item in session.items:
                return _answer(len(session.items))
            session = Session(session.user, session.serial, (*session.items, item), session.version + 1)
            return _answer(len(session.items), await self.keep(token, session), self.headers(session))
        if asked == "DELETE /session":
            session = await self.find(token, request)
            await self.end(token)
            return _answer(session.items, "")
        raise UnknownMethod(f"nothing at {asked}")


def _field(request: Request, name: str) -> str:
    try:
        value = msgspec.json.decode(request.body, type=dict[str, str])[name]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        raise BadArguments(f"the body must be a JSON object with the text {name!r}") from None
    return value


def _cookie(request: Request) -> str:
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "session":
            return value
    return ""


def _answer(value: Any, token: str | None = None, headers: dict[str, str] | None = None) -> Response:
    cookies: tuple[str, ...] = ()
    if token is not None:
        cookies = (f"session={token}; Path=/; HttpOnly" + ("" if token else "; Max-Age=0"),)
    return Response(200, msgspec.json.encode(value), headers=dict(headers or {}), cookies=cookies)


# -- the browser --------------------------------------------------------------------------------------------


class Seen(Record):
    """What browsers have seen."""

    begun: int
    """Sessions begun, again too."""
    lost: int
    """Sessions that the server did not know any more."""
    longest_cookie: int
    """Bytes."""


class Browser(Sessions):
    """The users' browsers.  Each does one thing after another, and keeps cookies: of the server, and of a
    switch that names the server in one."""

    front: Http

    async def start(self) -> None:
        self.cookies: dict[str, dict[str, str]] = {}
        self.busy: dict[str, Future[None]] = {}
        self.begun = self.lost = self.longest = 0

    @rpc
    async def log_in(self, user: str) -> None:
        await self.alone(user, None)

    @rpc
    async def add(self, user: str, item: str) -> int:
        body = msgspec.json.encode({"item": item})
        return msgspec.convert(await self.alone(user, Request("POST", "/basket", body)), int)

    @rpc
    async def basket(self, user: str) -> tuple[str, ...]:
        return msgspec.convert(await self.alone(user, Request("GET", "/basket")), tuple[str, ...])

    @rpc
    async def log_out(self, user: str) -> tuple[str, ...]:
        return msgspec.convert(await self.alone(user, Request("DELETE", "/session")), tuple[str, ...])

    @rpc
    async def logged_in(self) -> tuple[str, ...]:
        return tuple(user for user in self.cookies if self.has_session(user))

    @rpc
    async def seen(self) -> Seen:
        """What they have seen so far."""
        return Seen(self.begun, self.lost, self.longest)

    async def alone(self, user: str, request: Request | None) -> Any:
        """Do one thing when the one before is done, after logging in if that is needed; None: only that."""
        while user in self.busy:
            await self.busy[user]
        self.busy[user] = done = self.future()
        try:
            if request is None or not self.has_session(user):
                self.forget(user)
                await self.ask(user, Request("POST", "/session", msgspec.json.encode({"user": user})))
                self.begun += 1
            return None if request is None else await self.ask(user, request)
        except SessionLost:
            self.lost += 1
            self.forget(user)
            raise
        finally:
            del self.busy[user]
            done.set(None)

    async def ask(self, user: str, request: Request) -> Any:
        """One request with the user's cookie, and what its response says."""
        headers = dict(request.headers)
        # All users share one address here; a switch in front would name the address of each (RFC 7239).
        headers["forwarded"] = f"for={user}"
        if jar := self.cookies.get(user):
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
            self.longest = max(self.longest, len(headers["cookie"]))
        response = await self.front.http(Request(request.method, request.target, request.body, headers))
        if response.status != 200:
            raise failure_of(response)
        self.remember(user, response)
        return msgspec.json.decode(response.body)

    def remember(self, user: str, response: Response) -> None:
        """Keep the cookies that came with a response; what is empty is gone."""
        for cookie in response.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            if value:
                self.cookies.setdefault(user, {})[name] = value
            else:
                self.cookies.get(user, {}).pop(name, None)

    def has_session(self, user: str) -> bool:
        """Whether a user has a session, for all that the browser knows."""
        return "session" in self.cookies.get(user, {})

    def forget(self, user: str) -> None:
        """The session is over; which server it was at, the switch may still want to know."""
        self.cookies.get(user, {}).pop("session", None)


# -- what the architectures have in common ------------------------------------------------------------------


class SessionServers(Architecture):
    """What they have in common: servers behind a switch, and what is seen of them after the load."""

    jobs = (SessionJob,)
    metrics = {
        "sessions_begun": "sessions that users began, again too",
        "sessions_lost": "sessions that a server was asked for and did not know (any more)",
        "sessions_held": "sessions in the memory of the server that holds most, after the load",
        "longest_cookie": "longest cookie that a browser sent, in bytes",
    }

    servers: int = parameter(3, "servers behind the switch", least=1, most=1000)
    seconds: float = parameter(0.0, "work of each request on a core", least=0, most=10, unit="s")
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1)

    def behind_a_switch(
        self, system: System, server: SessionServer, policy: Policy, *, browser: type[Browser] = Browser,
        sticky: str = "",
    ) -> None:  # fmt: skip
        """Declare the servers, the switch, and the browsers."""
        system.role("server", server, count=self.servers, cores=self.cores)
        switch = Switch(
            backends=system.addresses(server), policy=policy, affinity="header forwarded", sticky=sticky
        )
        system.role("switch", switch)
        system.clients(browser(front=switch))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        seen = await x.client.seen()
        held = await gather(*(x.at(f"server-{i}", SessionServer).held() for i in range(self.servers)))
        figures = (seen.begun, seen.lost, max(held), seen.longest_cookie)
        return dict(zip(type(self).metrics, figures)), []
