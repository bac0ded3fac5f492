"""A live node's environment: how it sends, how its messages reach its handlers, its time and its disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyarch.core.asker import Asker
from polyarch.core.errors import BadArguments, Broken, Failure, Refused, TooLarge, UnknownMethod
from polyarch.core.messages import Method, Reference, schema_of, timeout_ns
from polyarch.core.node import Env, Node
from polyarch.core.randomness import Random
from polyarch.core.tasks import Ledger, Suspension, Task, Timer
from polyarch.core.wire import HEADER, MAX_FRAME, ONEWAY, REQUEST, UNSENDABLE, encode
from polyarch.runtimes.local.disk import LocalDisk
from polyarch.runtimes.local.http_links import Caller, HttpCaller
from polyarch.runtimes.local.threads import LocalThread, OwnThread, compute
from polyarch.runtimes.local.transport import Connection

if TYPE_CHECKING:
    from polyarch.runtimes.local.process import LocalProcess

__all__ = ["LocalEnv"]


class LocalEnv(Env):
    """The one incarnation of a node that this process runs."""

    __slots__ = (
        "_disk",
        "_random",
        "address",
        "current",
        "declared",
        "inbox",
        "methods",
        "node",
        "process",
        "up",
    )

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
            self._random = self.process.nodes_random.fork(self.address)
        return self._random

    def secret(self, size: int) -> bytes:
        return os.urandom(size)

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

    @property
    def restarted(self) -> bool:
        return self.process.incarnation > 0

    def now(self) -> float:
        return self.process.now()

    def traffic(self, messages: int, size: int | None) -> None:
        """What a component's client has exchanged with its server for this node; ``size`` None: it
        could not be measured."""
        process = self.process
        process.by_method["component"] += messages
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
        return _Sleep(max(0.0, seconds))

    def work(self, seconds: float) -> Suspension:
        return OwnThread(compute, seconds)

    def blocking_call(self, seconds: float) -> Suspension:
        return OwnThread(time.sleep, seconds)

    def thread(self) -> LocalThread:
        return LocalThread(self)

    def asker(self, task: Task) -> Asker:
        """Who waits for what a task does: known of those who asked over HTTP."""
        return task.caller.asker if isinstance(task.caller, HttpCaller) else Asker(self.now)

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
                kind = type(waiting).__name__
                task.throw(TypeError(f"a node awaited a {kind}, which nothing here can resume"))
            return
        waiting._asyncio_future_blocking = False
        waiting.add_done_callback(lambda _: self.process.event(task.resume))

    # -- messages ---------------------------------------------------------------------------------------

    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        process = self.process
        task.token = token = task.token + 1
        to = reference._to
        timeout = reference._timeout
        patience = method.timeout_ns if timeout is None else timeout_ns(timeout)
        target = process.envs.get(to)
        if target is not None:
            process.calls += 1
            process.expect(task, token, method, patience, None)
            process.ready.append((target.request, (None, process.calls, method.name, arguments, task)))
            return
        if method.name == "http":
            process.http.call(task, token, to, arguments[0], patience)
            return
        if method.name == "dns":
            process.dns.call(task, token, to, arguments[0], patience)
            return
        process.calls = call = process.calls + 1
        ledger = task.ledger
        depth = 0 if ledger is None else task.depth + 1
        try:
            data = _encoded(method, (REQUEST, call, to, self.address, method.name, arguments, depth))
        except Refused as refused:
            process.ready.append((task.throw, (refused,)))
            return
        if ledger is not None:
            ledger.messages += 1
            ledger.bytes += len(data) + HEADER
        process.ask(task, token, to, data, method, patience)

    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        process = self.process
        target = process.envs.get(reference._to)
        if target is not None:
            process.ready.append((target.oneway, (method.name, arguments)))
            return
        data = _encoded(method, (ONEWAY, reference._to, self.address, method.name, arguments))
        current = self.current
        if current is not None and current.ledger is not None:
            current.ledger.messages += 1
            current.ledger.bytes += len(data) + HEADER
        process.transmit(reference._to, data, method.name)

    def request(self, back: Connection | None, call: int, name: str, arguments: Any, origin: Any) -> None:
        """Handle a request.  ``origin``: the calling task (in this process), or the depth at which an
        accounted request came (0: nobody counts)."""
        if self.inbox is not None:
            self.inbox.append(lambda: self.request(back, call, name, arguments, origin))
            return
        method = self.methods.get(name)
        # A task only if somebody counts or the handler suspends: most do neither.
        task: Task | None = None
        if back is None:
            task = Task(self, None, origin.ledger, origin.depth)
        elif origin:
            task = Task(self, None, Ledger(), origin)
        self.current = task
        try:
            if method is None or method.is_oneway:
                raise self._unknown(name)
            result = method.invoke(self.node, arguments)
            if method.is_async:
                waiting = result.send(None)
                if task is None:
                    self.current = task = Task(self, None)
                task.coroutine = result
                task.caller = back or origin
                task.caller_token = call
                task.guard = method
                task.follow(waiting)
                return
        except StopIteration as stop:
            result = stop.value
        except Failure as failure:
            self.process.give(back, call, name, task, False, failure)
            return
        except Exception as error:
            self.bug(error)
            self.process.give(back, call, name, task, False, Broken(f"{type(error).__name__}: {error}"))
            return
        assert method is not None
        self._give_checked(back, call, task, method, result)

    def _give_checked(
        self, back: Connection | None, call: int, task: Task | None, method: Method, result: Any
    ) -> None:
        try:
            result = method.check_result(result)
        except Broken as broken:
            self.bug(TypeError(broken.detail))
            self.process.give(back, call, method.name, task, False, broken)
        else:
            self.process.give(back, call, method.name, task, True, result)

    def answer(self, task: Task, value: Any) -> None:
        """A handler that had suspended has returned."""
        if isinstance(task.caller, Caller):
            task.caller.answer(task, value)
        else:
            back = task.caller if isinstance(task.caller, Connection) else None
            self._give_checked(back, task.caller_token, task, task.guard, value)

    def answer_failure(self, task: Task, error: Failure) -> None:
        """A handler that had suspended has failed."""
        if isinstance(task.caller, Caller):
            task.caller.fail(error)
        else:
            back = task.caller if isinstance(task.caller, Connection) else None
            self.process.give(back, task.caller_token, task.guard.name, task, False, error)

    def oneway(self, name: str, arguments: Any) -> None:
        """Handle a one-way message."""
        if self.inbox is not None:
            self.inbox.append(lambda: self.oneway(name, arguments))
            return
        method = self.methods.get(name)
        try:
            if method is None or not method.is_oneway:
                raise self._unknown(name)
            arguments = method.check(arguments)
        except Refused as refused:
            self.process.complain(f"{self.address}: {refused}")
            return
        self.run_callback(method.function, (self.node, *arguments))

    def _unknown(self, name: str) -> UnknownMethod:
        kind, known = type(self.declared).__name__, ", ".join(self.methods) or "none"
        return UnknownMethod(f"{kind} at {self.address} has no message {name!r}; it has: {known}")


class _Sleep(Suspension):
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def suspend(self, task: Task) -> None:
        task.env.process.later(self.seconds, task.resume)


def _encoded(method: Method, frame: tuple[Any, ...]) -> bytes:
    """A frame that can leave; ``Refused`` says why it cannot."""
    try:
        data = encode(frame)
    except UNSENDABLE as error:
        raise BadArguments(f"{method.name}: {error}") from None
    if len(data) > MAX_FRAME:
        raise TooLarge(f"{method.name}: a message of {len(data)} bytes; the most is {MAX_FRAME}")
    return data
