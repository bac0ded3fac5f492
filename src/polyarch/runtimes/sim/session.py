"""A session on the simulator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from polyarch.core.messages import schema_of
from polyarch.core.node import Node
from polyarch.core.system import Component, Role, System
from polyarch.core.tasks import Task
from polyarch.runtimes.base import Control, Experimenter, Session, Traffic
from polyarch.runtimes.sim.kernel import Kernel
from polyarch.runtimes.sim.network import Network, Regional, Rule
from polyarch.runtimes.sim.nodes import SimEnv

__all__ = ["SimSession"]

T = TypeVar("T")


class SimControl(Control):
    """The kernel's powers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._rules: dict[int, Rule] = {}

    async def crash(self, process: str) -> None:
        self.kernel.crash(process)

    async def restart(self, process: str) -> None:
        self.kernel.restart(process)

    async def pause(self, process: str) -> None:
        self.kernel.pause(process)

    async def resume(self, process: str) -> None:
        self.kernel.resume(process)

    async def disturb(
        self, sources: Sequence[str] | None, targets: Sequence[str] | None, **disturbance: float
    ) -> int:
        rule = Rule(
            None if sources is None else frozenset(sources),
            None if targets is None else frozenset(targets),
            **disturbance,
        )
        number = len(self._rules)
        self._rules[number] = rule
        self.kernel.rules.append(rule)
        return number

    async def heal(self, rule: int | None = None) -> None:
        if rule is None:
            self.kernel.rules.clear()
        elif self._rules[rule] in self.kernel.rules:
            self.kernel.rules.remove(self._rules[rule])

    async def skew(self, process: str, *, offset: float = 0.0, drift: float = 1.0) -> None:
        self.kernel.processes[process].offset = offset
        self.kernel.processes[process].drift = drift

    async def traffic(self) -> Traffic:
        return Traffic(self.kernel.messages, self.kernel.bytes, dict(self.kernel.by_method))

    async def resources(self) -> dict[str, dict[str, float]]:
        return {name: {"cpu_s": p.busy_ns * 1e-9} for name, p in self.kernel.processes.items()}


class SimSession(Session):
    """A declared system in a simulation of its own."""

    runtime = "sim"

    def __init__(
        self,
        system: System,
        *,
        seed: int = 0,
        network: Network | None = None,
        detailed: bool = True,
        handler_cost: float = 0.0,
        disk_sync: float = 0.001,
        beside_clients: Sequence[Node] = (),
    ) -> None:
        """``beside_clients``: further nodes of the client's process (the load)."""
        system.check()
        self.system = system
        self.kernel = kernel = Kernel(
            seed,
            network=network,
            detailed=detailed,
            handler_cost=handler_cost,
            disk_sync=disk_sync,
            resolve=self._resolve,
        )
        self._place: dict[str, tuple[Role | None, int]] = {}
        latency = kernel.network.latency
        regions = latency.names if isinstance(latency, Regional) else []
        for process in system.processes():
            role = process.role
            self._place[process.name] = (role, process.index)
            region = 0
            if role.regions and regions:
                region = regions.index(role.regions[process.index % len(role.regions)])
            elif regions:
                region = process.index % len(regions)
            kernel.add_process(
                process.name, process.nodes, role=role.name, cores=role.cores, cost=role.cost, region=region
            )
        assert system.client is not None
        beside = [(type(n).__name__.lower(), n) for n in beside_clients]
        kernel.add_process("client", [("client-0", system.client), *beside], cost=0.0)
        self.control = SimControl(kernel)
        kernel.add_process("experimenter", [("experimenter", _Declared(self))], cost=0.0)
        kernel.boot()

    def _resolve(self, env: SimEnv, wire: Any) -> Any:
        if isinstance(wire, _Given):
            return wire.value
        role, index = self._place.get(env.process.name, (None, 0))
        target = self.system.wired(wire, role, index)
        if isinstance(target, Component):
            return target.attach(env)
        if isinstance(target, tuple):
            return tuple(self._resolve(env, w) for w in wire)
        return schema_of(type(wire)).reference(env, target)

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        env = self.kernel.directory["experimenter"]
        task = Task(env, experiment(env.node))
        bugs = len(self.kernel.bugs)
        # The task may end at once, before the clock runs.
        self.kernel.at(self.kernel.now, env, task.resume)
        self.kernel.run(until=task)
        if task.error is not None:
            for _, address, error in self.kernel.bugs[bugs:]:
                if address == "experimenter":
                    raise error
            raise task.error
        if not task.done:
            raise RuntimeError("the experiment waits for something that will never happen")
        return task.result  # type: ignore[no-any-return]

    def close(self) -> None:
        self.kernel.heap.clear()


class _Given:
    """A wire that is there already."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _Declared(session: SimSession) -> Experimenter:
    assert session.system.client is not None
    port = type(session.system.client)
    kernel = session.kernel
    env_of = kernel.directory["client-0"]
    reference = schema_of(port).reference(None, env_of.address, None)
    declared = Experimenter(control=_Given(session.control), client=_Given(reference))
    return declared
