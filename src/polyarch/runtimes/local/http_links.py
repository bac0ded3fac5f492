"""HTTP as a message on a live process: calls that leave as HTTP/1.1, and requests that come so."""

from __future__ import annotations

import abc
import math
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polyarch.core.asker import Asker
from polyarch.core.errors import BadArguments, Failure, Timeout, Unreachable
from polyarch.core.http import Request, Response, failure_response
from polyarch.core.tasks import Ledger, Task
from polyarch.runtimes.local.http_client import HttpPool
from polyarch.runtimes.local.http_headers import encode_cookies, encode_headers
from polyarch.runtimes.local.http_server import Respond

if TYPE_CHECKING:
    from polyarch.runtimes.local.env import LocalEnv
    from polyarch.runtimes.local.process import LocalProcess

__all__ = ["Caller", "HttpCaller", "HttpLinks", "http_handler"]

_ACCOUNT = "polyarch-account"
"""Header of a request whose costs are counted: its depth."""
_COST = "polyarch-cost"
"""Header of its response: messages, bytes and depth of what it took."""
_PATIENCE = "polyarch-patience"
"""Header of a request: seconds that its sender waits for the answer."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?")
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*([0-9]{1,6})\s*(?:$|[,;])", re.IGNORECASE)
"""RFC 7240, 4.3."""
_COSTS = re.compile(rb"(\d{1,15}),(\d{1,15}),(\d{1,9})")
_DEPTH = re.compile(r"[0-9]{1,9}")
_LONGEST = 3600.0
"""Seconds that any request may take."""
_HOP_BY_HOP = frozenset(
    (
        *(_ACCOUNT, _PATIENCE, "host", "connection", "content-length", "keep-alive", "transfer-encoding"),
        *("accept-encoding", "expect", "proxy-connection", "te", "trailer", "upgrade"),
    )
)
"""Request headers that are between two neighbours (RFC 9110, 7.6.1), and not the application's."""


class HttpLinks:
    """Calls from this process to whatever answers HTTP elsewhere: nodes and components."""

    def __init__(self, process: LocalProcess) -> None:
        self.process = process
        self._pools: dict[str, HttpPool] = {}

    def call(self, task: Task, token: int, to: str, request: Request, timeout_ns: int) -> None:
        """Send a request to the node or component at an address, and resume the task with its response."""
        process = self.process
        pool = self._pools.get(to)
        if pool is None:
            port = process.http_ports.get(to)
            if port is None:
                process.ready.append((task.throw, (Unreachable(f"{to} speaks no HTTP"),)))
                return
            pool = self._pools[to] = HttpPool("127.0.0.1", port, limit=256, reads_headers=True)
        place = process.places.get(to, to)
        ledger = task.ledger
        # HEAD is GET without the answer's body, whose length our server wants to tell.
        method = "GET" if request.method == "HEAD" else request.method
        headers = request.headers
        if ledger is not None:
            headers = {**headers, _ACCOUNT: str(task.depth + 1)}
        deadline = time.monotonic_ns() + timeout_ns
        exchange: Any = None

        def lost() -> None:
            timeout = Timeout("http was not answered in time")
            process.timers.at(deadline, process.resume, task, token, False, timeout)

        def done(status: int, body: bytes, failure: Failure | None) -> None:
            if exchange.received:
                process.count(exchange.received, "http", place)
            if ledger is not None:
                ledger.messages += 1 if failure else 2
                ledger.bytes += exchange.sent + exchange.received
                if costs := _COSTS.fullmatch(exchange.cost):
                    messages, size, depth = map(int, costs.groups())
                    ledger.messages += messages
                    ledger.bytes += size
                    task.depth = max(task.depth, depth)
            if failure is not None:
                process.event(process.resume, task, token, False, failure)
                return
            response = Response(status, body, exchange.content_type, exchange.headers, exchange.cookies)
            # The server cannot know whose rules apply to what it answers: the link back is disturbed here.
            arrive = process.event, process.resume, task, token, True, response
            if not process.carry(place, process.name, *arrive):
                lost()

        def send() -> None:
            nonlocal exchange
            # One request and no more: the pool's own timeout is the call's.
            exchange = pool.request(
                method, request.target, request.body, head, done, min(timeout_ns * 1e-9, _LONGEST)
            )
            process.count(len(request.body) + len(request.target) + 80, "http", place)

        try:
            head = encode_headers(headers) if headers else b""
            head += b"polyarch-patience: %.9g\r\n" % min(timeout_ns * 1e-9, _LONGEST)
            if process.rules:
                lost()  # at the latest
            process.carry(process.name, place, send)
        except ValueError as error:
            process.ready.append((task.throw, (BadArguments(f"http: {error}"),)))

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.close()


