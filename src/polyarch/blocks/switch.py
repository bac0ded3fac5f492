"""An application-layer switch: spreads HTTP requests over several servers, by what is in them.

*Where to.*  Branches are for requests of one kind (by path, header, cookie or content) and have backends of
their own; among a branch's backends a policy of ``blocks/balancing.py`` chooses.

*What is tried again.*  A server that could not be reached has not begun: another one is tried, always.  One
that refused as overloaded (503) has not begun either, and one whose connection broke may have: another is
tried for 503, and after a break for requests that are safe to repeat (GET, HEAD), as long as there is a
*budget* of so many retries for a request; without one, retries would multiply the load that made them
necessary.  Whatever else fails may have happened, and only its client knows whether to ask twice.

*Health* is passive, a circuit breaker: a server that failed ``failures`` times in a row is left alone for a
while (unless there is no other); then one request tries it, and the others follow when that one was answered.
With ``check_seconds`` servers are asked actively too.

*Hedging* (Dean and Barroso, "The tail at scale", CACM 56(2), 2013): a safe request that has no answer after
``hedge_seconds`` is sent to a second server too, and the first answer counts.

*Sticky sessions*: the switch may give each client a cookie that names its server, and sends whoever brings it
there again.  What belongs to a server (a session in its memory) is not to be had from another one: such a
request is not hedged and not asked again for being refused.  Only who finds its server ill, gone or full goes
to another one, and is told so by a new cookie.

*What servers see*: a request says by whom it came (``via``, RFC 9110, 7.6.3) and, where the runtime knows it,
from where (``forwarded``, RFC 7239, and ``x-forwarded-for``).  A client can write such headers too; only the
last word in them is the switch's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from polyarch.blocks.balancing import Balancer, PolicyName, balancer
from polyarch.core import (
    Broken,
    Failure,
    Future,
    Http,
    Overloaded,
    Refused,
    Request,
    Response,
    Timeout,
    Unreachable,
    first,
    rpc,
)
from polyarch.core.http import failure_response
from polyarch.core.records import Record

__all__ = ["SAFE", "Branch", "Counts", "Policy", "Switch"]

Policy = PolicyName

SAFE = ("GET", "HEAD")
"""Requests that may be repeated: they change nothing (RFC 9110, 9.2.1)."""

_MARKS = 1000
"""Clients whose marks are kept made."""


class Branch(Record):
    """Requests of one kind, and the backends that they go to.  All of the conditions that are given hold."""

    backends: tuple[str, ...]
    path: str = ""
    """The path begins so."""
    header: str = ""
    """``name: value``, the name in lower case."""
    cookie: str = ""
    """``name=value``"""
    content: str = ""
    """The body contains this."""

    def takes(self, request: Request) -> bool:
        """Whether a request is of this kind."""
        if not request.target.startswith(self.path):
            return False
        if self.header:
            name, _, value = self.header.partition(":")
            if request.headers.get(name.strip()) != value.strip():
                return False
        if self.cookie and self.cookie not in cookies(request):
            return False
        return self.content.encode() in request.body


def cookies(request: Request) -> list[str]:
    """``name=value`` of each cookie."""
    return [part.strip() for part in request.headers.get("cookie", "").split(";")]


class Counts(Record):
    """What a switch has done since it started."""

    requests: int
    retried: int
    """Sent once more, to another server."""
    hedged: int
    """Sent to a second server before the first had answered."""
    refused: int
    """Not sent: no server, or no room in the queue."""
    shunned: int
    """How often a server was found to be ill."""


class _Pool:
    """The backends of one branch, their balancer, and who waits for one of them."""

    def __init__(self, backends: Sequence[str], balance: Balancer) -> None:
        self.balance = balance
        self.waiting: deque[Future[str]] = deque()
        self.change(backends)

    def change(self, backends: Sequence[str]) -> None:
        self.backends = tuple(backends)
        self.balance.members(self.backends)


class Switch(Http):
    """Passes each request to one of its backends."""

    timeout = 5.0
    backends: tuple[str, ...]
    """Addresses of nodes that speak HTTP."""
    branches: tuple[Branch, ...] = ()
    """For special requests; the first that takes a request has it.  All others go to ``backends``."""
    policy: Policy = "round_robin"
    weights: dict[str, float] = {}
    """By address; 1 unless given."""
    choices: int = 2
    """How many servers ``two_choices`` draws."""
    bound: float = 1.25
    """Of ``consistent_hash``: no server has more than so many times the mean load."""
    affinity: str = "target"
    """What the key of hashing policies is: ``target``, ``content``, ``client``, ``header NAME`` or ``cookie
    NAME``; of a request that has none, its target."""
    sticky: str = ""
    """Name of the cookie that names a client's server; empty: clients are not kept at a server."""
    most: int = 0
    """Requests that one backend has at a time, others wait here, in one queue for all; 0: no limit."""
    queue: int = 10_000
    """How many may wait; then it is refused as overloaded."""
    failures: int = 1
    """In a row, after which a backend is left alone."""
    shun_seconds: float = 0.5
    """How long a backend is left alone that could not be reached or did not answer."""
    check_seconds: float = 0.0
    """How often backends are asked whether they are there; 0: never."""
    backend_seconds: float = 4.5
    """How long a backend may take for its answer."""
    retries: float = 0.2
    """Budget: retries and hedges for each request, on average."""
    saved: int = 100
    """Retries that may be saved up, and that it has at first: enough for what a server had when it died.  The
    default is that of Finagle's ``RetryBudget``."""
    hedge_seconds: float = 0.0
    """After which a second server is asked; 0: never."""

    async def start(self) -> None:
        names = dict.fromkeys((*self.backends, *(b for branch in self.branches for b in branch.backends)))
        self.under_way: dict[str, int] = dict.fromkeys(names, 0)
        self.failed: dict[str, int] = dict.fromkeys(names, 0)
        self.shunned_until: dict[str, float] = {}
        self.to: dict[str, Http] = {}
        self.asked: dict[str, bool] = {}
        self.marks: dict[str, dict[str, str]] = {}
        self.gone: dict[str, list[_Pool]] = {}
        self.pools = [(branch, self.pool(branch.backends)) for branch in self.branches]
        self.others = self.pool(self.backends)
        self.unspent = float(self.saved) if self.retries else 0.0
        self.requests = self.retried = self.hedged = self.refused = self.shunned = 0
        if self.check_seconds:
            self.every(self.check_seconds, self.check_all)

    def pool(self, backends: Sequence[str]) -> _Pool:
        made = balancer(
            self.policy, self.random, self.weights, choices=self.choices, bound=self.bound
        )  # fmt: skip
        return _Pool(backends, made)

    # -- a request ------------------------------------------------------------------------------------------

    async def http(self, request: Request) -> Response:
        self.requests += 1
        self.unspent = min(self.saved, self.unspent + self.retries)
        pool = self.others
        for branch, special in self.pools:
            if branch.takes(request):
                pool = special
                break
        key = self.key(request) if pool.balance.keyed else ""
        home = self.home(request) if self.sticky else ""
        request = self.marked(request)
        if self.hedge_seconds and request.method in SAFE and home not in pool.backends:
            return await self.hedge(pool, request, key, home)
        return await self.carry(pool, request, key, home, [])

    def home(self, request: Request) -> str:
        """The server that the client's cookie names; empty: it has none."""
        named = next((c for c in cookies(request) if c.startswith(self.sticky + "=")), "")
        return named.partition("=")[2]

    def marked(self, request: Request) -> Request:
        """The request as its server gets it: it says by whom it came, and from where."""
        marks = self.marks.get(request.client)
        if marks is None:
            marks = {"via": f"1.1 {self.address}"}
            if client := request.client:
                host = f'"[{client}]"' if ":" in client else client
                marks |= {"forwarded": f"for={host}", "x-forwarded-for": client}
            if len(self.marks) >= _MARKS:
                self.marks.clear()
            self.marks[request.client] = marks
        headers = dict(marks)
        if theirs := request.headers:
            headers |= theirs
            for name, mark in marks.items():
                headers[name] = f"{theirs[name]}, {mark}" if name in theirs else mark
        return Request(request.method, request.target, request.body, headers, request.client)

    def key(self, request: Request) -> str:
        """What hashing policies look at."""
        kind, _, name = self.affinity.partition(" ")
        if kind == "content" and request.body:
            return request.body.decode("latin-1")
        if kind == "client":
            return request.client or request.target
        if kind == "header":
            return request.headers.get(name.lower(), request.target)
        if kind == "cookie":
            return next((c for c in cookies(request) if c.startswith(name + "=")), request.target)
        return request.target

    async def carry(self, pool: _Pool, request: Request, key: str, home: str, tried: list[str]) -> Response:
        """To one backend, and to others as long as that is allowed.  ``home``: where its client belongs, if
        that is known.  ``tried``: it fills in where it went."""
        kept: Response | None = None
        while backend := await self.choose(pool, key, tried, home):
            tried.append(backend)
            try:
                response = await self.ask(backend, request)
            except Unreachable:
                continue
            except Broken:
                if request.method in SAFE and self.spare(pool, tried) and self.spend():
                    self.retried += 1
                    continue
                raise
            finally:
                self.release(pool, backend)
            if response.status == 503:
                if backend != home and self.spare(pool, tried) and self.spend():
                    self.retried += 1
                    kept = response
                    continue
            elif self.sticky and backend != home:
                cookie = f"{self.sticky}={backend}; Path=/; HttpOnly"
                return msgspec.structs.replace(response, cookies=(*response.cookies, cookie))
            return response
        if kept is not None:
            return kept
        self.refused += 1
        raise Unreachable("no backend can be reached")

    async def ask(self, backend: str, request: Request) -> Response:
        """Send it, and learn from what comes of it."""
        to = self.to.get(backend)
        if to is None:
            to = self.to[backend] = self.at(backend, Http, timeout=self.backend_seconds)
        try:
            response = await to.http(request)
        except (Unreachable, Timeout):
            self.blame(backend)
            raise
        except Overloaded as refusal:
            response = failure_response(refusal)
        if self.failed[backend] or backend in self.shunned_until:
            self.failed[backend] = 0
            self.shunned_until.pop(backend, None)
        return response

    async def hedge(self, pool: _Pool, request: Request, key: str, home: str) -> Response:
        """To one backend, and if that takes long to a second one; the first answer counts."""
        tried: list[str] = []
        primary = self.spawn(self.carry(pool, request, key, home, tried))
        early: Future[None] = self.future()
        primary.watch(lambda _: early.set(None))
        try:
            await early.within(self.hedge_seconds)
        except Timeout:
            if self.spare(pool, tried) and self.spend():
                self.hedged += 1
                second = self.carry(pool, request, key, home, list(tried))
                answers: list[Response] = await first(1, primary, second)
                return answers[0]
        answer: Response = await primary
        return answer

    # -- which backend --------------------------------------------------------------------------------------

    async def choose(self, pool: _Pool, key: str, tried: Sequence[str], home: str = "") -> str:
        """A backend, which has one request more under way from now on; empty if all were tried.  ``home`` if
        that is well and has room."""
        usable = self.usable(pool, tried)
        if not usable:
            return ""
        load = self.under_way
        if self.most:
            usable = [b for b in usable if load[b] < self.most]
            if not usable:
                return await self.wait(pool)
        backend = home if home and home in usable else pool.balance.pick(usable, load, key)
        load[backend] += 1
        if backend in self.shunned_until:
            # It is on trial: nobody else goes there before this request was answered.
            self.shunned_until[backend] = self.now + self.shun_seconds
        return backend

    def usable(self, pool: _Pool, tried: Sequence[str]) -> Sequence[str]:
        """Those that were not tried, and are well if there are any."""
        if not tried and not self.shunned_until:
            return pool.backends
        left = [b for b in pool.backends if b not in tried] if tried else pool.backends
        until, now = self.shunned_until, self.now
        return [b for b in left if until.get(b, 0.0) <= now] or left

    def spare(self, pool: _Pool, tried: Sequence[str]) -> bool:
        """Whether there is a backend that is well and was not tried."""
        until, now = self.shunned_until, self.now
        return any(b not in tried and until.get(b, 0.0) <= now for b in pool.backends)

    def spend(self) -> bool:
        """Take a retry out of the budget, if there is one."""
        if self.unspent < 1:
            return False
        self.unspent -= 1
        return True

    async def wait(self, pool: _Pool) -> str:
        """Wait in line for a backend that has room."""
        if len(pool.waiting) >= self.queue:
            self.refused += 1
            raise Overloaded(f"{self.queue} requests wait already")
        mine: Future[str] = self.future()
        pool.waiting.append(mine)
        try:
            return await mine.within(self.backend_seconds)
        except Timeout:
            if mine.value is not None:  # at the last moment
                return mine.value
            pool.waiting.remove(mine)
            self.refused += 1
            raise Overloaded("no backend had room in time") from None

    def release(self, pool: _Pool, backend: str) -> None:
        """A request has ended there: the next one in line may go."""
        if pool.waiting and backend in pool.backends and backend not in self.shunned_until:
            pool.waiting.popleft().set(backend)
            return
        self.under_way[backend] -= 1
        if self.most:
            for waited_for in self.all_pools():  # a server may have requests of several kinds
                self.let_in(waited_for)

    def let_in(self, pool: _Pool) -> None:
        """As many of those in line as there is room for."""
        while pool.waiting and (free := self.with_room(pool)):
            self.under_way[free] += 1
            pool.waiting.popleft().set(free)

    def with_room(self, pool: _Pool) -> str:
        free = [b for b in self.usable(pool, ()) if self.under_way[b] < self.most]
        return pool.balance.pick(free, self.under_way, "") if free else ""

    # -- health, and who is there ---------------------------------------------------------------------------

    def blame(self, backend: str) -> None:
        """It could not be reached, or did not answer."""
        self.failed[backend] += 1
        if self.failed[backend] >= self.failures:
            self.shunned += backend not in self.shunned_until
            self.shunned_until[backend] = self.now + self.shun_seconds

    async def check_all(self) -> None:
        for pool in self.all_pools():
            for backend in pool.backends:
                if backend not in self.asked:  # else it still owes the last answer
                    self.spawn(self.check(backend))

    async def check(self, backend: str) -> None:
        """Any answer will do, a 404 too."""
        self.asked[backend] = True
        try:
            await self.ask(backend, Request("GET", "/"))
        except Failure:
            pass
        finally:
            del self.asked[backend]

    @rpc
    async def counts(self) -> Counts:
        """What it has done."""
        return Counts(self.requests, self.retried, self.hedged, self.refused, self.shunned)

    @rpc
    async def join(self, backend: str) -> None:
        """A server has come: it gets requests from now on, of the kinds that it had if it was here before."""
        self.under_way.setdefault(backend, 0)
        self.failed[backend] = 0
        self.shunned_until.pop(backend, None)
        if any(backend in pool.backends for pool in self.all_pools()):
            return
        for pool in self.gone.pop(backend, [self.others]):
            pool.change((*pool.backends, backend))
            self.let_in(pool)

    @rpc(timeout=30.0)
    async def leave(self, backend: str, patience: float = 10.0) -> int:
        """A server wants to go: it gets no more requests.  Returns when it has none left, or when patience
        is at an end: how many it then has."""
        its = [pool for pool in self.all_pools() if backend in pool.backends]
        if any(len(pool.backends) == 1 for pool in its):
            raise Refused(f"{backend} is the last one")
        for pool in its:
            pool.change(tuple(b for b in pool.backends if b != backend))
        if its:
            self.gone[backend] = its
        deadline = self.now + patience
        while self.under_way.get(backend, 0) and self.now < deadline:
            await self.sleep(0.01)
        return self.under_way.get(backend, 0)

    def all_pools(self) -> list[_Pool]:
        return [self.others, *(pool for _, pool in self.pools)]
