"""A session on this machine: node processes, components, and the experimenter beside them.

Everything is started through the janitor, so that nothing stays behind however the session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from polyarch.components.base import Component as LiveComponent
from polyarch.components.base import ComponentError, port_is_free
from polyarch.core.errors import Failure
from polyarch.core.messages import Schema, schema_of
from polyarch.core.node import Node, config_of
from polyarch.core.system import Architecture
from polyarch.core.tasks import Task, gather
from polyarch.runtimes.base import (
    EXPERIMENTER,
    Control,
    Experimenter,
    Named,
    Session,
    SessionError,
    Traffic,
    given,
)
from polyarch.runtimes.local.agent import Agent, Directory, Hub, Registration, RuleRecord
from polyarch.runtimes.local.child import ChildSpec
from polyarch.runtimes.local.env import LocalEnv
from polyarch.runtimes.local.guardian import Janitor, Process
from polyarch.runtimes.local.process import LocalProcess, loop_factory

__all__ = ["LocalControl", "LocalSession"]

T = TypeVar("T")

_START_SECONDS = 30.0
_AT_ONCE = 8  # processes that start at the same time


class LocalSession(Session):
    """A declared system in real processes."""

    runtime = "local"

    def __init__(
        self,
        architecture: Architecture,
        *,
        seed: int = 0,
        per_process: int = 1,
        beside_clients: Sequence[Node] = (),
        http_ports: dict[str, int] | None = None,
    ) -> None:
        """``per_process``: instances of a role of one node that share a process.  ``beside_clients``:
        further nodes of the clients' process, whose fields are plain values.  ``http_ports``: where
        nodes that speak HTTP shall listen (others choose free ports).  ``SessionError`` if it cannot
        start."""
        self.architecture = architecture
        self.system = architecture.system(per_process=per_process)
        self.seed = seed
        self._per_process = per_process
        self._beside = beside_clients
        self._http_ports = http_ports or {}
        self._specs: dict[str, ChildSpec] = {}
        self._children: dict[str, Process] = {}
        self._components: dict[str, LiveComponent] = {}
        self._registered: dict[str, asyncio.Future[Registration]] = {}
        self._expected_deaths: set[str] = set()
        self.deaths: list[str] = []
        """Processes that ended though nobody had killed them."""
        _hear_interrupts()
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        self._closed = False
        self.control = LocalControl(self)
        try:
            self._runner.run(self._start())
        except BaseException:
            self.close()
            raise

    # -- starting -----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        for address, port in self._http_ports.items():
            if port and not port_is_free(port):
                raise SessionError(f"port {port} is in use: choose another for {address}, or 0 for any")
        self._janitor = await Janitor.start()
        folder = self._janitor.folder
        epoch = time.monotonic_ns()
        self.process = LocalProcess(EXPERIMENTER, seed=self.seed, epoch=epoch, folder=folder)
        self.process.add("hub", Hub(session=given(self)))
        operations = schema_of(type(self.system.client))
        experimenter = Experimenter(control=given(self.control), client=given(operations))
        self.process.add(EXPERIMENTER, experimenter)
        await self.process.listen()
        self.process.boot(self._resolve)
        declared = self.system.processes()
        parts = [p for p in declared if p.role.component is not None]
        names = [p.name for p in declared if p.role.component is None] + ["client"]
        places = {a: p.name for p in declared for a, _ in p.nodes} | {
            "client-0": "client",
            "hub": EXPERIMENTER,
            EXPERIMENTER: EXPERIMENTER,
        }
        places |= {f"agent-{name}": name for name in names}
        places |= {type(node).__name__.lower(): "client" for node in self._beside}
        self.process.places.update(places)
        early = [p for p in parts if not p.role.component.after_nodes]  # type: ignore[union-attr]
        late = [p for p in parts if p.role.component.after_nodes]  # type: ignore[union-attr]
        path = [p for p in sys.path if p]
        turn = asyncio.Semaphore(_AT_ONCE)
        for name in names:
            self._specs[name] = ChildSpec(
                name,
                self.seed,
                epoch,
                str(folder),
                self.process.ports[EXPERIMENTER],
                Named.of(self.architecture, self.architecture.values),
                [Named.of(n, config_of(n)[0]) for n in self._beside],
                self._per_process,
                http_ports=self._http_ports,
                path=path,
            )
        try:
            await asyncio.gather(
                *(self._spawn_in_turn(name, turn) for name in names),
                *(self._start_component(p.name, p.role.component, {}) for p in early),
            )
            for p in late:
                await self._start_component(p.name, p.role.component, dict(self.process.http_ports))
            await self._perform(lambda x: self._to_all(x, names, lambda agent: agent.boot(self._directory())))
        except ComponentError as error:
            raise SessionError(str(error)) from None
        except Failure as error:
            raise SessionError(f"the nodes did not start: {error.detail}") from None

    async def _spawn_in_turn(self, name: str, turn: asyncio.Semaphore) -> None:
        async with turn:  # the time that each one has begins when the machine begins with it
            await self._spawn(name)

    async def _spawn(self, name: str) -> None:
        """Start a node process, and wait until it listens."""
        folder = self._janitor.folder
        spec = self._specs[name]
        file = folder / f"{name}.spec.json"
        file.write_bytes(msgspec.json.encode(spec))
        registered = self._registered[name] = asyncio.get_running_loop().create_future()
        log = folder / f"{name}.log"
        argv: list[str | Path] = [sys.executable, "-m", "polyarch.runtimes.local.child", file]
        process = await self._janitor.spawn(argv, log=log)
        self._children[name] = process

        def ended(status: int) -> None:
            if not registered.done():
                registered.set_exception(SessionError(f"{name} did not start: {_last_line(log)}"))
            elif name not in self._expected_deaths and not self._closed:
                self.deaths.append(f"{name} ended with status {status}: {_last_line(log)}")

        process.on_exit = ended
        if process.exited:
            ended(0)
        self._expected_deaths.discard(name)
        try:
            async with asyncio.timeout(_START_SECONDS):
                registration = await registered
        except TimeoutError:
            raise SessionError(f"{name} did not start within {_START_SECONDS:.0f} s") from None
        self.process.ports[name] = registration.port
        self.process.http_ports.update(registration.http_ports)
        # A restart listens where it did before: nobody has to be told.
        ports = {**self._http_ports, **registration.http_ports}
        self._specs[name] = msgspec.structs.replace(
            spec, port=registration.port, http_ports=ports, incarnation=spec.incarnation + 1
        )

    async def _start_component(self, name: str, declared: Any, http_ports: dict[str, int]) -> None:
        server = declared.server(http_ports)
        port = self._http_ports.get(declared.address)
        if port:
            server.port, server._port_is_given = port, True
        self._components[name] = server
        await server.start(self._janitor, self._janitor.folder / name)
        # A component that speaks HTTP (a switch) is called at the address of its stand-in.
        self.process.http_ports[declared.address] = server.port

    def registered(self, registration: Registration) -> None:
        """A process listens (called by the hub)."""
        waiting = self._registered.get(registration.process)
        if waiting is not None and not waiting.done():
            waiting.set_result(registration)

    def _directory(self) -> Directory:
        components = {name.rpartition("-")[0]: c.address for name, c in self._components.items()}
        p = self.process
        return Directory(dict(p.places), dict(p.ports), dict(p.http_ports), components)

    def _resolve(self, env: LocalEnv, wire: Any) -> Any:
        value = wire.value
        return value.reference(env, "client-0", None) if isinstance(value, Schema) else value

    # -- running ------------------------------------------------------------------------------------------

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        return self._runner.run(self._perform(experiment))

    async def _perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        env = self.process.envs[EXPERIMENTER]
        task = Task(env, experiment(env.node))
        done = asyncio.get_running_loop().create_future()
        task.watch(lambda _: done.set_result(None))
        self.process.event(task.resume)
        await done
        if task.error is not None:
            raise task.error.__cause__ or task.error
        return task.result  # type: ignore[no-any-return]

    async def _to_all(
        self, x: Node, names: Sequence[str], ask: Callable[[Agent], Awaitable[T]]
    ) -> dict[str, T]:
        answers = await gather(*(ask(x.at(f"agent-{name}", Agent)) for name in names))
        return dict(zip(names, answers))

    def alive(self) -> list[str]:
        """The node processes that run."""
        return [name for name, process in self._children.items() if not process.exited]

    def http_address(self, address: str) -> str:
        """``http://127.0.0.1:PORT`` of a node or component that speaks HTTP."""
        return f"http://127.0.0.1:{self.process.http_ports[address]}"

    def wait(self, seconds: float | None, front: str, tell: Callable[[str], None]) -> None:
        """For some time, or until somebody interrupts, or the process of ``front`` is there no more.  The end
        of any other process is told: the system may be made for it."""
        name = self.process.places.get(front, front)

        async def sleep() -> None:
            end = None if seconds is None else time.monotonic() + seconds
            told = 0
            while end is None or time.monotonic() < end:
                for death in self.deaths[told:]:
                    tell(death)
                    told += 1
                component = self._components.get(name)
                if component is not None and not component.running:
                    self.deaths.append(f"{name} ended: {component._last_words()}")
                    return tell(self.deaths[-1])
                if component is None and self._children[name].exited:
                    return
                await asyncio.sleep(0.05)

        self._runner.run(sleep())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True

        async def end() -> None:
            process = getattr(self, "process", None)
            if process is not None:
                await process.close()
            janitor = getattr(self, "_janitor", None)
            if janitor is not None:
                await janitor.stop(0.3)

        with contextlib.suppress(RuntimeError):
            self._runner.run(end())
        self._runner.close()


