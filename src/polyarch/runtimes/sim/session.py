"""A session on the simulator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from polyarch.core.messages import Schema, schema_of
from polyarch.core.node import Attachable, Node
from polyarch.core.system import Architecture, System
from polyarch.core.tasks import Task
from polyarch.runtimes.base import (
    EXPERIMENTER,
    Control,
    Experimenter,
    Given,
    Rule,
    Session,
    Traffic,
    describe_bug,
    given,
)
from polyarch.runtimes.sim.kernel import Kernel
from polyarch.runtimes.sim.network import Network, Regional
from polyarch.runtimes.sim.nodes import SimEnv

__all__ = ["SimSession"]

T = TypeVar("T")


class SimControl(Control):
    """The kernel's powers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._rules: dict[int, Rule] = {}
        self._numbers = 0

    def _known(self, process: str) -> str:
        if process not in self.kernel.processes or process == EXPERIMENTER:
            known = [name for name in self.kernel.processes if name != EXPERIMENTER]
            raise LookupError(f"no process is called {process!r}; there are: {', '.join(known)}")
        return process

    async def crash(self, process: str, *, silent: bool = False, kept: float = 0.0) -> None:
        self.kernel.crash(self._known(process), silent=silent, kept=kept)

    async def restart(self, process: str) -> None:
        self.kernel.restart(self._known(process))

    async def pause(self, process: str) -> None:
        self.kernel.pause(self._known(process))

    async def resume(self, process: str) -> None:
        self.kernel.resume(self._known(process))

    async def disturb(
        self, sources: Sequence[str] | None, targets: Sequence[str] | None, **disturbance: float
    ) -> int:
        if not self.kernel.disturbable:
            raise ValueError("disturbing messages needs a simulation with links, or a detailed one")
        for name in (*(sources or ()), *(targets or ())):
            self._known(name)
        rule = Rule(
            None if sources is None else frozenset(sources),
            None if targets is None else frozenset(targets),
            **disturbance,
        )
        self._numbers += 1
        self._rules[self._numbers] = rule
        self.kernel.rules = list(self._rules.values())
        return self._numbers

    async def heal(self, rule: int | None = None) -> None:
        if rule is None:
            self._rules.clear()
        else:
            self._rules.pop(rule, None)
        self.kernel.rules = list(self._rules.values())

    async def skew(self, process: str, *, offset: float = 0.0, drift: float = 1.0) -> None:
        skewed = self.kernel.processes[self._known(process)]
        skewed.offset, skewed.drift = offset, drift

    async def traffic(self) -> Traffic:
        kernel = self.kernel
        bugs = tuple(describe_bug(where, e) for _, where, e in kernel.bugs if where != EXPERIMENTER)
        by_method = dict(kernel.by_method)
        return Traffic(kernel.messages, kernel.bytes, by_method, 0, bugs, tuple(kernel.rejected))

    async def resources(self) -> dict[str, dict[str, float]]:
        processes = self.kernel.processes.items()
        return {name: {"cpu_s": p.busy_ns * 1e-9} for name, p in processes if name != EXPERIMENTER}


class SimSession(Session):
    """A declared system in a simulation of its own."""

    runtime = "sim"

    def __init__(
        self,
        architecture: Architecture | System,
        *,
        seed: int = 0,
        per_process: int = 1,
        network: Network | None = None,
        detailed: bool = True,
        links: bool = False,
        clients: int = 1,
        handler_cost: float = 0.0,
        disk_sync: float = 0.001,
        beside_clients: Sequence[Node] = (),
    ) -> None:
        """``per_process``: instances of a role of one node that share a process.  ``beside_clients``:
        further nodes of the clients' process (the load).  ``clients``: processes of clients, each with these
        nodes.  ``detailed``: sizes, cores and ledgers; ``links``: only links that can be disturbed.
        ``handler_cost``: core seconds that each message
        takes where it is handled; ``disk_sync``: seconds that a flush takes."""
        if isinstance(architecture, System):
            system = architecture
            system.check()
        else:
            system = architecture.system(per_process=per_process)
        self.system = system
        self.kernel = kernel = Kernel(
            seed,
            network=network,
            detailed=detailed,
            links=links,
            handler_cost=handler_cost,
            disk_sync=disk_sync,
            resolve=self._resolve,
        )
        latency = kernel.network.latency
        regions = latency.names if isinstance(latency, Regional) else []
        for process in system.processes():
            role = process.role
            region = 0
            if role.regions and regions:
                region = regions.index(role.regions[process.index % len(role.regions)])
            elif regions:
                region = process.index % len(regions)
            kernel.add_process(
                process.name, process.nodes, role=role.name, cores=role.cores, cost=role.cost, region=region
            )
        assert system.client is not None
        for i in range(clients):
            suffix = f"-{i}" if i else ""
            beside = [(type(n).__name__.lower() + suffix, n) for n in beside_clients]
            kernel.add_process(f"client{suffix}", [(f"client-{i}", system.client), *beside], cost=0.0)
        self.control = SimControl(kernel)
        kernel.add_process(EXPERIMENTER, [(EXPERIMENTER, _experimenter(self))], cost=0.0)
        kernel.boot()

    def _resolve(self, env: SimEnv, wire: Any) -> Any:
        if isinstance(wire, Given):
            value = wire.value
            return value.reference(env, "client-0", None) if isinstance(value, Schema) else value
        target = self.system.wired(wire, *self.system.role_of(env.address))
        if isinstance(target, Attachable):
            return target.attach(env)
        if isinstance(target, tuple):
            return tuple(self._resolve(env, w) for w in wire)
        return schema_of(type(wire)).reference(env, target)

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        env = self.kernel.directory[EXPERIMENTER]
        task = Task(env, experiment(env.node))
        # The task may end at once, before the clock runs.
        self.kernel.at(self.kernel.now, env, task.resume)
        self.kernel.run(until=task)
        if task.error is not None:
            raise task.error.__cause__ or task.error
        if not task.done:
            raise RuntimeError("the experiment waits for something that will never happen")
        return task.result  # type: ignore[no-any-return]

    def close(self) -> None:
        self.kernel.clear()


def _experimenter(session: SimSession) -> Experimenter:
    assert session.system.client is not None
    port = type(session.system.client)
    return Experimenter(control=given(session.control), client=given(schema_of(port)))
