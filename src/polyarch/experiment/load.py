"""The load: a node beside the clients that asks for what a job's visits ask for, and writes the history.

It is a node like any other, so the same file loads a simulation and a live system.

The k-th visit that begins is the same for the same seed, whatever the architecture and the runtime; so is
the time of its arrival in an open loop.  (How many visits a closed loop makes depends on the system; what
follows a failed operation of a visit is not asked for.)

Open loop: visits arrive at random (Poisson) or evenly at a rate, whatever the system does; latency counts
from the intended start (no coordinated omission).  Closed loop: a number of clients, each of which makes
its next visit when the last one has ended.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.job import Done, Job, Operation, Visit
from polyarch.core.messages import rpc, schema_of
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import Ledger, Task
from polyarch.measure.histogram import Histogram
from polyarch.runtimes.base import Named

__all__ = ["Load", "LoadClient", "LoadResult"]

_PATIENCE = 15.0
"""Seconds after which an operation that the client itself does not end is given up (outcome unknown)."""
_MANY = 1_000_000
"""Visits that one of them makes at most."""
_INSTANT = 1e-6
"""Seconds that a closed-loop client waits after a visit that took no (virtual) time at all."""


class Load(Record):
    """What to ask for, and how fast."""

    duration: float
    """Seconds during which visits begin."""
    rate: float | None = None
    """Open loop: operations per second."""
    clients: int | None = None
    """Closed loop: clients."""
    trace: str | None = None
    """Open loop at the times of a recorded trace, a file."""
    speedup: float = 1.0
    """How many times faster than recorded."""
    arrivals: Literal["poisson", "steady"] = "poisson"
    account: int = 1
    """The costs of every ``account``-th operation are counted; 0: of none."""
    name: str = ""
    """Seeds its arrivals; by it ``LoadClient.plan`` knows it again."""


class LoadResult(Record):
    """What came of it.  Histograms as ``Histogram.to_dict``: ns from the intended start, successes only."""

    attempted: int
    ok: int
    failed: int
    unknown: int
    seconds: float
    """From the first visit's start to the end of the load (not of the last operation)."""
    in_time: int
    """Successes that ended within the load: what throughput counts."""
    latency: dict[str, dict[str, Any]]
    """By operation."""
    lateness: dict[str, Any]
    """How late the load itself was, in ns: whether the generator kept up."""
    codes: dict[str, int]
    """How often each failure came."""
    accounted: int
    """Operations whose costs were counted: the next three are their sums."""
    messages: int
    bytes: int
    hops: int
    first: int
    """The number of its first operation in the history."""


