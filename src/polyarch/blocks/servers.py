"""What the four models of a server share: the operations, how requests wait and are refused, what is counted.

A model (``architectures/single_threaded.py``, ``thread_per_connection.py``, ``thread_pool.py``,
``event_loop.py``) says who does the work of a request and who waits in its blocking call.  All of them
refuse a request at once that they have no place for: an answer of "not now" costs little (live, 0.06 ms of
the server's own thread; but clients who ask again at once, a hundred of them, took 40 % of a server whose
work is 2 ms), while a queue without an end makes everybody wait until nobody is there any more for whom the
work would be done.

Those who wait in a queue may give up meanwhile.  A request says how long its sender waits
(``core/asker.py``); when its turn comes and the answer would be too late, it is not begun but refused
(``deadlines``; the server learns how long requests take): otherwise a server with a long queue does, under
overload, nothing but work that is thrown away.  What has begun is not interrupted, and a switch does not tell
its servers that a client has gone: they know how long the switch waits.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

from polyarch.blocks.fairness import jain
from polyarch.blocks.relay import relaying
from polyarch.core import (
    Asker,
    BadArguments,
    Failure,
    Future,
    Http,
    Over,
    Overloaded,
    Record,
    Verdict,
    Web,
    asker,
    rpc,
    settle,
)
from polyarch.jobs.compute import MOST, Compute, Seconds

__all__ = ["METRICS", "Asked", "ComputeClient", "Line", "Order", "Server", "Tally", "figures"]

Order = Literal["fifo", "fair"]
"""In which order requests that wait are taken: as they came, or one of each client in turn."""


class Asked:
    """A request that is under way in a server."""

    __slots__ = ("asker", "begun", "blocking", "client", "done", "expired", "step", "work")

    def __init__(
        self, done: Future[None], work: float, blocking: float, client: int, asker: Asker | None = None
    ) -> None:
        self.done = done
        self.asker = asker
        """Who waits for it; None: that does not matter."""
        self.work = work
        """Seconds of a core that it needs."""
        self.blocking = blocking
        """Seconds that it then waits for something else."""
        self.client = client
        self.step = 0
        """How far it has come, for a server that keeps this in mind for every request."""
        self.begun: float | None = None
        """When, by the server's clock."""
        self.expired = False
        """No time was left for it when its turn came."""

    def begins(self, now: float, pace: Pace) -> bool:
        """It is begun, unless it would not be done in time: then it is refused."""
        if self.begun is not None:
            return True
        if self.asker is not None:
            takes = pace.most * (self.work + self.blocking)
            if not 0 < (left := self.asker.left) >= takes:
                self.expired = True
                self.done.fail(Overloaded(f"{left:.3g} s are left for what takes some {takes:.3g} s"))
                return False
        self.begun = now
        return True


class Pace:
    """How many times longer than they say requests take once they are begun, as cores are shared and there
    are others: a mean, and how far from it one may be (Jacobson, "Congestion avoidance and control", SIGCOMM
    1988, appendix A, who asks the same of round trips)."""

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean = 1.0
        self.deviation = 0.0

    def learn(self, ratio: float) -> None:
        """Of one that is done."""
        error = ratio - self.mean
        self.mean += error / 8
        self.deviation += (abs(error) - self.deviation) / 4

    @property
    def most(self) -> float:
        """Hardly any takes longer."""
        return self.mean + 4 * self.deviation


class Line:
    """Requests that wait, first come first served, for whoever takes the next."""

    def __init__(self, node: Server, places: float) -> None:
        """``places``: how many may wait."""
        self.node = node
        self.places = places
        self.waiting: deque[Asked] = deque()
        self.takers: deque[Future[Asked]] = deque()
        """Who has nothing to do."""

    @staticmethod
    def of(order: Order, node: Server, places: float) -> Line:
        """One of this order."""
        return FairLine(node, places) if order == "fair" else Line(node, places)

    def put(self, request: Asked) -> None:
        """Give it to somebody who has nothing to do, or let it wait; ``Overloaded`` if there is no place."""
        if self.takers:
            self.give(request)
        elif len(self.waiting) < self.places:
            self.waiting.append(request)
        else:
            raise Overloaded(f"{len(self.waiting)} requests are waiting already")

    async def take(self) -> Asked:
        """The next request for which there is time, when there is one."""
        node = self.node
        while request := self.next():
            if request.begins(node.now, node.pace):
                return request
        taker: Future[Asked] = self.node.future()
        self.takers.append(taker)
        return await taker

    def give(self, request: Asked) -> None:
        """To the one who has had nothing to do for longest."""
        if request.begun is None:
            request.begun = self.node.now
        self.takers.popleft().set(request)

    def next(self) -> Asked | None:
        """Take the one whose turn it is out of the line."""
        return self.waiting.popleft() if self.waiting else None


