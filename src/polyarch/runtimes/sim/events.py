"""What happens when an event's time has come.

An event is a tuple ``(handler, …)`` whose tail belongs to its handler: one allocation, one entry in the
agenda, one call.  ``nodes.py`` makes those that messages are, and the handlers here are where they arrive:
at a host, at a node, at whoever waits for the answer.  A handler that does not suspend never becomes a task.
"""

from __future__ import annotations

from typing import Any

from polyarch.core.errors import Broken, Failure, Refused, Timeout, failure_from_wire
from polyarch.core.tasks import Suspension, Task

__all__ = [
    "Until",
    "is_request",
    "on_answer",
    "on_arrival",
    "on_deadline",
    "on_deep_answer",
    "on_failure",
    "on_function",
    "on_oneway",
    "on_oneway_arrival",
    "on_request",
    "on_timer",
    "on_wake",
]


def on_timer(event: tuple[Any, ...]) -> None:
    """A timer's time has come."""
    env, timer = event[1], event[2]
    if timer.cancelled:
        return
    if not env.up:
        env.kernel.held(env, event)
        return
    if timer.interval:
        kernel = env.kernel
        period = timer.interval
        if timer.jitter:
            period *= 1.0 + timer.jitter * (2.0 * env.random.random() - 1.0)
        time = kernel.now + round(period * 1e9 / env.process.drift)
        kernel.schedule(time, event)
    env.run_callback(timer.function, timer.arguments)


class Until(Suspension):
    """Resume at a virtual time."""

    __slots__ = ("time",)

    def __init__(self, time: int) -> None:
        self.time = time

    def suspend(self, task: Task) -> None:
        kernel = task.env.kernel
        kernel.schedule(self.time, (on_wake, task.env, task))


def on_wake(event: tuple[Any, ...]) -> None:
    """A sleep is over."""
    env = event[1]
    if env.up:
        event[2].resume(None)
    else:
        env.kernel.held(env, event)


def on_function(event: tuple[Any, ...]) -> None:
    """The kernel's or a disk's own event."""
    env = event[1]
    if env is None or env.up:
        event[2]()
    else:
        env.kernel.held(env, event)


def on_arrival(event: tuple[Any, ...]) -> None:
    """A request arrives at a host: it waits for a core, and occupies it."""
    env = event[3]
    process = env.process
    if process.cost_ns and env.up and env.inbox is None and event[1].env.process is not process:
        env.kernel.schedule(process.occupy(process.cost_ns), (on_request, *event[1:]))
    else:
        on_request(event)


def on_request(event: tuple[Any, ...]) -> None:
    """A request arrives at a node: run its handler, to its end or its first await."""
    _, caller, token, env, method, arguments, deadline, depth = event
    kernel = env.kernel
    if not env.up:
        kernel.undelivered(event, caller, token, env, deadline, method)
        return
    if env.inbox is not None:
        env.inbox.append(event)
        kernel.guard(caller, token, deadline, method)
        return
    trace = kernel.trace
    if trace is not None:
        trace += (kernel.now, env.number, method.code)
    env.current = task = None
    try:
        if method.siblings is not env.methods:
            method = kernel.same_message(env, method)
        if kernel.detailed:
            env.current = task = Task(env, None, caller.ledger, depth)
        result = method.invoke(env.node, arguments)
        if method.is_async:
            if task is None:
                waiting = result.send(None)
                task = Task(env, result)
            else:
                task.coroutine = result
                waiting = result.send(None)
                depth = task.depth
            # It has suspended: from here on the answer may be late, or never come.
            task.caller = caller
            task.caller_token = token
            task.guard = (kernel.guard(caller, token, deadline, method), deadline, method)
            kernel.serving[task] = None
            if type(waiting) is tuple:
                reference, method, arguments = waiting
                env.call(task, reference, method, arguments)
            else:
                task.follow(waiting)
            return
    except StopIteration as stop:
        result = stop.value
    except Failure as error:
        env.give(caller, token, deadline, depth, False, error, method)
        return
    except Exception as error:
        env.bug(error)
        broken = Broken(f"{type(error).__name__}: {error}")
        env.give(caller, token, deadline, depth, False, broken, method)
        return
    try:
        result = method.check_result(result)
    except Broken as broken:
        env.bug(TypeError(broken.detail))
        env.give(caller, token, deadline, depth, False, broken, method)
        return
    env.give(caller, token, deadline, depth, True, result, method)


def on_deep_answer(event: tuple[Any, ...]) -> None:
    """An answer that knows how many messages, one after another, have led to it arrives at its caller."""
    caller = event[1]
    if caller.token == event[2] and event[4] > caller.depth:
        caller.depth = event[4]
    on_answer(event)


def on_answer(event: tuple[Any, ...]) -> None:
    """An answer arrives at its caller: run it on, to its next await or its end."""
    caller, token = event[1], event[2]
    if caller.token != token or caller.done:
        return
    env = caller.env
    kernel = env.kernel
    if not env.up:
        kernel.held(env, event)
        return
    trace = kernel.trace
    if trace is not None:
        trace += (kernel.now, env.number, token)
    caller.token = token + 1
    env.current = caller
    try:
        waiting = caller.coroutine.send(event[3])
    except StopIteration as stop:
        caller.finish(stop.value)
        env.current = None  # or every node would keep its last task, all over the memory
    except Exception as error:
        caller.fail(error)
    else:
        if type(waiting) is tuple:
            reference, method, arguments = waiting
            env.call(caller, reference, method, arguments)
        else:
            caller.follow(waiting)


def on_failure(event: tuple[Any, ...]) -> None:
    """A failure arrives at the caller."""
    caller, token, failure = event[1], event[2], event[3]
    if caller.token != token or caller.done:
        return
    env = caller.env
    if not env.up:
        env.kernel.held(env, event)
        return
    if env.kernel.trace is not None:
        env.kernel.trace.extend((env.kernel.now, env.number, -token))
    caller.token = token + 1
    caller.throw(failure_from_wire(failure.code, failure.detail, failure.definite))  # nodes share nothing


def on_deadline(event: tuple[Any, ...]) -> None:
    """A call's deadline: nothing has come."""
    caller, token, method = event[1], event[2], event[3]
    if caller.token == token and not caller.done:
        on_failure((on_failure, caller, token, Timeout(f"{method.name} was not answered in time")))


def is_request(event: tuple[Any, ...]) -> bool:
    """Whether somebody waits for the answer to this event."""
    return event[0] is on_arrival or event[0] is on_request


def on_oneway_arrival(event: tuple[Any, ...]) -> None:
    """A one-way message arrives at a host: it waits for a core, and occupies it."""
    env = event[1]
    process = env.process
    if process.cost_ns and env.up and env.inbox is None:
        env.kernel.schedule(process.occupy(process.cost_ns), (on_oneway, *event[1:]))
    else:
        on_oneway(event)


def on_oneway(event: tuple[Any, ...]) -> None:
    """A one-way message arrives at a node."""
    _, env, method, arguments, ledger, depth = event
    kernel = env.kernel
    if not env.up:
        kernel.held(env, event)
        return
    if env.inbox is not None:
        env.inbox.append(event)
        return
    trace = kernel.trace
    if trace is not None:
        trace += (kernel.now, env.number, method.code)
    try:
        if method.siblings is not env.methods:
            method = kernel.same_message(env, method)
        arguments = method.check(arguments)
    except Refused as error:
        kernel.reject(env, error)
        return
    if ledger is not None:
        env.run_accounted(method.function, (env.node, *arguments), ledger, depth)
    else:
        env.run_callback(method.function, (env.node, *arguments))
