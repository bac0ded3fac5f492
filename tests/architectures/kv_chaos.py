"""A key-value store under load, broken at random from a seed, and judged: for the tests of replication."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from polyarch.core import Architecture, Done, Failure, Node, Random, System, Verdict, settle
from polyarch.jobs.kv import Kv
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Exponential, Network
from polyarch.runtimes.sim.session import SimSession


def session_of(architecture: Architecture, server: type[Node] | None = None, *, seed: int = 0) -> SimSession:
    """A simulation of an architecture; its servers of another class, if given."""
    system = System()
    architecture.build(system)
    if server is not None:
        declared = system.roles["server"].nodes[0]
        assert issubclass(server, type(declared))
        declared.__class__ = server
    return SimSession(system, seed=seed, network=Network(latency=Exponential(0.002, 0.0005)))


def nodes_of(session: SimSession) -> dict[str, Any]:
    """The servers that run, by address."""
    directory = session.kernel.directory.items()
    return {a: env.node for a, env in directory if a.startswith("server-") and env.node is not None}


async def load(x: Experimenter, job: Kv, clients: int, until: float) -> list[Done]:
    """Closed-loop clients; the history."""
    visits, history = job.visits(x.random.fork("load")), []

    async def client(number: int) -> None:
        while x.now < until:
            (operation,), start = next(visits), x.now
            value, outcome = None, "ok"
            try:
                value = await getattr(x.client, operation.name)(*operation.arguments)
            except Failure as failure:
                outcome = "fail" if failure.definite else "info"
            history.append(
                Done(number, operation.name, operation.arguments, start, start, x.now, outcome, value)
            )

    await settle(*map(client, range(clients)))
    return history


async def cut(x: Experimenter, a: list[str], b: list[str]) -> None:
    """Cut both ways."""
    await x.control.disturb(a, b, loss=1.0)
    await x.control.disturb(b, a, loss=1.0)


async def wreck(x: Experimenter, processes: list[str], most: int, random: Random, until: float) -> None:
    """Crash, cut off, disturb and pause, one after another; up to ``most`` at once."""
    while x.now < until:
        await x.sleep(random.between(0.1, 0.6))
        victims = random.sample(processes, 1 + random.below(most))
        others = [p for p in processes if p not in victims]
        kind = random.below(5)
        if kind == 0:
            for name in victims:
                await x.control.crash(name)
            await x.sleep(random.between(0.0, 1.2))
            for name in victims:
                await x.control.restart(name)
        elif kind == 1:
            await x.control.disturb(victims, others, loss=1.0)
            if random.chance(0.7):
                await x.control.disturb(others, victims, loss=1.0)
            await x.sleep(random.between(0.3, 1.5))
            await x.control.heal()
        elif kind == 2:
            await x.control.disturb(None, None, loss=0.1, duplicate=0.1, reorder=0.3)
            await x.sleep(random.between(0.3, 1.0))
            await x.control.heal()
        elif kind == 3:
            await cut(x, victims[:1], ["client"])
            await cut(x, victims[:1], others[:1])
            await x.sleep(random.between(0.3, 1.0))
            await x.control.heal()
        else:
            await x.control.pause(victims[0])
            await x.sleep(random.between(0.2, 1.0))
            await x.control.resume(victims[0])


@dataclasses.dataclass
class Wreckage:
    """What came of a run with faults."""

    history: list[Done]
    verdicts: dict[str, Verdict]
    bugs: list[str]
    trace_hash: str

    @property
    def ok(self) -> int:
        return sum(done.outcome == "ok" for done in self.history)

    @property
    def violations(self) -> list[str]:
        """Promises that were not kept, and bugs."""
        return [f"{v.name}: {v.detail}" for v in self.verdicts.values() if v.broken] + self.bugs

    def fails(self, name: str) -> bool:
        """Whether this was checked and does not hold."""
        return name in self.verdicts and not self.verdicts[name].holds


def chaos(
    architecture: Architecture,
    server: type[Node] | None = None,
    *,
    seed: int,
    seconds: float = 5.0,
    most: int = 2,
    job: Kv | None = None,
    processes: list[str] | None = None,
) -> Wreckage:
    """Load it for some seconds, with faults; heal, look at the final state, judge."""
    session = session_of(architecture, server, seed=seed)
    job = job or Kv(keys=5, reads=0.4, swaps=0.2)
    names = processes or [p.name for p in session.system.processes()]

    async def experiment(x: Experimenter) -> tuple[list[Done], list[Verdict]]:
        await architecture.ready(x)
        begin = x.now
        random = Random(seed).fork("wreck")
        wrecking = x.spawn(wreck(x, names, min(most, len(names)), random, begin + seconds - 1))
        history = await load(x, job, 6, begin + seconds)
        await wrecking
        await x.control.heal()
        await architecture.ready(x)
        _, own = await architecture.observe(x)
        return history, [*job.check(history, await job.audit(x.client)), *own]

    history, verdicts = session.perform(experiment)
    marked = [msgspec.structs.replace(v, promised=v.name not in architecture.disclaims) for v in verdicts]
    kernel = session.kernel
    return Wreckage(history, {v.name: v for v in marked}, [str(b) for b in kernel.bugs], kernel.trace_hash)


def live_kill(
    architecture: Architecture, victims: list[str], seconds: float = 3.0
) -> tuple[int, list[Verdict]]:
    """Real processes, some killed and started again under load: successes, and verdicts."""
    job = Kv(keys=10)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[list[Done], list[Verdict]]:
            await architecture.ready(x)
            loading = x.spawn(load(x, job, 8, x.now + seconds))
            for victim in victims:
                await x.sleep(0.6)
                await x.control.crash(victim)
                await x.sleep(0.7)
                await x.control.restart(victim)
            history: list[Done] = await loading
            await architecture.ready(x)
            _, own = await architecture.observe(x)
            return history, [*job.check(history, await job.audit(x.client)), *own]

        history, verdicts = session.perform(experiment)
    return sum(done.outcome == "ok" for done in history), verdicts
