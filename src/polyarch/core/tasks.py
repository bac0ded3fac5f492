"""Tasks: an author's coroutines, driven directly by the runtime's events.

A coroutine that awaits yields one of two things, and that is the whole protocol:

* a tuple ``(reference, method, arguments)``: a remote call; the runtime sends it and resumes the task
  with the answer (``Task.resume``) or a failure (``Task.throw``);
* a ``Suspension`` (a sleep, a future, a sync): its ``suspend(task)`` arranges the resumption.

Both runtimes share this file, so awaiting means the same in both.  There is no event loop here: a task
runs when an event resumes it, to its next await, on the stack of that event.
"""

from __future__ import annotations

import abc
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, TypeVar, cast

from polyarch.core.errors import Broken, Failure, Timeout

__all__ = ["Future", "Ledger", "Suspension", "Task", "Timer", "first", "gather", "settle"]

T = TypeVar("T")


class Ledger:
    """What one operation has cost so far, everywhere it went."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


class Suspension(abc.ABC):
    """Something a coroutine can wait for."""

    __slots__ = ()

    @abc.abstractmethod
    def suspend(self, task: Task) -> None:
        """Arrange that ``task`` is resumed (or thrown into) later."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Task:
    """One running coroutine of one incarnation of a node."""

    __slots__ = (
        "caller",
        "caller_token",
        "coroutine",
        "depth",
        "done",
        "env",
        "error",
        "guard",
        "ledger",
        "result",
        "token",
        "watchers",
    )

    def __init__(self, env: Any, coroutine: Any, ledger: Ledger | None = None, depth: int = 0) -> None:
        self.env = env
        self.coroutine = coroutine
        self.token = 0
        """Counts this task's calls: an answer to an earlier one, come too late, is told by it."""
        self.caller: Any = None
        """Whom to answer, if this task handles a request: known to the runtime alone."""
        self.caller_token: Any = None
        self.guard: Any = None
        self.ledger = ledger
        self.depth = depth
        """Messages on the longest causal chain that led here, counted from the operation's start."""
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.watchers: Any = None

    def resume(self, value: Any = None) -> None:
        """Run the coroutine on, to its next await or its end."""
        env = self.env
        if not env.up or self.done:
            return
        env.current = self
        try:
            waiting = self.coroutine.send(value)
        except StopIteration as stop:
            self.finish(stop.value)
        except Exception as error:
            self.fail(error)
        else:
            if type(waiting) is tuple:
                reference, method, arguments = waiting
                env.call(self, reference, method, arguments)
            else:
                self._wait(waiting)

    def throw(self, error: BaseException) -> None:
        """Raise ``error`` in the coroutine, at its await."""
        env = self.env
        if not env.up or self.done:
            return
        env.current = self
        try:
            waiting = self.coroutine.throw(error)
        except StopIteration as stop:
            self.finish(stop.value)
        except Exception as raised:
            self.fail(raised)
        else:
            self.follow(waiting)

    def follow(self, waiting: Any) -> None:
        """Wait for what the coroutine yielded."""
        if type(waiting) is tuple:
            self.env.call(self, *waiting)
        else:
            self._wait(waiting)

    def _wait(self, waiting: Any) -> None:
        while type(waiting) is _Self:  # in a loop: it may ask a thousand times without waiting once
            try:
                waiting = self.coroutine.send(self)
            except StopIteration as stop:
                return self.finish(stop.value)
            except Exception as error:
                return self.fail(error)
        if type(waiting) is tuple:
            self.env.call(self, *waiting)
        elif isinstance(waiting, Suspension):
            waiting.suspend(self)
        else:
            self.env.wait_foreign(self, waiting)

    def finish(self, value: Any) -> None:
        """The coroutine returned."""
        self.done = True
        self.coroutine = None  # what it held is free, even if somebody still holds the task
        self.result = value
        if self.caller is not None:
            self.env.answer(self, value)
        if self.watchers is not None:
            self._tell()

    def fail(self, error: BaseException) -> None:
        """The coroutine raised.  A ``Failure`` is an answer; anything else is a bug in the node, which its
        caller sees as ``Broken``: some of the work may have happened."""
        self.done = True
        self.coroutine = None
        if not isinstance(error, Failure):
            self.env.bug(error)
            broken = Broken(f"{type(error).__name__}: {error}")
            broken.__cause__ = error
            error = broken
        self.error = error
        if self.caller is not None:
            self.env.answer_failure(self, error)
        if self.watchers is not None:
            self._tell()

    def cancel(self) -> None:
        """Stop it where it waits; its ``finally`` blocks run, and must not await."""
        if not self.done:
            self.done = True
            self.error = Timeout("cancelled")
            self.coroutine.close()
            if self.watchers is not None:
                self._tell()

    def watch(self, told: Callable[[Task], None]) -> None:
        """Call ``told(task)`` when done (at once if it is)."""
        if self.done:
            told(self)
        elif self.watchers is None:
            self.watchers = [told]
        else:
            self.watchers.append(told)

    def _tell(self) -> None:
        watchers, self.watchers = self.watchers, None
        for told in watchers:
            told(self)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Its result, or its failure."""
        if not self.done:
            return (yield _Joined(self))
        # At once, and not by way of the runtime: who awaits a thousand that are done would be resumed from
        # within a thousand resumptions.
        current = self.env.current
        if current is not None:
            current.depth = max(current.depth, self.depth)
        if self.error is not None:
            raise self.error
        return self.result


class _Joined(Suspension):
    __slots__ = ("task",)

    def __init__(self, task: Task) -> None:
        self.task = task

    def suspend(self, task: Task) -> None:
        def told(done: Task) -> None:
            task.depth = max(task.depth, done.depth)
            if done.error is None:
                task.resume(done.result)
            else:
                task.throw(done.error)

        self.task.watch(told)


class Future(Suspension, Generic[T]):
    """A value that somebody will set; any number may await it.

    ``await future`` gives the value; ``await future.within(seconds)`` raises ``Timeout`` after that.
    """

    __slots__ = ("_env", "_setter", "_waiting", "done", "error", "value")

    def __init__(self, env: Any) -> None:
        self._env = env
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None
        self._setter: tuple[Ledger | None, int] = (None, 0)
        self._waiting: list[Callable[[], None]] = []

    def set(self, value: T) -> None:
        """Give the value; only the first time counts."""
        if not self.done:
            self.done = True
            self.value = value
            self._wake()

    def fail(self, error: Failure) -> None:
        """Give a failure instead of a value."""
        if not self.done:
            self.done = True
            self.error = error
            self._wake()

    def _wake(self) -> None:
        current = self._env.current
        if current is not None:
            self._setter = (current.ledger, current.depth)
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            self._env.soon(wake)

    def suspend(self, task: Task) -> None:
        def wake() -> None:
            ledger, depth = self._setter
            # What was done for this very operation is on its path.  Work for another one, in whose batch
            # it was, has a path of its own, whose length says nothing here.
            if ledger is not None and ledger is task.ledger and depth > task.depth:
                task.depth = depth
            if self.error is None:
                task.resume(self.value)
            else:
                task.throw(self.error)

        if self.done:
            self._env.soon(wake)
        else:
            self._waiting.append(wake)

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("T", (yield self))

    async def within(self, seconds: float) -> T:
        """The value, or ``Timeout`` after ``seconds``."""
        if not self.done:
            mine: Future[T] = Future(self._env)

            def copy() -> None:
                if self.error is None:
                    mine.set(self.value)  # type: ignore[arg-type]
                else:
                    mine.fail(self.error)  # type: ignore[arg-type]

            self._waiting.append(copy)
            timer = self._env.after(seconds, mine.fail, (Timeout(f"nothing within {seconds} s"),))
            try:
                return await mine
            finally:
                timer.cancel()
                if copy in self._waiting:
                    self._waiting.remove(copy)
        return await self


class Timer:
    """A call that will happen; ``cancel`` prevents it."""

    __slots__ = ("arguments", "cancelled", "function", "handle", "interval", "jitter")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.cancelled = False
        self.interval = 0.0
        """Seconds between repetitions; 0: once."""
        self.jitter = 0.0
        self.handle: Any = None

    def cancel(self) -> None:
        """It will not happen (again)."""
        self.cancelled = True


@types.coroutine
def _current() -> Generator[Any, Any, Task]:
    """The task that is running."""
    return cast("Task", (yield _Self()))


class _Self(Suspension):
    __slots__ = ()

    def suspend(self, task: Task) -> None:
        task.resume(task)


async def _run(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _children(awaitables: Iterable[Awaitable[Any]]) -> tuple[Task, list[Task]]:
    me = await _current()
    return me, [
        Task(me.env, a if isinstance(a, Coroutine) else _run(a), me.ledger, me.depth) for a in awaitables
    ]


async def settle(*awaitables: Awaitable[T]) -> list[T | Failure]:
    """Run all at once and wait for all; each one's result, or its failure, in the order given."""
    me, children = await _children(awaitables)
    for child in children:
        child.resume()
    for child in children:
        if not child.done:
            try:
                await child
            except Failure:
                pass
        me.depth = max(me.depth, child.depth)
        if child.error is not None:
            # A value from here on.  Its frames would hold it for ever, as nobody collects cycles in a run.
            child.error.__traceback__ = None
    return [c.result if c.error is None else c.error for c in children]  # type: ignore[misc]


async def gather(*awaitables: Awaitable[T]) -> list[T]:
    """Run all at once; all results, in the order given.  The first failure (in that order) is raised
    when all have ended."""
    outcomes = await settle(*awaitables)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome
    return outcomes  # type: ignore[return-value]


async def first(count: int, *awaitables: Awaitable[T]) -> list[T]:
    """Run all at once; the first ``count`` results as they come: a quorum.  Raises the last failure when
    too few can succeed.  The others run on, and nobody waits for them."""
    me, children = await _children(awaitables)
    if count > len(children):
        raise ValueError(f"first({count}) of {len(children)}")
    enough: Future[None] = Future(me.env)
    results: list[T] = []
    failures: list[Failure] = []

    def told(child: Task) -> None:
        if enough.done:
            return
        if isinstance(child.error, Failure):
            failures.append(child.error)
            if len(children) - len(failures) < count:
                enough.fail(child.error)
        else:
            results.append(child.result)
            me.depth = max(me.depth, child.depth)
            if len(results) == count:
                enough.set(None)

    if count == 0:
        enough.set(None)
    for child in children:
        child.watch(told)
        child.resume()
    await enough
    return results