class FairLine(Line):
    """The clients in turn, one request of each (Nagle, "On packet switches with infinite storage", 1987).

    When it is full, the last request of the client that has most here makes place for another one (Demers,
    Keshav and Shenker, "Analysis and simulation of a fair queueing algorithm", SIGCOMM 1989, section 2)."""

    def __init__(self, node: Server, places: float) -> None:
        super().__init__(node, places)
        self.lines: dict[int, deque[Asked]] = {}
        """What each client has waiting, whose turn is next first."""
        self.length = 0

    def put(self, request: Asked) -> None:
        if self.takers:
            self.give(request)
            return
        if self.length >= self.places:
            self.make_place(request.client)
        self.lines.setdefault(request.client, deque()).append(request)
        self.length += 1

    def make_place(self, client: int) -> None:
        """Refuse the last request of the client that has most, unless that is the one who asks."""
        full = Overloaded(f"{self.length} requests are waiting already")
        most = max(self.lines.values(), key=len, default=deque())
        if len(most) <= len(self.lines.get(client, ())) + 1:
            raise full
        most.pop().done.fail(full)
        self.length -= 1

    def next(self) -> Asked | None:
        if not self.length:
            return None
        client, line = next(iter(self.lines.items()))
        request = line.popleft()
        self.length -= 1
        del self.lines[client]
        if line:
            self.lines[client] = line  # behind the others
        return request


class Tally(Record):
    """What a server has done so far."""

    arrived: int
    refused: int
    late: int
    """How many of the refused ones had waited, until there was no time left for them."""
    most: int
    """Most requests under way at a time, waiting ones included."""
    seconds: float
    """The sum of the times that requests, under way ones too, have spent here: the integral of their number
    over time."""
    served: dict[int, int]
    """Requests answered, by client; of each that has ever asked."""


class Server(Compute, Web):
    """A server of the job ``compute``, over HTTP and by messages.  A model says how: ``accept``."""

    title = "A server that computes"
    deadlines: bool = False
    """Requests whose answer would be late when their turn comes are not begun."""

    async def start(self) -> None:
        self.arrived = self.refused = self.late = self.under_way = self.most = 0
        self.seconds = self.since = 0.0
        self.served: dict[int, int] = {}
        self.pace = Pace()

    def accept(self, request: Asked) -> None:
        """Begin a request, or let it wait; ``Overloaded`` if there is no place for it.  Its ``done`` is set
        when its work is done and its blocking call is over."""
        raise NotImplementedError

    async def serve(self, work: float, blocking: float, client: int) -> None:
        """Let a request have what it takes of the server."""
        if not (0 <= work <= MOST and 0 <= blocking <= MOST):
            raise BadArguments(f"work and blocking are from 0 to {MOST:g} s, not {work:g} and {blocking:g}")
        who = await asker() if self.deadlines else None
        request = Asked(self.future(), work, blocking, client, who)
        self.arrived += 1
        self.served.setdefault(client, 0)
        try:
            self.accept(request)
            self.count(1)
            try:
                await request.done
            finally:
                self.count(-1)
        except Overloaded:
            self.refused += 1
            self.late += request.expired
            raise
        self.served[client] += 1
        if request.begun is not None and work + blocking > 0:
            self.pace.learn((self.now - request.begun) / (work + blocking))

    def count(self, change: int) -> None:
        """There are more or fewer requests here from now on."""
        now = self.now
        self.seconds += self.under_way * (now - self.since)
        self.since = now
        self.under_way += change
        self.most = max(self.most, self.under_way)

    @rpc
    def tally(self) -> Tally:
        """What this server has done so far."""
        self.count(0)
        return Tally(self.arrived, self.refused, self.late, self.most, self.seconds, self.served)

    # -- the operations ---------------------------------------------------------------------------------

    async def increment(
        self, value: int, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> int:
        await self.serve(work, blocking, client)
        return value + 1

    async def add(
        self, a: float, b: float, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> float:
        await self.serve(work, blocking, client)
        return a + b

    async def sort(
        self, numbers: tuple[float, ...], work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        await self.serve(work, blocking, client)
        return tuple(sorted(numbers))

    async def block(self, seconds: Seconds, work: Seconds = 0.0, client: int = 0) -> float:
        await self.serve(work, seconds, client)
        return seconds


class ComputeClient(relaying(Compute)):  # type: ignore[misc]
    """A client that asks one address over HTTP: a server, or a switch before several."""

    front: Http

    async def start(self) -> None:
        self.behind = Over(Compute, self.front)


METRICS = {
    "refused_share": "share of the requests that were refused because there was too much to do",
    "late_share": "share of the requests that were refused when their turn came: no time was left for them",
    "most_under_way": "most requests at a time in one server, waiting ones included",
    "mean_under_way": "mean number of requests in one server, waiting ones included",
    "fairness": "Jain's index of the requests answered by client: 1, all the same; 1/N, one of N has all",
}
"""What servers measure themselves."""


async def figures(x: Any, addresses: tuple[str, ...]) -> tuple[dict[str, Any], list[Verdict]]:
    """The metrics of these servers, of those that run."""
    told = await settle(*(x.at(address, Server).tally() for address in addresses))
    tallies = [tally for tally in told if not isinstance(tally, Failure)]
    arrived = sum(tally.arrived for tally in tallies)
    if not arrived:
        return {}, []
    served: dict[int, int] = {}
    for tally in tallies:
        for client, count in tally.served.items():
            served[client] = served.get(client, 0) + count
    metrics = {
        "refused_share": sum(tally.refused for tally in tallies) / arrived,
        "late_share": sum(tally.late for tally in tallies) / arrived,
        "most_under_way": max(tally.most for tally in tallies),
        "mean_under_way": sum(tally.seconds for tally in tallies) / len(tallies) / x.now,
        "fairness": jain(served.values()),
    }
    return metrics, []