class LoadClient(Node):
    """One per session, in the process of the clients."""

    timeout: ClassVar[float | None] = None
    job: Named
    seed: int = 0

    async def start(self) -> None:
        made: Job = self.job.make()
        self.port = made
        self.visits = made.visits(self.random.fork(f"visits {self.seed}"))
        self.history: list[Done] = []
        # Beside the clients' k-th process is the k-th of these; their operations are told apart.
        self.number = int(self.address.rpartition("-")[2]) if "-" in self.address else 0
        self.numbers = itertools.count(self.number * _MANY)
        self.planned: dict[str, list[tuple[float, Visit]]] = {}

    @rpc
    async def run(self, load: Load) -> LoadResult:
        """Load the system; returns when every operation has ended."""
        tally = _Tally(self, load)
        if load.trace is not None:
            await self._follow(self._recorded(load), tally)
        elif load.rate is not None:
            planned = self.planned.pop(load.name, None)
            await self._follow(self._arriving(load) if planned is None else iter(planned), tally)
        else:
            await self._closed(load, tally)
        return tally.result()

    @rpc
    async def plan(self, loads: list[Load]) -> None:
        """Draw the visits of open loops before any others: then they are the same ones whatever a closed
        loop takes in between."""
        for load in loads:
            self.planned[load.name] = list(self._arriving(load))

    @rpc
    async def hand_over(self, name: str) -> list[tuple[float, Visit]]:
        """A load that was planned, for another one to make."""
        return self.planned.pop(name)

    @rpc
    async def take_over(self, name: str, planned: list[tuple[float, Visit]]) -> None:
        """A load that another one has planned."""
        self.planned[name] = planned

    @rpc
    async def past(self, start: int, most: int) -> list[Done]:
        """Part of the history of all operations so far, in the order in which they ended."""
        return self.history[start : start + most]

    # -- arrivals -------------------------------------------------------------------------------------

    def _arriving(self, load: Load) -> Iterator[tuple[float, Visit]]:
        assert load.rate is not None
        gap = self.port.mean_visit / load.rate
        random = self.random.fork(f"arrivals {self.seed} {load.name}")
        if load.arrivals == "poisson":
            at = random.exponential(gap)
            while at < load.duration:
                yield at, next(self.visits)
                at += random.exponential(gap)
        else:
            for i in range(math.ceil(load.duration / gap - 1e-9)):
                yield i * gap, next(self.visits)

    def _recorded(self, load: Load) -> Iterator[tuple[float, Visit]]:
        assert load.trace is not None
        for at, visit in self.port.trace(Path(load.trace)):
            if at / load.speedup >= load.duration:
                return
            yield at / load.speedup, visit

    async def _follow(self, schedule: Iterator[tuple[float, Visit]], tally: _Tally) -> None:
        """Start every visit at its time, or at once when that has passed; never skip one."""
        running: dict[Task, None] = {}
        for at, visit in schedule:
            wait = tally.begin + at - self.now
            if wait > 0:
                await self.sleep(wait)
            tally.lateness.record(max(0, round((self.now - tally.begin - at) * 1e9)))
            task = self.spawn(self._visit(visit, at, tally))
            if not task.done:
                running[task] = None
                task.watch(running.pop)
        rest = tally.begin + tally.load.duration - self.now
        if rest > 0 and tally.load.trace is None:
            await self.sleep(rest)
        tally.close()
        for task in list(running):
            await task

    async def _closed(self, load: Load, tally: _Tally) -> None:
        end = tally.begin + load.duration

        async def client() -> None:
            while (began := self.now) < end:
                await self._visit(next(self.visits), began - tally.begin, tally)
                if self.now <= began:  # answered at once, in virtual time: it would go on for ever
                    await self.sleep(_INSTANT)

        async def clock() -> None:
            await self.sleep(load.duration)
            tally.close()

        tasks = [self.spawn(client()) for _ in range(load.clients or 1)]
        await self.spawn(clock())
        for task in tasks:
            await task

    # -- operations -----------------------------------------------------------------------------------

    async def _visit(self, visit: Visit, intended: float, tally: _Tally) -> None:
        number = next(self.numbers)
        for operation in visit:
            ledger = Ledger() if tally.counts() else None
            # A task of its own, so that its depth and its ledger begin at zero.
            task = Task(self._env, self._operation(number, operation, intended, tally), ledger, 0)
            task.resume()
            if not await task:
                return
            intended = self.now - tally.begin

    async def _operation(self, visit: int, operation: Operation, intended: float, tally: _Tally) -> bool:
        start = self.now - tally.begin
        value, code, detail, outcome = None, "", "", "ok"
        try:
            value = await getattr(self._client, operation.name)(*operation.arguments)
        except Failure as failure:
            code, detail = failure.code, failure.detail
            outcome = "fail" if failure.definite else "info"
        end = self.now - tally.begin
        tally.count(operation.name, outcome, code, intended, end, self._env.current)
        done = Done(
            visit, operation.name, operation.arguments, tally.begin + intended, tally.begin + start,
            tally.begin + end, outcome, msgspec.to_builtins(value), code, detail,  # type: ignore[arg-type]
        )  # fmt: skip
        self.history.append(done)
        return outcome == "ok"

    @property
    def _client(self) -> Any:
        reference = self.__dict__.get("_reference")
        if reference is None:
            reference = schema_of(self.port.port).reference(self._env, f"client-{self.number}", _PATIENCE)
            self._reference = reference
        return reference


class _Tally:
    """The sums of one load."""

    def __init__(self, client: LoadClient, load: Load) -> None:
        self.client = client
        self.load = load
        self.begin = client.now
        self.first = len(client.history)
        self.latency: dict[str, Histogram] = {}
        self.lateness = Histogram()
        self.outcomes = {"ok": 0, "fail": 0, "info": 0}
        self.codes: dict[str, int] = {}
        self.in_time = 0
        self.open = True
        self.seconds = 0.0
        self.started = self.accounted = self.messages = self.bytes = self.hops = 0

    def counts(self) -> bool:
        """Whether the next operation's costs are counted."""
        self.started += 1
        return bool(self.load.account) and self.started % self.load.account == 0

    def count(self, name: str, outcome: str, code: str, intended: float, end: float, task: Task) -> None:
        """An operation has ended."""
        self.outcomes[outcome] += 1
        if outcome == "ok":
            self.in_time += self.open
            histogram = self.latency.get(name)
            if histogram is None:
                histogram = self.latency[name] = Histogram()
            histogram.record(max(0, round((end - intended) * 1e9)))
            if task.ledger is not None:
                self.accounted += 1
                self.messages += task.ledger.messages
                self.bytes += task.ledger.bytes
                self.hops += task.depth
        else:
            self.codes[code] = self.codes.get(code, 0) + 1

    def close(self) -> None:
        """The load is over; what is still running counts no more for throughput."""
        if self.open:
            self.open = False
            self.seconds = self.client.now - self.begin

    def result(self) -> LoadResult:
        self.close()
        o = self.outcomes
        return LoadResult(
            sum(o.values()), o["ok"], o["fail"], o["info"], self.seconds, self.in_time,
            {name: h.to_dict() for name, h in self.latency.items()}, self.lateness.to_dict(), self.codes,
            self.accounted, self.messages, self.bytes, self.hops, self.first,
        )  # fmt: skip
