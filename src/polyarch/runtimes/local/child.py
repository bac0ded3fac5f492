"""The program of a node process: ``python -m polyarch.runtimes.local.child SPEC``.

It builds the declared system from the architecture's name and parameters (nothing is pickled), takes the
nodes of its own process, opens its sockets, registers with the session, and starts the nodes when told to.
It ends when the session's connection does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from polyarch.core.messages import schema_of
from polyarch.core.node import Attachable, Node
from polyarch.core.records import Record
from polyarch.core.system import System
from polyarch.core.tasks import Task
from polyarch.runtimes.base import EXPERIMENTER, Given, Named, given
from polyarch.runtimes.local.agent import Agent, Directory, Hub, Registration
from polyarch.runtimes.local.env import LocalEnv
from polyarch.runtimes.local.process import LocalProcess, loop_factory

__all__ = ["ChildSpec", "NodeProcess", "main"]


class ChildSpec(Record):
    """All that a node process is told."""

    process: str
    seed: int
    epoch: int
    folder: str
    hub: int
    """The session's port."""
    architecture: Named
    beside: list[Named]
    per_process: int
    incarnation: int = 0
    """How often it was restarted."""
    port: int = 0
    http_ports: dict[str, int] = {}
    path: list[str] = []


class NodeProcess(LocalProcess):
    """A process of a declared system."""

    def __init__(self, name: str, system: System, **rest: Any) -> None:
        super().__init__(name, **rest)
        self.system = system
        self.components: dict[str, str] = {}

    def learn(self, directory: Directory) -> None:
        """Where everything is."""
        self.places.update(directory.places)
        self.ports.update(directory.ports)
        self.http_ports.update(directory.http_ports)
        self.components = directory.components

    def resolve(self, env: LocalEnv, wire: Any) -> Any:
        """What a wire is in this process."""
        if isinstance(wire, Given):
            return wire.value
        target = self.system.wired(wire, *self.system.role_of(env.address))
        if isinstance(target, Attachable):
            return target.attach_live(env, self.components.get(getattr(target, "role", ""), ""))
        if isinstance(target, tuple):
            return tuple(self.resolve(env, w) for w in wire)
        return schema_of(type(wire)).reference(env, target)


def nodes_of(system: System, process: str, beside: list[Node]) -> list[tuple[str, Node]]:
    """The nodes of one process of a system; ``client`` is the clients' process."""
    if process == "client":
        assert system.client is not None
        return [("client-0", system.client), *((type(n).__name__.lower(), n) for n in beside)]
    return next(p.nodes for p in system.processes() if p.name == process)


async def _run(spec: ChildSpec) -> None:
    system = System(per_process=spec.per_process)
    spec.architecture.make().build(system)
    process = NodeProcess(
        spec.process,
        system,
        seed=spec.seed,
        epoch=spec.epoch,
        folder=Path(spec.folder),
        incarnation=spec.incarnation,
    )
    for address, node in nodes_of(system, spec.process, [n.make() for n in spec.beside]):
        process.add(address, node)
    await process.listen(spec.port, spec.http_ports)
    agent = process.add(f"agent-{spec.process}", Agent(process=given(process)))
    process.places["hub"] = process.places[EXPERIMENTER] = EXPERIMENTER
    process.ports[EXPERIMENTER] = spec.hub
    process.boot(process.resolve, agent.address)

    gone = asyncio.get_running_loop().create_future()
    hub = schema_of(Hub).reference(agent, "hub", 10.0)

    async def register() -> None:
        mine = {a: p for a, p in process.http_ports.items() if a in process.envs}
        await hub.register(Registration(spec.process, process.ports[spec.process], mine))

    task = Task(agent, register())
    task.watch(lambda t: gone.set_result(None) if t.error is not None else None)
    process.event(task.resume)
    gc.collect()
    gc.freeze()
    # The janitor ends this process; should the session vanish first, there is nothing left to do here.
    await gone


def main() -> None:
    """Run the process that the specification on the command line describes."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ChildSpec)
    sys.path[:0] = [p for p in spec.path if p not in sys.path]
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(spec))
    except OSError as error:
        sys.stderr.write(f"{spec.process}: {error}\n")
        os._exit(2)


if __name__ == "__main__":
    main()
