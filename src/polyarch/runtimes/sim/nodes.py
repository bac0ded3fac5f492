"""Simulated nodes: what each of them is given, and how its messages leave.

A message is an event of the kernel's agenda (``events.py`` says what happens when it arrives).  There are
three kinds of node environments, with the same meaning (a test compares their traces):

* ``PlainEnv``: latency and crashes only.  It is what makes 100,000 nodes affordable.
* ``LinkEnv``: besides, links that lose, delay, duplicate and reorder, and observers: for exploring schedules.
* ``DetailedEnv``: everything else: real frame sizes, bandwidth, loss, duplication, reordering, service
  times on the cores of hosts, ledgers of operations, and observers.

A call needs no timer of its own.  Either its answer is already on its way (no timer at all), or it is lost
(one event at its deadline), or its handler has suspended: then it is put into the kernel's coarse wheel of
deadlines and removed when it is answered, at the price of a dict entry.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from polyarch.core.asker import Asker
from polyarch.core.errors import BadArguments, Broken, Failure, Refused, TooLarge, Unreachable
from polyarch.core.messages import Method, Reference, schema_of, timeout_ns
from polyarch.core.node import Env, Node
from polyarch.core.randomness import Random
from polyarch.core.tasks import Suspension, Task, Timer
from polyarch.core.wire import ANSWER, BASE, FAILURE, HEADER, MAX_FRAME, ONEWAY, REQUEST, UNSENDABLE, encode
from polyarch.runtimes.sim.disk import SimDisk
from polyarch.runtimes.sim.events import (
    Until,
    on_answer,
    on_arrival,
    on_deep_answer,
    on_failure,
    on_oneway,
    on_oneway_arrival,
    on_request,
    on_timer,
)
from polyarch.runtimes.sim.network import ns
from polyarch.runtimes.sim.process import SimProcess
from polyarch.runtimes.sim.threads import SimThread

__all__ = ["DetailedEnv", "LinkEnv", "PlainEnv", "SimEnv"]


class SimEnv(Env):
    """One incarnation of one simulated node."""

    __slots__ = (
        "_disk", "_random", "address", "current", "declared", "inbox", "kernel", "methods", "node", "number",
        "process", "up",
    )  # fmt: skip

    def __init__(self, process: SimProcess, address: str, declared: Node, number: int) -> None:
        self.kernel = process.kernel
        self.process = process
        self.address = address
        self.declared = declared
        self.number = number
        self.up = False
        self.current: Any = None
        self._random: Random | None = None
        self._disk: SimDisk | None = None
        self.inbox: list[tuple[Any, ...]] | None = None
        """Messages that came before ``start`` had returned."""
        self.methods: dict[str, Method] = schema_of(type(declared)).methods
        self.node: Any = None

    # -- the world ------------------------------------------------------------------------------------

    @property
    def random(self) -> Random:
        if self._random is None:
            self._random = self.kernel.random.fork(self.address)
        return self._random

    def secret(self, size: int) -> bytes:
        # The time is in it: a node that was restarted draws the same numbers as before.
        return Random(self.random.bits64() ^ self.kernel.now).bytes(size)

    @property
    def disk(self) -> SimDisk:
        if self._disk is None:
            self._disk = SimDisk(self, self.kernel.disk_sync_ns)
        return self._disk

    @property
    def restarted(self) -> bool:
        return self.process.restarted

    def now(self) -> float:
        return self.kernel.now * 1e-9 * self.process.drift + self.process.offset

    def after(self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Timer:
        timer = Timer(function, arguments)
        kernel = self.kernel
        delay = round(max(0.0, seconds) * 1e9 / self.process.drift)
        kernel.schedule(kernel.now + delay, (on_timer, self, timer))
        return timer

    def every(
        self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...], jitter: float
    ) -> Timer:
        if seconds <= 0:
            raise ValueError(f"every({seconds}): the period must be positive")
        timer = Timer(function, arguments)
        timer.interval = seconds
        timer.jitter = jitter
        kernel = self.kernel
        first = round(seconds * self.random.random() * 1e9 / self.process.drift)
        kernel.schedule(kernel.now + first, (on_timer, self, timer))
        return timer

    def sleep(self, seconds: float) -> Suspension:
        return Until(self.kernel.now + round(max(0.0, seconds) * 1e9 / self.process.drift))

    def work(self, seconds: float) -> Suspension:
        return Until(self.process.occupy(ns(seconds)))

    def blocking_call(self, seconds: float) -> Suspension:
        return Until(self.process.occupy(ns(seconds), idle=True))

    def thread(self) -> SimThread:
        return SimThread(self)

    def asker(self, task: Task) -> Asker:
        """Who waits for what a task does."""
        if task.guard is None:
            return Asker(self.now)
        left = (task.guard[1] - self.kernel.now) * 1e-9 * self.process.drift
        return Asker(self.now, self.now() + left)

    def soon(self, function: Callable[[], None]) -> None:
        self.kernel.at(self.kernel.now, self, function)

    def bug(self, error: BaseException) -> None:
        self.kernel.bugs.append((self.kernel.now * 1e-9, self.address, error))

    def wait_foreign(self, task: Task, waiting: Any) -> None:
        task.throw(
            TypeError(
                f"a node awaited a {type(waiting).__name__}, which is not Polyarch's: await messages, "
                "self.sleep, self.future() or self.disk.sync()"
            )
        )

    # -- answering ------------------------------------------------------------------------------------

    def answer(self, task: Task, value: Any) -> None:
        """A handler that had suspended has returned."""
        method: Method = task.guard[2]
        try:
            value = method.check_result(value)
        except Broken as broken:
            self.bug(TypeError(broken.detail))
            self._settle(task, False, broken)
        else:
            self._settle(task, True, value)

    def answer_failure(self, task: Task, error: Failure) -> None:
        """A handler that had suspended has failed."""
        self._settle(task, False, error)

    def _settle(self, task: Task, ok: bool, value: Any) -> None:
        bucket, deadline, method = task.guard
        bucket.pop(task.caller, None)
        del self.kernel.serving[task]
        self.give(task.caller, task.caller_token, deadline, task.depth, ok, value, method)

    @abc.abstractmethod
    def give(
        self, caller: Task, token: int, deadline: int, depth: int, ok: bool, value: Any, method: Method
    ) -> None:
        """Send an answer (or a failure) back to the caller; what comes after the deadline does not."""


class PlainEnv(SimEnv):
    """Messages with latency and crashes, and nothing else."""

    __slots__ = ()

    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        kernel = self.kernel
        target = kernel.directory.get(reference._to)
        task.token = token = task.token + 1
        now = kernel.now
        timeout = reference._timeout
        deadline = now + (method.timeout_ns if timeout is None else timeout_ns(timeout))
        if target is None:
            kernel.schedule(now, (on_failure, task, token, _nobody(reference._to)))
            return
        delay = kernel.constant
        if target.process is self.process:
            delay = 0
        elif delay is None:
            delay = kernel.delay(self.process, target.process)
        kernel.schedule(now + delay, (on_request, task, token, target, method, arguments, deadline, 0))

    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        kernel = self.kernel
        target = kernel.directory.get(reference._to)
        if target is None:
            return
        delay = kernel.constant
        if target.process is self.process:
            delay = 0
        elif delay is None:
            delay = kernel.delay(self.process, target.process)
        kernel.schedule(kernel.now + delay, (on_oneway, target, method, arguments, None, 0))

    def give(
        self, caller: Task, token: int, deadline: int, depth: int, ok: bool, value: Any, method: Method
    ) -> None:
        kernel = self.kernel
        back = caller.env
        delay = kernel.constant
        if back.process is self.process:
            delay = 0
        elif delay is None:
            delay = kernel.delay(self.process, back.process)
        arrival = kernel.now + delay
        if arrival <= deadline:
            kernel.schedule(arrival, (on_answer if ok else on_failure, caller, token, value))
        else:
            kernel.expire(caller, token, deadline, method)


class LinkEnv(SimEnv):
    """Messages over links that can be disturbed and observed; nothing is sized, and no core is occupied."""

    __slots__ = ()

    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        kernel = self.kernel
        target = kernel.directory.get(reference._to)
        task.token = token = task.token + 1
        now = kernel.now
        timeout = reference._timeout
        deadline = now + (method.timeout_ns if timeout is None else timeout_ns(timeout))
        if target is None:
            kernel.fail_now(task, token, _nobody(reference._to))
            return
        arrivals: tuple[int, ...] = (now,)
        if target.process is not self.process:
            arrivals = kernel.travel(self.process, target.process, now)
            if kernel.observer is not None:
                kernel.observer("call", now, self.address, reference._to, method, arguments, arrivals)
        if not arrivals:
            kernel.expire(task, token, deadline, method)
        for time in arrivals:
            kernel.schedule(time, (on_request, task, token, target, method, arguments, deadline, 0))

    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        kernel = self.kernel
        target = kernel.directory.get(reference._to)
        if target is None:
            return
        now = kernel.now
        arrivals: tuple[int, ...] = (now,)
        if target.process is not self.process:
            arrivals = kernel.travel(self.process, target.process, now)
            if kernel.observer is not None:
                kernel.observer("send", now, self.address, reference._to, method, arguments, arrivals)
        for time in arrivals:
            kernel.schedule(time, (on_oneway, target, method, arguments, None, 0))

    def give(
        self, caller: Task, token: int, deadline: int, depth: int, ok: bool, value: Any, method: Method
    ) -> None:
        kernel = self.kernel
        back = caller.env
        now = kernel.now
        arrivals: tuple[int, ...] = (now,)
        if back.process is not self.process:
            arrivals = kernel.travel(self.process, back.process, now)
            if kernel.observer is not None:
                kind = "answer" if ok else "failure"
                kernel.observer(kind, now, self.address, back.address, method, value, arrivals)
        if not arrivals or arrivals[0] > deadline:
            kernel.expire(caller, token, deadline, method)
            return
        for time in arrivals:
            kernel.schedule(time, (on_answer if ok else on_failure, caller, token, value))


class DetailedEnv(SimEnv):
    """Messages with everything: sizes, links, cores, ledgers, observers."""

    __slots__ = ()

    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        kernel = self.kernel
        process = self.process
        target = kernel.directory.get(reference._to)
        task.token = token = task.token + 1
        timeout = reference._timeout
        deadline = kernel.now + (method.timeout_ns if timeout is None else timeout_ns(timeout))
        if target is None:
            kernel.fail_now(task, token, _nobody(reference._to))
            return
        arrivals: tuple[int, ...] = (kernel.now,)
        depth = task.depth
        if target.process is not process:
            depth += 1
            frame = (REQUEST, BASE, reference._to, self.address, method.name, arguments, 0)
            try:
                size = _size(method, arguments, frame)
            except Refused as refused:
                kernel.fail_now(task, token, refused)
                return
            arrivals = kernel.carry(process, target.process, size, task.ledger, method.name)
            if kernel.observer is not None:
                kernel.observer("call", kernel.now, self.address, reference._to, method, arguments, arrivals)
        if not arrivals:
            kernel.expire(task, token, deadline, method)
        for time in arrivals:
            kernel.schedule(time, (on_arrival, task, token, target, method, arguments, deadline, depth))

    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        if not self.up:
            return
        kernel = self.kernel
        process = self.process
        target = kernel.directory.get(reference._to)
        if target is None:
            return
        current = self.current
        ledger, depth = (None, 0) if current is None else (current.ledger, current.depth)
        arrivals: tuple[int, ...] = (kernel.now,)
        if target.process is not process:
            size = _size(method, arguments, (ONEWAY, reference._to, self.address, method.name, arguments))
            depth += 1
            arrivals = kernel.carry(process, target.process, size, ledger, method.name)
            if kernel.observer is not None:
                kernel.observer("send", kernel.now, self.address, reference._to, method, arguments, arrivals)
        for time in arrivals:
            kernel.schedule(time, (on_oneway_arrival, target, method, arguments, ledger, depth))

    def give(
        self, caller: Task, token: int, deadline: int, depth: int, ok: bool, value: Any, method: Method
    ) -> None:
        kernel = self.kernel
        back = caller.env
        arrivals: tuple[int, ...] = (kernel.now,)
        if back.process is not self.process:
            depth += 1
            costs = (0, 0, 0) if caller.ledger is None else (BASE, BASE, depth)
            try:
                size = _size(method, value, (ANSWER, BASE, value, *costs)) if ok else 0
            except Refused as error:  # the work was done; only the answer cannot be given
                ok, value = False, Broken(error.detail)
            if not ok:
                failure = (FAILURE, BASE, value.code, value.detail, value.definite, *costs)
                size = _size(method, None, failure)
            arrivals = kernel.carry(self.process, back.process, size, caller.ledger, method.name)
            if kernel.observer is not None:
                kind = "answer" if ok else "failure"
                kernel.observer(kind, kernel.now, self.address, back.address, method, value, arrivals)
        if not arrivals or arrivals[0] > deadline:
            kernel.expire(caller, token, deadline, method)
            return
        for time in arrivals:
            kernel.schedule(time, (on_deep_answer if ok else on_failure, caller, token, value, depth))


def _size(method: Method, value: Any, frame: tuple[Any, ...]) -> int:
    """Bytes that a message takes on the wire: as HTTP or DNS for what is that, as a frame for the rest;
    ``Refused`` if it cannot leave."""
    if method.name == "http" or method.name == "dns":
        part = value[0] if type(value) is tuple else value
        wire_size = getattr(part, "wire_size", None)
        if wire_size is not None:
            return int(wire_size())
    try:
        size = len(encode(frame))
    except UNSENDABLE as error:
        raise BadArguments(f"{method.name}: {error}") from None
    if size > MAX_FRAME:
        raise TooLarge(f"{method.name}: a message of {size} bytes; the most is {MAX_FRAME}")
    return size + HEADER


def _nobody(address: str) -> Unreachable:
    return Unreachable(f"no node has the address {address!r}")
