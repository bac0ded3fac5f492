"""One live process: its nodes, its connections, its timers; driven by events of an asyncio loop.

Handlers run directly on the stack of the event that brings their message, as in the simulator, and not in
asyncio tasks.  An *event* (a read, a timer, a future) runs to its end between ``enter`` and ``leave``; what
it has made ready inside the process runs then, and the frames that it has made leave.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from polyarch.core.errors import (
    BadArguments,
    Broken,
    Failure,
    Refused,
    Timeout,
    TooLarge,
    UnknownMethod,
    Unreachable,
    failure_from_wire,
)
from polyarch.core.http import Http, Request, Response, failure_response
from polyarch.core.messages import Method, Reference, schema_of
from polyarch.core.node import Env, Node, bind
from polyarch.core.randomness import Random
from polyarch.core.tasks import Ledger, Suspension, Task, Timer
from polyarch.core.wire import ANSWER, FAILURE, HEADER, MAX_FRAME, ONEWAY, REQUEST, encode
from polyarch.runtimes.base import Rule
from polyarch.runtimes.local.disk import LocalDisk
from polyarch.runtimes.local.http_client import HttpPool
from polyarch.runtimes.local.http_headers import encode_headers
from polyarch.runtimes.local.http_server import HttpServer, Respond
from polyarch.runtimes.local.timers import Timers
from polyarch.runtimes.local.transport import Connection, Link

__all__ = ["LocalEnv", "LocalProcess"]

_WHEEL_BITS = 26  # deadlines of calls are kept in slots of 67 ms
_ACCOUNT = "polyarch-account"
_COST = "polyarch-cost"


class LocalEnv(Env):
    """The one incarnation of a node that this process runs."""

    __slots__ = ("_disk", "_random", "address", "current", "declared", "inbox", "methods", "node", "process", "up")

    def __init__(self, process: LocalProcess, address: str, declared: Node) -> None:
        self.process = process
        self.address = address
        self.declared = declared
        self.methods = schema_of(type(declared)).methods
        self.up = False
        self.current: Any = None
        self.inbox: list[Callable[[], None]] | None = []
        """Messages that came before ``start`` had returned."""
        self.node: Any = None
        self._random: Random | None = None
        self._disk: LocalDisk | None = None

    @property
    def random(self) -> Random:
        if self._random is None:
            self._random = self.process.random.fork(self.address)
        return self._random

    @property
    def folder(self) -> Path:
        """Where this node may keep files; gone when the run has ended."""
        folder = self.process.folder / "nodes" / self.address
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def disk(self) -> LocalDisk:
        if self._disk is None:
            self._disk = LocalDisk(self, self.folder / "disk.journal")
        return self._disk

    def now(self) -> float:
        return self.process.now()

    def traffic(self, messages: int, size: int | None) -> None:
        """What a component's client has exchanged with its server for this node; ``size`` None: it
        could not be measured."""
        process = self.process
        process.messages += messages
        process.by_method["component"] = process.by_method.get("component", 0) + messages
        process.bytes += size or 0
        process.unmeasured += size is None
        current = self.current
        if current is not None and current.ledger is not None:
            current.ledger.messages += messages
            current.ledger.bytes += size or 0
            current.depth += messages

    # -- time -----------------------------------------------------------------------------------------

    def after(self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Timer:
        timer = Timer(function, arguments)
        self.process.later(seconds, self._fire, timer)
        return timer

    def every(
        self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...], jitter: float
    ) -> Timer:
        if seconds <= 0:
            raise ValueError(f"every({seconds}): the period must be positive")
        timer = Timer(function, arguments)
        timer.interval = seconds
        timer.jitter = jitter
        self.process.later(seconds * self.random.random(), self._fire, timer)
        return timer

    def _fire(self, timer: Timer) -> None:
        if timer.cancelled or not self.up:
            return
        if timer.interval:
            period = timer.interval
            if timer.jitter:
                period *= 1.0 + timer.jitter * (2.0 * self.random.random() - 1.0)
            self.process.later(period, self._fire, timer)
        self.run_callback(timer.function, timer.arguments)

    def sleep(self, seconds: float) -> Suspension:
        return _Sleep(seconds)

    def work(self, seconds: float) -> Suspension:
        return _Work(seconds)

    def soon(self, function: Callable[[], None]) -> None:
        self.process.ready.append((function, ()))

    def bug(self, error: BaseException) -> None:
        self.process.bug(self.address, error)

    def wait_foreign(self, task: Task, waiting: Any) -> None:
        """A component's client awaits a future of the event loop."""
        if not getattr(waiting, "_asyncio_future_blocking", False):
            if waiting is None:  # asyncio.sleep(0)
                self.process.ready.append((task.resume, ()))
            else:
                task.throw(TypeError(f"a node awaited a {type(waiting).__name__}, which nothing here can resume"))
            return
        waiting._asyncio_future_blocking = False
        waiting.add_done_callback(lambda _: self.process.event(task.resume))

    # -- messages ---------------------------------------------------------------------------------------

    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        process = self.process
        task.token = token = task.token + 1
        to = reference._to
        timeout = reference._timeout
        timeout_ns = method.timeout_ns if timeout is None else round(timeout * 1e9)
        target = process.envs.get(to)
        if target is not None:
            process.calls += 1
            process.expect(process.calls, task, token, method, timeout_ns)
            process.ready.append((target.request, (None, process.calls, method.name, arguments, task)))
            return
        if method.name == "http":
            process.call_http(self, task, token, to, arguments[0], timeout_ns)
            return
        process.calls = call = process.calls + 1
        ledger = task.ledger
        depth = 0 if ledger is None else task.depth + 1
        try:
            data = encode((REQUEST, call, to, self.address, method.name, arguments, depth))
        except TypeError as error:
            self.bug(error)
            process.ready.append((task.throw, (Refused(f"{method.name}: {error}"),)))
            return
        if len(data) > MAX_FRAME:
            text = f"{method.name}: a message of {len(data)} bytes; the most is {MAX_FRAME}"
            process.ready.append((task.throw, (TooLarge(text),)))
            return
        if ledger is not None:
            ledger.messages += 1
            ledger.bytes += len(data) + HEADER
        process.expect(call, task, token, method, timeout_ns)
        process.transmit(to, data, call, method.name)

    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        process = self.process
        target = process.envs.get(reference._to)
        if target is not None:
            process.ready.append((target.oneway, (method.name, arguments)))
            return
        data = encode((ONEWAY, reference._to, self.address, method.name, arguments))
        current = self.current
        if current is not None and current.ledger is not None:
            current.ledger.messages += 1
            current.ledger.bytes += len(data) + HEADER
        process.transmit(reference._to, data, 0, method.name)

    def request(self, back: Connection | None, call: int, name: str, arguments: Any, origin: Any) -> None:
        """Handle a request.  ``origin``: the calling task (in this process), or the depth at which an
        accounted request came (0: nobody counts)."""
        if self.inbox is not None:
            self.inbox.append(lambda: self.request(back, call, name, arguments, origin))
            return
        method = self.methods.get(name)
        if back is None:
            task = Task(self, None, origin.ledger, origin.depth)
        else:
            task = Task(self, None, Ledger() if origin else None, origin)
        self.current = task
        try:
            if method is None or method.is_oneway:
                kind = type(self.declared).__name__
                known = ", ".join(self.methods) or "none"
                raise UnknownMethod(f"{kind} at {self.address} has no message {name!r}; it has: {known}")
            result = method.function(self.node, *method.check(arguments))
            if method.is_async:
                task.coroutine = result
                waiting = result.send(None)
                task.caller = back or origin
                task.caller_token = call
                task.guard = method
                task.follow(waiting)
                return
        except StopIteration as stop:
            result = stop.value
        except Failure as failure:
            self.process.give(back, call, task, False, failure)
            return
        except Exception as error:
            self.bug(error)
            self.process.give(back, call, task, False, Broken(f"{type(error).__name__}: {error}"))
            return
        assert method is not None
        self._give_checked(back, call, task, method, result)

    def _give_checked(
        self, back: Connection | None, call: int, task: Task, method: Method, result: Any
    ) -> None:
        try:
            result = method.check_result(result)
        except Failure as failure:
            self.process.give(back, call, task, False, failure)
        else:
            self.process.give(back, call, task, True, result)

    def answer(self, task: Task, value: Any) -> None:
        """A handler that had suspended has returned."""
        if isinstance(task.caller, _HttpCaller):
            task.caller.answer(task, value)
        else:
            back = task.caller if isinstance(task.caller, Connection) else None
            self._give_checked(back, task.caller_token, task, task.guard, value)

    def answer_failure(self, task: Task, error: Failure) -> None:
        """A handler that had suspended has failed."""
        if isinstance(task.caller, _HttpCaller):
            task.caller.fail(error)
        else:
            back = task.caller if isinstance(task.caller, Connection) else None
            self.process.give(back, task.caller_token, task, False, error)

    def oneway(self, name: str, arguments: Any) -> None:
        """Handle a one-way message."""
        if self.inbox is not None:
            self.inbox.append(lambda: self.oneway(name, arguments))
            return
        method = self.methods.get(name)
        if method is None or not method.is_oneway:
            self.process.complaints.append(f"{self.address}: no one-way message {name!r}")
            return
        try:
            arguments = method.check(arguments)
        except Refused as refused:
            self.process.complaints.append(f"{self.address}: {refused}")
            return
        self.run_callback(method.function, (self.node, *arguments))