class Caller(abc.ABC):
    """Whoever asked by a protocol that is not ours: the caller of a handler's task."""

    __slots__ = ()

    @abc.abstractmethod
    def answer(self, task: Task, result: Any) -> None:
        """Answer with what the handler returned."""

    @abc.abstractmethod
    def fail(self, error: Failure) -> None:
        """Answer with the handler's failure."""


class HttpCaller(Caller):
    """Whoever asked over HTTP."""

    __slots__ = ("accounted", "now", "respond", "until")

    def __init__(self, respond: Respond, accounted: bool, now: Callable[[], float], until: float) -> None:
        self.respond = respond
        self.accounted = accounted
        self.now = now
        self.until = until
        """By ``now``, when it stops waiting."""

    @property
    def asker(self) -> Asker:
        """How long it waits."""
        respond = self.respond
        return Asker(self.now, self.until, lambda: respond.gone)

    def answer(self, task: Task, response: Any) -> None:
        """Answer with the handler's response."""
        if not isinstance(response, Response):
            task.env.bug(TypeError(f"http answered a {type(response).__name__}, not a Response"))
            response = Response(500)
        headers = response.headers
        if self.accounted and task.ledger is not None:
            costs = f"{task.ledger.messages},{task.ledger.bytes},{task.depth + 1}"
            headers = {**headers, _COST: costs}
        try:
            lines = encode_headers(headers) + encode_cookies(response.cookies)
            self.respond(response.status, response.body, response.content_type, lines)
        except (TypeError, ValueError) as error:  # it is not what HTTP can say
            task.env.bug(error)
            self.respond(500)

    def fail(self, error: Failure) -> None:
        """Answer with the handler's failure."""
        response = failure_response(error)
        headers = encode_headers(response.headers)
        self.respond(response.status, response.body, response.content_type, headers)


def patience(headers: Any) -> float:
    """How long a request's sender says that it waits; infinity if it does not say."""
    seconds = headers.get(_PATIENCE)
    if seconds is not None:
        return float(seconds) if _SECONDS.fullmatch(seconds) else math.inf
    preferred = _WAIT.search(headers.get("prefer", ""))
    return float(preferred[1]) if preferred else math.inf


def http_handler(env: LocalEnv) -> Callable[..., None]:
    """What the HTTP server calls for each request to this node."""

    def handler(method: str, target: str, headers: Any, body: bytes, respond: Respond) -> None:
        account = headers.get(_ACCOUNT)
        depth = int(account) if account and _DEPTH.fullmatch(account) else 0
        kept = {n: v for n, v in headers.items() if n not in _HOP_BY_HOP}
        for name in headers.get("connection", "").lower().split(","):
            kept.pop(name.strip(), None)  # its sender says that it is for us alone
        request = Request(method, target, body, kept, respond.client)
        until = env.now() + patience(headers)

        def handle() -> None:
            task = Task(env, env.node.http(request), Ledger() if account else None, depth)
            task.caller = HttpCaller(respond, bool(account), env.now, until)
            task.resume()

        if env.inbox is not None:
            env.inbox.append(handle)  # until the node has started
        else:
            env.process.event(handle)

    return handler