class LocalControl(Control):
    """Signals for processes; rules for their transports."""

    def __init__(self, session: LocalSession) -> None:
        self._session = session
        self._rules: dict[int, RuleRecord] = {}
        self._skews: dict[str, tuple[float, float]] = {}
        self._numbers = 0

    def _known(self, process: str) -> None:
        s = self._session
        if process not in s._children and process not in s._components:
            known = ", ".join([*s._children, *s._components])
            raise LookupError(f"no process is called {process!r}; there are: {known}")

    async def _signal(self, process: str, signum: int) -> None:
        self._known(process)
        component = self._session._components.get(process)
        if component is not None:
            await _await(component.kill(signum))
        else:
            child = self._session._children[process]
            await _await(child.kill(signum))
            if signum == signal.SIGKILL:
                await _await(child.wait())

    async def crash(self, process: str) -> None:
        self._session._expected_deaths.add(process)
        await self._signal(process, signal.SIGKILL)

    async def restart(self, process: str) -> None:
        self._known(process)
        session = self._session
        component = session._components.get(process)
        if component is not None:
            if not component.running:
                await _await(component.restart())
        elif session._children[process].exited:
            await _await(session._spawn(process))
            x = session.process.envs[EXPERIMENTER].node
            agent = x.at(f"agent-{process}", Agent)
            if self._rules:
                await agent.rules(list(self._rules.values()))
            if process in self._skews:
                await agent.skew(*self._skews[process])
            await agent.boot(session._directory())

    async def pause(self, process: str) -> None:
        await self._signal(process, signal.SIGSTOP)

    async def resume(self, process: str) -> None:
        await self._signal(process, signal.SIGCONT)

    async def disturb(
        self, sources: Sequence[str] | None, targets: Sequence[str] | None, **disturbance: float
    ) -> int:
        parts = self._session._components
        for name in (*(sources or ()), *(targets or ())):
            self._known(name)
            if name in parts:
                raise LookupError(
                    f"{name} is a {parts[name].name}, whose protocol is not ours: "
                    "its links cannot be disturbed on local; use --on sim, or pause or crash it"
                )
        values = {"loss": 0.0, "delay": 0.0, "duplicate": 0.0, "reorder": 0.0, **disturbance}
        record = RuleRecord(
            None if sources is None else tuple(sources), None if targets is None else tuple(targets), **values
        )
        self._numbers += 1
        self._rules[self._numbers] = record
        await self._spread()
        return self._numbers

    async def heal(self, rule: int | None = None) -> None:
        if rule is None:
            self._rules.clear()
        else:
            self._rules.pop(rule, None)
        await self._spread()

    async def _spread(self) -> None:
        x = self._session.process.envs[EXPERIMENTER].node
        rules = list(self._rules.values())
        await self._session._to_all(x, self._session.alive(), lambda agent: agent.rules(rules))

    async def skew(self, process: str, *, offset: float = 0.0, drift: float = 1.0) -> None:
        self._known(process)
        x = self._session.process.envs[EXPERIMENTER].node
        self._skews[process] = offset, drift
        await x.at(f"agent-{process}", Agent).skew(offset, drift)

    async def traffic(self) -> Traffic:
        x = self._session.process.envs[EXPERIMENTER].node
        messages = size = unmeasured = 0
        by_method: dict[str, int] = {}
        bugs: list[str] = []
        complaints: list[str] = []
        for name in self._session.alive():
            try:
                s = await x.at(f"agent-{name}", Agent, timeout=2.0).statistics()
            except Failure:
                continue  # it is dead or paused: what it counted is lost
            messages += s.messages
            size += s.bytes
            unmeasured += s.unmeasured
            bugs += s.bugs
            complaints += s.complaints
            for method, count in s.by_method.items():
                by_method[method] = by_method.get(method, 0) + count
        return Traffic(messages, size, by_method, unmeasured, tuple(bugs), tuple(complaints))

    async def resources(self) -> dict[str, dict[str, float]]:
        session = self._session
        pids = {name: [p.pid] for name, p in session._children.items() if not p.exited}
        pids |= {name: c.pids for name, c in session._components.items()}
        return {name: _measured(those) for name, those in pids.items()}


def _measured(pids: Sequence[int]) -> dict[str, float]:
    """Proportional memory (shared pages are shared out) and processor time of some processes."""
    memory = cpu = 0.0
    count = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            memory += _memory_mb(pid)
            times = psutil.Process(pid).cpu_times()
            cpu += times.user + times.system
            count += 1
    return {"memory_mb": memory, "cpu_s": cpu, "processes": float(count)}


def _memory_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_info().rss) / 2**20


async def _await(awaitable: Awaitable[T]) -> T:
    """Await asyncio's things from a node's coroutine: as a task, which is a future."""
    return await asyncio.ensure_future(awaitable)


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1].strip()[:300] if lines else "it said nothing"


def _hear_interrupts() -> None:
    """A shell without job control lets what it starts in the background ignore interrupts."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