class _Sleep(Suspension):
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def suspend(self, task: Task) -> None:
        task.env.process.later(self.seconds, task.resume)


class _Work(Suspension):
    """Really compute: the process is busy for so long, and everybody in it waits."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def suspend(self, task: Task) -> None:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        task.env.soon(task.resume)


class LocalProcess:
    """Nodes in this operating-system process, and everything that connects them to others."""

    def __init__(self, name: str, *, seed: int, epoch: int, folder: Path) -> None:
        """``epoch``: the session's beginning, in ns of the machine's monotonic clock, which all its
        processes share."""
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.random = Random(seed).fork(name)
        self.epoch = epoch
        self.folder = folder
        self.offset = 0.0
        self.drift = 1.0
        self.envs: dict[str, LocalEnv] = {}
        self.places: dict[str, str] = {}
        """Which process each node is in."""
        self.ports: dict[str, int] = {}
        """Where each process listens for frames."""
        self.http_ports: dict[str, int] = {}
        """Where each node that speaks HTTP listens."""
        self.rules: list[Rule] = []
        self.calls = 0
        self.messages = 0
        self.bytes = 0
        self.by_method: dict[str, int] = {}
        self.unmeasured = 0
        """Exchanges with components whose bytes could not be counted."""
        self.bugs: list[str] = []
        self.complaints: list[str] = []
        self.incoming: set[Connection] = set()
        self.dirty: list[Connection] = []
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._inside = 0
        self._links: dict[str, Link] = {}
        self._pools: dict[str, HttpPool] = {}
        self._expected: dict[int, tuple[Task, int, Method, dict[int, int]]] = {}
        self._wheel: dict[int, dict[int, int]] = {}
        self._timers = Timers(self.event)
        self._kept: set[asyncio.Task[Any]] = set()
        self._servers: list[HttpServer] = []
        self._listener: asyncio.Server | None = None

    # -- events -----------------------------------------------------------------------------------------

    def enter(self) -> None:
        self._inside += 1

    def leave(self) -> None:
        """The end of an event: run what it made ready, then let its frames go."""
        if self._inside == 1:
            ready = self.ready
            while ready:
                function, arguments = ready.popleft()
                try:
                    function(*arguments)
                except Exception as error:  # must not end the loop over everybody else's work
                    self.bug(self.name, error)
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                connection.flush()
        self._inside -= 1

    def event(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a function as an event of its own."""
        self.enter()
        try:
            function(*arguments)
        finally:
            self.leave()

    def later(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        """Call after some seconds of this process's clock."""
        delay = round(max(0.0, seconds) * 1e9 / self.drift)
        self._timers.at(time.monotonic_ns() + delay, function, *arguments)

    def now(self) -> float:
        """Seconds since the session began, by this process's clock."""
        return (time.monotonic_ns() - self.epoch) * 1e-9 * self.drift + self.offset

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine as a task of the loop, and hold on to it."""
        task = self.loop.create_task(coroutine)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def bug(self, where: str, error: BaseException) -> None:
        """A node raised what is not a Failure."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
        if len(self.bugs) < 1000:
            self.bugs.append(f"{where}: {type(error).__name__}: {error}{line}")

    # -- nodes --------------------------------------------------------------------------------------------

    def add(self, address: str, declared: Node) -> LocalEnv:
        """Declare a node of this process."""
        env = self.envs[address] = LocalEnv(self, address, declared)
        self.places[address] = self.name
        return env

    async def listen(self, port: int = 0, http_ports: dict[str, int] | None = None) -> None:
        """Open this process's sockets; OSError if a port is in use."""
        self._listener = await self.loop.create_server(
            lambda: Connection(self), "127.0.0.1", port, backlog=1024
        )
        self.ports[self.name] = self._listener.sockets[0].getsockname()[1]
        for address, env in self.envs.items():
            if isinstance(env.declared, Http):
                server = HttpServer(_http_handler(env), port=(http_ports or {}).get(address, 0))
                await server.start()
                self._servers.append(server)
                self.http_ports[address] = server.port

    def boot(self, resolve: Callable[[LocalEnv, Any], Any], *addresses: str) -> None:
        """Build nodes (all that do not run, if none is named) and run their ``start``."""
        self.enter()
        for env in self.envs.values():
            if not env.up and (not addresses or env.address in addresses):
                env.up = True
                env.node = bind(env.declared, env, lambda wire, env=env: resolve(env, wire))
                task = Task(env, env.node.start())
                task.watch(self._started)
                self.ready.append((task.resume, ()))
        self.leave()

    def _started(self, task: Task) -> None:
        if isinstance(task.error, Failure):
            self.bug(task.env.address, task.error)
        waiting, task.env.inbox = task.env.inbox or [], None
        self.ready.extend((handle, ()) for handle in waiting)

    # -- frames -------------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> tuple[str, int]:
        """Where a process listens; LookupError if there is none of that name."""
        return "127.0.0.1", self.ports[name]

    def transmit(self, to: str, data: bytes, call: int, method: str) -> None:
        """Send a frame to the process of a node."""
        place = self.places.get(to)
        if place is None:
            if call:
                self.ready.append((self.unreachable, (call, f"no node has the address {to!r}")))
            return
        self._count(len(data) + HEADER, method)
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = Link(self, place)
        if self.rules:
            self._disturb(place, link.send, data, call)
        else:
            link.send(data, call)

    def _count(self, size: int, method: str) -> None:
        self.messages += 1
        self.bytes += size
        self.by_method[method] = self.by_method.get(method, 0) + 1

    def _disturb(self, place: str, send: Callable[..., None], *what: Any) -> None:
        """Send through the rules in force: lost, late, twice."""
        delay, copies = 0.0, 1
        for rule in self.rules:
            if rule.applies(self.name, place):
                if rule.loss and self.random.chance(rule.loss):
                    return
                delay += rule.delay
                if rule.duplicate and self.random.chance(rule.duplicate):
                    copies = 2
                if rule.reorder and self.random.chance(rule.reorder):
                    delay += 0.005 * self.random.random()
        for _ in range(copies):
            if delay:
                self.later(delay, send, *what)
            else:
                send(*what)

    def handle(self, connection: Connection, frame: Any, size: int) -> None:
        """A frame has arrived."""
        try:
            kind = frame[0]
            if kind == REQUEST:
                _, call, to, sender, name, arguments, depth = frame
                connection.peer = self.places.get(sender, connection.peer)
                env = self.envs.get(to)
                if env is not None:
                    env.request(connection, call, name, arguments, depth)
                else:
                    nobody = Unreachable(f"no node has the address {to!r}")
                    self.give(connection, call, None, False, nobody)
            elif kind == ANSWER:
                _, call, value, messages, size_, depth = frame
                self._settled(connection, call, size, messages, size_, depth, value, None)
            elif kind == FAILURE:
                _, call, code, detail, definite, messages, size_, depth = frame
                failure = failure_from_wire(code, detail, definite)
                self._settled(connection, call, size, messages, size_, depth, None, failure)
            elif kind == ONEWAY:
                _, to, sender, name, arguments = frame
                connection.peer = self.places.get(sender, connection.peer)
                env = self.envs.get(to)
                if env is not None:
                    env.oneway(name, arguments)
            else:
                connection.close(f"a frame of kind {kind!r}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            connection.close(f"a malformed frame ({error})")

    def give(
        self, back: Connection | None, call: int, task: Task | None, ok: bool, value: Any
    ) -> None:
        """Answer a request that came on a connection, or from this very process (None)."""
        if back is None:
            depth = task.depth if task is not None else 0
            self.ready.append((self._settle_here, (call, depth, ok, value)))
            return
        ledger = task.ledger if task is not None else None
        costs = (0, 0, 0) if ledger is None else (ledger.messages, ledger.bytes, task.depth + 1)  # type: ignore[union-attr]
        try:
            if ok:
                data = encode((ANSWER, call, value, *costs))
                if len(data) > MAX_FRAME:
                    raise TooLarge(f"an answer of {len(data)} bytes; the most is {MAX_FRAME}")
            else:
                data = encode((FAILURE, call, value.code, value.detail, value.definite, *costs))
        except (TypeError, TooLarge) as error:
            # The work was done; only the answer cannot be given.
            broken = Broken(str(error))
            data = encode((FAILURE, call, broken.code, broken.detail, broken.definite, *costs))
        self._count(len(data) + HEADER, "answer")
        if self.rules and back.peer:
            self._disturb(back.peer, back.send, data)
        else:
            back.send(data)

    # -- calls that wait ----------------------------------------------------------------------------------

    def expect(self, call: int, task: Task, token: int, method: Method, timeout_ns: int) -> None:
        """Remember who waits for the answer to a call, and until when."""
        deadline = time.monotonic_ns() + timeout_ns
        slot = deadline >> _WHEEL_BITS
        bucket = self._wheel.get(slot)
        if bucket is None:
            bucket = self._wheel[slot] = {}
            if timeout_ns < 1 << 60:
                self._timers.at(slot << _WHEEL_BITS, self._open_slot, slot)
        bucket[call] = deadline
        self._expected[call] = (task, token, method, bucket)

    def _open_slot(self, slot: int) -> None:
        for call, deadline in self._wheel.pop(slot).items():
            self._timers.at(deadline, self._expire, call)

    def _expire(self, call: int) -> None:
        waiting = self._expected.get(call)
        if waiting is not None:
            self._fail(call, Timeout(f"{waiting[2].name} was not answered in time"))

    def unreachable(self, call: int, reason: str) -> None:
        """A request could not leave."""
        if call:
            self._fail(call, Unreachable(reason))

    def broken(self, call: int, reason: str) -> None:
        """A request left, and its answer will not come."""
        self._fail(call, Broken(reason))

    def _fail(self, call: int, failure: Failure) -> None:
        waiting = self._expected.pop(call, None)
        if waiting is not None:
            task, token, _, bucket = waiting
            bucket.pop(call, None)
            self._resume(task, token, False, failure)

    def _resume(self, task: Task, token: int, ok: bool, value: Any) -> None:
        if task.token == token and not task.done:
            task.token = token + 1
            if ok:
                task.resume(value)
            else:
                task.throw(value)

    def _settle_here(self, call: int, depth: int, ok: bool, value: Any) -> None:
        waiting = self._expected.pop(call, None)
        if waiting is not None:
            task, token, _, bucket = waiting
            bucket.pop(call, None)
            if task.ledger is not None:
                task.depth = max(task.depth, depth)
            if not ok:
                value = type(value)(value.detail)  # a fresh one: nodes share nothing
            self._resume(task, token, ok, value)

    def _settled(
        self,
        connection: Connection,
        call: int,
        size: int,
        messages: int,
        bytes_: int,
        depth: int,
        value: Any,
        failure: Failure | None,
    ) -> None:
        """An answer has come over the network."""
        waiting = self._expected.pop(call, None)
        if connection.link is not None:
            connection.link.flight.pop(call, None)
        if waiting is None:
            return  # too late
        task, token, method, bucket = waiting
        bucket.pop(call, None)
        ledger = task.ledger
        if ledger is not None:
            ledger.messages += messages + 1
            ledger.bytes += bytes_ + size
            task.depth = max(task.depth, depth)
        if failure is None:
            try:
                value = method.check_result(value)
            except BadArguments as error:
                failure = Broken(f"{connection.peer} answered what does not fit: {error.detail}")
        self._resume(task, token, failure is None, value if failure is None else failure)

    # -- HTTP -----------------------------------------------------------------------------------------------

    def call_http(
        self, env: LocalEnv, task: Task, token: int, to: str, request: Request, timeout_ns: int
    ) -> None:
        """Send a request as HTTP/1.1 to a node, or to a component, that speaks it."""
        place = self.places.get(to, to)
        pool = self._pools.get(to)
        if pool is None:
            port = self.http_ports.get(to)
            if port is None:
                self.ready.append((task.throw, (Unreachable(f"{to} speaks no HTTP"),)))
                return
            pool = self._pools[to] = HttpPool("127.0.0.1", port, limit=256, reads_headers=True)
        ledger = task.ledger
        headers = dict(request.headers)
        if ledger is not None:
            headers[_ACCOUNT] = str(task.depth + 1)
        head = encode_headers(headers) if headers else b""

        def done(status: int, body: bytes, failure: Failure | None) -> None:
            if exchange.received:
                self._count(exchange.received, "http")
            if ledger is not None:
                ledger.messages += 1 if failure else 2
                ledger.bytes += exchange.sent + exchange.received
                if exchange.cost:
                    messages, size, depth = map(int, exchange.cost.split(b","))
                    ledger.messages += messages
                    ledger.bytes += size
                    task.depth = max(task.depth, depth)
            if failure is None:
                self.event(self._resume, task, token, True, Response(status, body, exchange.content_type))
            else:
                self.event(self._resume, task, token, False, failure)

        def send() -> None:
            nonlocal exchange
            # One request and no more: the pool's own timeout is the call's.
            exchange = pool.request(
                request.method, request.target, request.body, head, done, min(timeout_ns * 1e-9, 3600.0)
            )
            self._count(len(request.body) + len(request.target) + 80, "http")

        exchange: Any = None
        if self.rules:
            self.expect_http(task, token, timeout_ns)
            self._disturb(place, send)
        else:
            send()

    def expect_http(self, task: Task, token: int, timeout_ns: int) -> None:
        """A request that a rule may drop needs a timeout of its own."""
        timeout = Timeout("http was not answered in time")
        self._timers.at(time.monotonic_ns() + timeout_ns, self._resume, task, token, False, timeout)

    # -- the end --------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close sockets and timers."""
        self._timers.close()
        for env in self.envs.values():
            env.up = False
        for link in self._links.values():
            link.close()
        for pool in self._pools.values():
            await pool.close()
        for server in self._servers:
            await server.close(0.2)
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.incoming):
            connection._transport.abort()
        for task in list(self._kept):
            task.cancel()


class _HttpCaller:
    """Whoever asked over HTTP."""

    __slots__ = ("accounted", "respond")

    def __init__(self, respond: Respond, accounted: bool) -> None:
        self.respond = respond
        self.accounted = accounted

    def answer(self, task: Task, response: Any) -> None:
        if not isinstance(response, Response):
            task.env.bug(TypeError(f"http answered a {type(response).__name__}, not a Response"))
            response = Response(500)
        headers: dict[str, str] = {}
        if self.accounted and task.ledger is not None:
            headers[_COST] = f"{task.ledger.messages},{task.ledger.bytes},{task.depth + 1}"
        self.respond(response.status, response.body, response.content_type, encode_headers(headers))

    def fail(self, error: Failure) -> None:
        response = failure_response(error)
        self.respond(response.status, response.body, response.content_type)


def _http_handler(env: LocalEnv) -> Callable[..., None]:
    """What the HTTP server calls for each request to this node."""

    def handler(method: str, target: str, headers: Any, body: bytes, respond: Respond) -> None:
        process = env.process
        process.enter()
        try:
            account = headers.get(_ACCOUNT)
            depth = int(account) if account and account.isdigit() else 0
            ledger = Ledger() if account else None
            kept = {n: v for n, v in headers.items() if n not in _HOP_BY_HOP}
            coroutine = env.node.http(Request(method, target, body, kept))
            task = Task(env, coroutine, ledger, depth)
            task.caller = _HttpCaller(respond, bool(account))
            if env.inbox is not None:
                env.inbox.append(task.resume)
            else:
                task.resume()
        finally:
            process.leave()

    return handler


_HOP_BY_HOP = frozenset(
    (_ACCOUNT, "host", "connection", "content-length", "keep-alive", "transfer-encoding", "accept-encoding")
)
