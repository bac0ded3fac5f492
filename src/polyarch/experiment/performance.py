"""One run of a schedule on the simulator, and what came of it.

While it runs its invariants are looked at again and again.  When its load is over all is healed, the system
has to work again, and the history that the clients saw is judged.  The first thing that is wrong ends it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.job import Done, Job, Operation
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Architecture
from polyarch.core.tasks import settle
from polyarch.experiment.mischief import LEADER, ONCE_ANOTHER_LEADS, ONCE_LED, OTHERS
from polyarch.experiment.schedule import Asked, Schedule
from polyarch.faults.spec import Fault, inject
from polyarch.runtimes.base import EXPERIMENTER, Experimenter, given
from polyarch.runtimes.sim.network import Network, ns
from polyarch.runtimes.sim.options import parse_latency
from polyarch.runtimes.sim.session import SimSession

__all__ = ["Result", "Violation", "perform"]

_PATIENCE = 15.0  # seconds after which an operation that the client itself does not end is given up
_HEALING = 60.0  # seconds that a healed system has to be ready for work again
_ENDLESS = 10_000_000  # events after which a run is given up: nodes that keep each other busy in no time
_STEP = 0.1  # seconds between two looks at the invariants
_GLANCE = 0.002  # seconds between two looks at who leads
_LEADERLESS = 1.0  # seconds that a fault waits for somebody to lead


class Violation(Record):
    """Something that must hold and does not."""

    kind: str
    """What should hold, as a sentence."""
    detail: str
    """What was found."""
    at: float
    """Seconds since the start of the load at which it was noticed."""


@dataclasses.dataclass
class Result:
    """What came of a run.  Times are seconds since the start of the load."""

    schedule: Schedule
    """With the faults as they were done: ``leader`` is the process that led."""
    history: list[Done]
    violations: list[Violation]
    undecided: list[str]
    """What a checker could not decide within its budget."""
    audit: Any
    given: Schedule
    """With the faults as they were given.  If one of them waited for its moment, only this is the same run
    event for event."""
    begin: float
    """Virtual seconds at which the load began."""
    events: int
    trace_hash: str


class _Plan:
    """What the clients are to do, and what they have done."""

    def __init__(self, schedule: Schedule, port: type) -> None:
        self.port = port
        self.begin = 0.0
        self.history: list[Done] = []
        self.open: dict[int, tuple[int, Operation, float]] = {}
        self.numbers = itertools.count()
        self.visits: dict[int, list[Asked]] = {}
        for visit in schedule.visits:
            self.visits.setdefault(visit.client, []).append(visit)


class Script(Node):
    """Beside each client: does what the schedule says, one operation at a time."""

    timeout = None
    plan: _Plan

    @rpc
    async def perform(self, number: int) -> None:
        plan = self.plan
        client: Any = self.at(f"client-{number}", plan.port, timeout=_PATIENCE)
        for visit in plan.visits.get(number, ()):
            if (wait := plan.begin + visit.at - self.now) > 0:
                await self.sleep(wait)
            for operation in visit.operations:
                if not await self.do(client, number, operation):
                    break

    async def do(self, client: Any, number: int, operation: Operation) -> bool:
        plan, start, place = self.plan, self.now - self.plan.begin, next(self.plan.numbers)
        plan.open[place] = (number, operation, start)
        value, code, detail, outcome = None, "", "", "ok"
        try:
            value = await getattr(client, operation.name)(*operation.arguments)
        except Failure as failure:
            code, detail = failure.code, failure.detail
            outcome = "fail" if failure.definite else "info"
        del plan.open[place]
        plan.history.append(
            Done(
                number, operation.name, operation.arguments, start, start, self.now - plan.begin,
                outcome, msgspec.to_builtins(value), code, detail,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        return outcome == "ok"


def perform(
    schedule: Schedule,
    *,
    made: tuple[Architecture, Job] | None = None,
    watch: Callable[[SimSession], None] | None = None,
) -> Result:
    """Run a schedule on the simulator, and check what came of it.

    ``made``: the architecture and the job, if they are there already.  ``watch``: given the session before
    it runs."""
    architecture, job = made or (schedule.architecture.make(), schedule.job.make())
    plan = _Plan(schedule, job.port)
    session = SimSession(
        architecture,
        seed=schedule.seed,
        network=Network(latency=parse_latency(schedule.latency)),
        detailed=False,
        links=True,
        clients=schedule.clients,
        disk_sync=schedule.disk_sync,
        beside_clients=[Script(plan=given(plan))],
    )
    try:
        if watch is not None:
            watch(session)
        run = _Performance(schedule, architecture, job, session, plan)
        session.kernel.progress = run.limit
        try:
            audit = session.perform(run.experiment)
        except _EndlessError:
            audit = None
            run.endless()
        return run.result(audit)
    finally:
        session.close()


class _EndlessError(Exception):
    pass


class _Performance:
    """One run, while it lasts."""

    def __init__(
        self, schedule: Schedule, architecture: Architecture, job: Job, session: SimSession, plan: _Plan
    ) -> None:
        self.schedule = schedule
        self.architecture = architecture
        self.job = job
        self.session = session
        self.plan = plan
        self.seen: dict[Any, Any] = {}
        self.violations: list[Violation] = []
        self.faults = list(schedule.faults)
        kind = type(architecture)
        self.has_invariants = kind.invariants is not Architecture.invariants
        self.processes = [session.kernel.processes[p.name] for p in session.system.processes()]
        self._running: tuple[int, dict[str, Any]] = (-1, {})

    async def experiment(self, x: Experimenter) -> Any:
        schedule, plan, control = self.schedule, self.plan, x.control
        self.x = x
        await self.architecture.ready(x)
        await self.job.prepare(x.client)
        begin = plan.begin = x.now
        end = begin + schedule.duration
        faults = [x.spawn(self._do(i, fault, begin, end)) for i, fault in enumerate(schedule.faults)]
        scripts = [x.spawn(_ask(x, f"script-{i}" if i else "script", i)) for i in sorted(plan.visits)]
        while x.now < end and not self.violations:
            await x.sleep(max(1e-6, min(_STEP, end - x.now)))  # what is less than a clock's tick is nothing
            self.look()
        if self.violations:
            return None
        await settle(*faults)
        await control.heal()
        for process in self.session.system.processes():
            await control.resume(process.name)
            await control.restart(process.name)
            await control.skew(process.name)
        await settle(*scripts)
        self.look()
        if not await self._is_ready():
            return self._violated("works again when all is healed", f"not ready {_HEALING:g} s later")
        try:
            audit = await self._patiently(lambda: self.job.audit(x.client))
            _, verdicts = await self._patiently(lambda: self.architecture.observe(x))
        except Failure as failure:
            return self._violated("can be looked at when all is healed", str(failure))
        self.look()
        for verdict in verdicts:
            if not verdict.holds and verdict.name not in self.disclaimed:
                self._violated(verdict.name, verdict.detail)
        return audit

    @property
    def disclaimed(self) -> tuple[str, ...]:
        """Verdicts that the architecture does not promise with these faults."""
        return self.architecture.disclaims_under([fault.text for fault in self.schedule.faults])

    def limit(self, seconds: float) -> None:
        """Told now and then by the kernel."""
        if self.session.kernel.events > _ENDLESS:
            raise _EndlessError

    def endless(self) -> None:
        seconds = self.session.kernel.now * 1e-9 - self.plan.begin
        found = f"{_ENDLESS:,} events in {seconds:g} s"
        self.violations[:] = [Violation("nodes do not keep each other busy for ever", found, seconds)]

    async def _do(self, place: int, fault: Fault, begin: float, end: float) -> None:
        """One fault, at its time; the look before it sees what it may hide."""
        x = self.x
        await x.sleep(begin + fault.start - x.now)
        if fault.text.startswith((ONCE_LED, ONCE_ANOTHER_LEADS)):
            fault = self.faults[place] = await self._once_led(fault, begin, end)
        if x.now >= end:
            return
        self.look()
        if LEADER in fault.sources or OTHERS in fault.sources:
            fault = self.faults[place] = self._aimed(fault)
        if fault.kind == "crash" and fault.amount:
            for name in fault.sources:
                await x.control.crash(name, kept=fault.amount)  # type: ignore[call-arg]
        if fault.kind == "drift":
            await self._drift(fault, begin, end)
        elif fault.kind == "operate":
            await self.architecture.operate(x, Random(int(fault.amount)))
        else:
            await inject(x, fault, begin, end, self.session.system)

    async def _once_led(self, fault: Fault, begin: float, end: float) -> Fault:
        """The fault as it begins now, a little after somebody leads; not if nobody does for long."""
        x = self.x
        until = min(end, x.now + _LEADERLESS)
        when, _, lag = fault.text.rpartition("+")
        not_these: list[str | None] = [None]
        if when.startswith(ONCE_ANOTHER_LEADS):
            not_these.append(self.architecture.leader(self.nodes()))
        await self._leader_beside(not_these, until)
        await x.sleep(float(lag))
        start = round(x.now - begin, 6)
        length = None if fault.end is None else start + fault.end - fault.start
        return msgspec.structs.replace(fault, start=start, end=length, text="")

    async def _leader_beside(self, not_these: Sequence[str | None], until: float) -> None:
        """Until somebody leads who is none of these, but no longer than that.  (Glances are events of the
        kernel's own: a sleep of a node each would be a third of what a schedule costs.)"""
        kernel, found, leader = self.session.kernel, self.x.future(), self.architecture.leader
        step, last = ns(_GLANCE), ns(until)

        def glance(event: tuple[Any, ...]) -> None:
            if kernel.now >= last or leader(self.nodes()) not in not_these:
                found.set(None)
            else:
                kernel.schedule(kernel.now + step, event)

        glance((glance,))
        await found

    async def _drift(self, fault: Fault, begin: float, end: float) -> None:
        """Clocks run faster or slower for a while; they are set right when it is over, not before."""
        x, kernel = self.x, self.session.kernel
        for name in fault.sources:
            clock, now = kernel.processes[name], kernel.now * 1e-9
            offset = now * (clock.drift - fault.amount) + clock.offset
            await x.control.skew(name, offset=offset, drift=fault.amount)
        until = end if fault.end is None else min(end, begin + fault.end)
        await x.sleep(max(0.0, until - x.now))
        for name in fault.sources:
            await x.control.skew(name)

    def _aimed(self, fault: Fault) -> Fault:
        """The fault with the process that leads; if none does, one that the seed chooses."""
        system, nodes = self.session.system, self.nodes()
        address = self.architecture.leader(nodes)
        homes = {a: p.name for p in system.processes() for a, _ in p.nodes}
        names = list(dict.fromkeys(homes.values()))
        chosen = homes.get(address or "") or names[(self.schedule.seed + len(fault.text)) % len(names)]
        meant = {LEADER: [chosen], OTHERS: [name for name in names if name != chosen]}
        sources = tuple(dict.fromkeys(name for s in fault.sources for name in meant.get(s, [s])))
        targets = tuple(t for t in fault.targets if t not in sources)
        return msgspec.structs.replace(fault, sources=sources, targets=targets)

    async def _is_ready(self) -> bool:
        x = self.x
        ready = x.future()
        task = x.spawn(self.architecture.ready(x))
        task.watch(lambda done: ready.set(done.error is None))
        try:
            return bool(await ready.within(_HEALING))
        except Failure:
            return False

    async def _patiently(self, ask: Callable[[], Any]) -> Any:
        for _ in range(20):
            try:
                return await ask()
            except Failure:
                await self.x.sleep(0.25)
        return await ask()

    def nodes(self) -> Mapping[str, Any]:
        """The nodes that run, by address."""
        lives, running = self._running
        if lives != self.session.kernel.lives:
            running = {
                env.address: env.node
                for process in self.processes
                for env in process.envs
                if env.node is not None and env.inbox is None
            }
            self._running = self.session.kernel.lives, running
        return running

    def look(self) -> None:
        """Do the invariants hold now, and has no node raised what it should not?"""
        if self.violations:
            return
        for _, where, error in self.session.kernel.bugs:
            if where != EXPERIMENTER:
                self._violated("no node raised an exception", f"{where}: {type(error).__name__}: {error}")
                return
        if self.has_invariants:
            for text in self.architecture.invariants(self.nodes(), self.seen):
                kind, _, detail = text.partition(": ")
                self._violated(kind, detail)
                return

    def _violated(self, kind: str, detail: str) -> None:
        self.violations.append(Violation(kind, detail, self.x.now - self.plan.begin))

    def result(self, audit: Any) -> Result:
        """Judge the history, if nothing was wrong before."""
        kernel, undecided, plan = self.session.kernel, [], self.plan
        now = kernel.now * 1e-9 - plan.begin
        history = [
            *plan.history,
            *(
                Done(client, o.name, o.arguments, start, start, now, "info", None, "running")
                for client, o, start in plan.open.values()
            ),
        ]
        kernel.note(msgspec.msgpack.encode([(d.client, d.name, d.outcome, repr(d.value)) for d in history]))
        if not self.violations:
            for verdict in self.job.check(history, audit):
                if verdict.undecided:
                    undecided.append(verdict.name)
                elif not verdict.holds and verdict.name not in self.disclaimed:
                    self.violations.append(Violation(verdict.name, verdict.detail, now))
        schedule = msgspec.structs.replace(self.schedule, faults=tuple(self.faults))
        return Result(
            schedule, history, self.violations, undecided, audit, self.schedule, plan.begin, kernel.events,
            kernel.trace_hash,
        )  # fmt: skip


async def _ask(x: Experimenter, address: str, number: int) -> None:
    await x.at(address, Script).perform(number)
