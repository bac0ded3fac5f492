"""A schedule: everything that decides one simulated run, in one record, and what came of the run.

From a seed ``draw`` makes the clients' operations, the faults, and the links; ``perform`` runs them.  All of
it is explicit in the record, so that a part can be left out (``shrink.py``) and the rest kept in a file.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.job import Done, Job, Operation
from polyarch.core.messages import rpc, schema_of
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Architecture, System
from polyarch.core.tasks import settle
from polyarch.faults.spec import Fault, inject
from polyarch.runtimes.base import EXPERIMENTER, Experimenter, Named, given
from polyarch.runtimes.sim.network import Network
from polyarch.runtimes.sim.options import parse_latency
from polyarch.runtimes.sim.session import SimSession

__all__ = ["RANDOM_FAULTS", "Asked", "Result", "Schedule", "Setting", "Violation", "draw", "perform"]

RANDOM_FAULTS = ("crash", "torn", "pause", "partition", "loss", "delay", "duplicate", "reorder", "skew")
"""Kinds of faults that a seed chooses from."""
LEADER = "leader"
"""In place of a process: the one that the architecture says leads, when the fault begins."""
_PATIENCE = 15.0  # seconds after which an operation that the client itself does not end is given up
_HEALING = 60.0  # seconds that a healed system has to be ready for work again
_ENDLESS = 10_000_000  # events after which a run is given up: nodes that keep each other busy in no time
_STEP = 0.1  # seconds between two looks at the invariants
_LINKS = ("1ms", "0.5ms-2ms", "exp:3ms")


class Asked(Record, array_like=True):
    """One visit: who makes it, when it begins at the earliest, and its operations, one after another."""

    client: int
    at: float
    operations: tuple[Operation, ...]


class Schedule(Record):
    """All that decides a run."""

    architecture: Named
    job: Named
    seed: int
    """Of the nodes' and the links' own randomness."""
    duration: float
    """Seconds of load; then all is healed, and the system has to work again."""
    clients: int
    latency: str
    disk_sync: float
    faults: tuple[Fault, ...]
    visits: tuple[Asked, ...]

    @property
    def operations(self) -> int:
        return sum(len(visit.operations) for visit in self.visits)


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
    begin: float
    """Virtual seconds at which the load began."""
    events: int
    trace_hash: str


@dataclasses.dataclass
class Setting:
    """What ``draw`` draws from: the same for all seeds."""

    architecture: Architecture
    job: Job
    duration: float = 10.0
    clients: int = 5
    rate: float = 10.0
    """Operations per second, of all clients together."""
    kinds: Sequence[str] = RANDOM_FAULTS
    faults: Sequence[Fault] = ()
    """To be done in every run, besides."""

    def __post_init__(self) -> None:
        self.named = (
            Named.of(self.architecture, self.architecture.values),
            Named.of(self.job, self.job.values),
        )
        self.system = System()
        self.architecture.build(self.system)
        self.roles = {role.name: role.process_names() for role in self.system.roles.values()}
        self.processes = [name for names in self.roles.values() for name in names]


# -- drawing ------------------------------------------------------------------------------------------------


def draw(setting: Setting, seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed).fork("schedule")
    architecture, job = setting.named
    faults = (*setting.faults, *_Wrecker(setting, random.fork("faults")).faults())
    return Schedule(
        architecture,
        job,
        seed,
        setting.duration,
        setting.clients,
        random.choice(_LINKS),
        random.choice((0.0005, 0.002, 0.01)),
        faults,
        tuple(_visits(setting, faults, random.fork("visits"))),
    )


def _visits(setting: Setting, faults: Sequence[Fault], random: Random) -> Iterator[Asked]:
    """Clients that think for a while between their visits.  Half of the visits are at any time, half come
    soon after a fault has begun or ended: that is when something may be wrong."""
    visits, duration = setting.job.visits(random.fork("job")), setting.duration
    moments = [t for f in faults for t in (f.start, f.end) if t is not None and t < duration]
    times = []
    for _ in range(max(1, round(duration * setting.rate / setting.job.mean_visit))):
        at = random.between(0.0, duration)
        if moments and random.chance(0.5):
            at = random.choice(moments) + random.exponential(0.5)
        if at < duration:
            times.append(round(at, 6))
    for at in sorted(times):
        yield Asked(random.below(setting.clients), at, next(visits))


class _Wrecker:
    """Draws faults.  Each schedule has only some kinds of them: so they meet in more ways than if each had
    all (Groce et al., "Swarm testing", 2012)."""

    def __init__(self, setting: Setting, random: Random) -> None:
        self.setting = setting
        self.random = random
        self.names = setting.processes
        self.clients = [f"client-{i}" if i else "client" for i in range(setting.clients)]

    def faults(self) -> Iterator[Fault]:
        random, kinds = self.random, list(self.setting.kinds)
        if not kinds or not self.names:
            return
        chosen = random.sample(kinds, min(len(kinds), 1 + random.below(4)))
        # Most of what goes wrong needs one of these two.
        chosen += [kind for kind in ("crash", "partition") if kind in kinds and random.chance(0.5)]
        end = 0.0
        for _ in range(random.below(12)):
            # Most come close after another one, while the system still mends itself.
            if end and random.chance(0.6):
                start = end + random.exponential(0.3) - random.between(0.0, 0.1)
            else:
                start = random.between(0.0, self.setting.duration * 0.95)
            start = min(max(start, 0.0), self.setting.duration * 0.95)
            kind, length = random.random(), random.exponential(0.4)
            if kind < 0.15:
                length = random.between(0.001, 0.02)  # before anybody notices
            elif kind < 0.3:
                length += 1.5  # until all have noticed
            end = start + max(length, 0.001)
            yield from getattr(self, f"_{random.choice(chosen)}")(round(start, 6), round(end, 6))

    def _fault(
        self,
        kind: str,
        start: float,
        end: float,
        sources: Sequence[str],
        targets: Sequence[str] = (),
        both_ways: bool = False,
        amount: float = 0.0,
    ) -> Fault:
        return Fault(kind, tuple(sources), tuple(targets), both_ways, amount, start, end, "")

    def _victims(self) -> list[str]:
        """Whoever leads, one of all, a minority, or everybody."""
        random = self.random
        shape = random.random()
        if shape < 0.4:
            return [LEADER]
        if shape < 0.75:
            return [random.choice(self.names)]
        if shape < 0.95:
            return random.sample(self.names, 1 + random.below(max(1, len(self.names) // 2)))
        return list(self.names)

    def _crash(self, start: float, end: float, kept: float = 0.0) -> Iterator[Fault]:
        for name in self._victims():
            yield self._fault("crash", start, end, [name], amount=kept)

    def _torn(self, start: float, end: float) -> Iterator[Fault]:
        return self._crash(start, end, round(self.random.between(0.01, 1.0), 3))

    def _pause(self, start: float, end: float) -> Iterator[Fault]:
        for name in self._victims():
            yield self._fault("pause", start, end, [name])

    def _skew(self, start: float, end: float) -> Iterator[Fault]:
        amount = round(self.random.between(-0.5, 0.5) * self.random.random(), 6)
        yield self._fault("skew", start, end, self._victims()[:1], amount=amount)

    def _partition(self, start: float, end: float) -> Iterator[Fault]:
        random, names = self.random, list(self.names)
        random.shuffle(names)
        n, shape = len(names), random.random()
        if shape < 0.35 or n < 3:  # somebody, or who leads, alone with some of the clients
            alone = LEADER if random.chance(0.5) else names[0]
            with_it, others = self._split(self.clients)
            rest = [name for name in self.names if name != alone]
            yield self._cut(start, end, [alone, *with_it], [*rest, *others])
        elif shape < 0.6:  # halves
            size = 1 + random.below(n - 1)
            left, right = self._split(self.clients)
            yield self._cut(start, end, names[:size] + left, names[size:] + right)
        elif shape < 0.75:  # a bridge: one node that both halves reach
            size = 1 + random.below(n - 2)
            yield self._cut(start, end, names[1 : 1 + size], names[1 + size :])
        elif shape < 0.9:  # a ring of majorities: each sees a majority, no two the same
            reach = n // 4 + 1 if n > 3 else 1
            for i, name in enumerate(names):
                far = [names[j] for j in range(i + 1, n) if min(j - i, n - j + i) > reach]
                if far:
                    yield self._cut(start, end, [name], far)
        else:  # one way
            size = 1 + random.below(n - 1)
            yield self._cut(start, end, names[:size], names[size:], both_ways=False)

    def _split(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Some to the left, some to the right; or all reach both."""
        if self.random.chance(0.4):
            return [], []
        left = [name for name in names if self.random.chance(0.5)]
        return left, [name for name in names if name not in left]

    def _cut(
        self, start: float, end: float, a: Sequence[str], b: Sequence[str], both_ways: bool = True
    ) -> Fault:
        return self._fault("partition", start, end, a, b, both_ways, 1.0)

    def _links(self, kind: str, start: float, end: float, amount: float) -> Iterator[Fault]:
        everybody = [*self.names, *self.clients]
        if self.random.chance(0.5):
            yield self._fault(kind, start, end, everybody, everybody, False, amount)
        else:
            size = min(len(self.names), 1 + self.random.below(3))
            yield self._fault(
                kind, start, end, self.random.sample(self.names, size), everybody, False, amount
            )

    def _loss(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("loss", start, end, round(self.random.between(0.01, 0.4), 3))

    def _delay(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("delay", start, end, round(self.random.exponential(0.08), 4))

    def _duplicate(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("duplicate", start, end, round(self.random.between(0.01, 0.4), 3))

    def _reorder(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("reorder", start, end, round(self.random.between(0.05, 0.5), 3))


# -- performing ---------------------------------------------------------------------------------------------


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
        self.addresses = [a for p in session.system.processes() for a, _ in p.nodes]

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
        audit = await self._patiently(lambda: self.job.audit(x.client))
        _, verdicts = await self._patiently(lambda: self.architecture.observe(x))
        self.look()
        for verdict in verdicts:
            if not verdict.holds and verdict.name not in self.architecture.disclaims:
                self._violated(verdict.name, verdict.detail)
        return audit

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
        if x.now >= end:
            return
        self.look()
        if LEADER in fault.sources:
            fault = self.faults[place] = self._aimed(fault)
        if fault.kind == "crash" and fault.amount:
            for name in fault.sources:
                await x.control.crash(name, kept=fault.amount)  # type: ignore[call-arg]
        await inject(x, fault, begin, end)

    def _aimed(self, fault: Fault) -> Fault:
        """The fault with the process that leads; if none does, one that the seed chooses."""
        system, nodes = self.session.system, self.nodes()
        address = self.architecture.leader(nodes)
        homes = {a: p.name for p in system.processes() for a, _ in p.nodes}
        names = list(dict.fromkeys(homes.values()))
        chosen = homes.get(address or "") or names[(self.schedule.seed + len(fault.text)) % len(names)]
        sources = tuple(dict.fromkeys(chosen if s == LEADER else s for s in fault.sources))
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
        directory = self.session.kernel.directory
        return {
            a: env.node
            for a in self.addresses
            if (env := directory[a]).node is not None and env.inbox is None
        }

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
                elif not verdict.holds and verdict.name not in getattr(self.architecture, "disclaims", ()):
                    self.violations.append(Violation(verdict.name, verdict.detail, now))
        schedule = msgspec.structs.replace(self.schedule, faults=tuple(self.faults))
        return Result(
            schedule, history, self.violations, undecided, audit, plan.begin, kernel.events, kernel.trace_hash
        )


async def _ask(x: Experimenter, address: str, number: int) -> None:
    await x.at(address, Script).perform(number)


def typed(schedule: Schedule, job: Job) -> Schedule:
    """A schedule read from a file, with the arguments of its operations typed again."""
    methods = schema_of(job.port).methods

    def operation(o: Operation) -> Operation:
        return Operation(o.name, methods[o.name].check(tuple(o.arguments)))

    visits = tuple(Asked(v.client, v.at, tuple(map(operation, v.operations))) for v in schedule.visits)
    return msgspec.structs.replace(schedule, visits=visits)
