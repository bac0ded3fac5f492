"""The simulator: virtual time, an event queue, and nodes that are driven directly by their events.

One seed decides everything.  Time is an integer of nanoseconds (docs/decisions/0001); events at the same
time happen in the order in which they were made.  ``events.py`` says what the events do.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from zlib import crc32

from polyarch.core.errors import Broken, Failure, UnknownMethod, Unreachable
from polyarch.core.messages import Method
from polyarch.core.node import Node, bind
from polyarch.core.randomness import Random
from polyarch.core.tasks import Ledger, Task
from polyarch.runtimes.base import Rule
from polyarch.runtimes.sim.events import is_request, on_deadline, on_function
from polyarch.runtimes.sim.network import Network, ns
from polyarch.runtimes.sim.nodes import DetailedEnv, LinkEnv, PlainEnv, SimEnv
from polyarch.runtimes.sim.process import SimProcess

__all__ = ["Kernel", "no_collector"]

_WHEEL_BITS = 27  # deadlines are kept in slots of 2^27 ns = 0.134 s
_CHUNK = 32_768  # events between two looks at the trace and the progress bar


class _Stop(Exception):
    pass


def _stop(event: tuple[Any, ...]) -> None:
    if event[1]:
        raise _Stop


class Kernel:
    """A simulation: its virtual time, its processes and nodes, its network."""

    def __init__(
        self,
        seed: int = 0,
        *,
        network: Network | None = None,
        detailed: bool = False,
        links: bool = False,
        trace: bool = True,
        disk_sync: float = 0.001,
        handler_cost: float = 0.0,
        resolve: Callable[[SimEnv, Any], Any] | None = None,
    ) -> None:
        """``detailed``: sizes, links, cores and ledgers (``DetailedEnv``); ``links``: only links that can be
        disturbed and observed (``LinkEnv``).  ``disk_sync``: seconds a flush takes.  ``handler_cost``: core
        seconds that each message takes where it is handled.
        ``trace``: hash what happens.  ``resolve``: what a wire in a node's configuration becomes."""
        self.now = 0
        self._times: list[int] = []
        """When something will happen: a heap of the agenda's keys."""
        self._agenda: dict[int, tuple[Any, ...] | list[tuple[Any, ...]]] = {}
        """What will happen: one event, or several in the order in which they were made."""
        self._present: list[tuple[Any, ...]] = []
        """What else happens at this very time, last first."""
        self.random = Random(seed)
        self.network = network or Network()
        self.detailed = detailed
        self.trace: list[int] | None = [] if trace else None
        self.disk_sync_ns = ns(disk_sync)
        self.handler_cost_ns = ns(handler_cost)
        self.directory: dict[str, SimEnv] = {}
        """The present incarnation of every node, by address."""
        self.processes: dict[str, SimProcess] = {}
        self.serving: dict[Task, None] = {}
        """Handlers that have suspended, whose callers are waiting: of all nodes, since few at a time do."""
        self.rules: list[Rule] = []
        """Disturbances of the network, in force now."""
        self.silent: set[str] = set()
        """Processes whose hosts are dead too: nobody refuses, callers run into their timeouts."""
        self.bugs: list[tuple[float, str, BaseException]] = []
        """(seconds, address, exception) of every exception that was not a Failure."""
        self.rejected: dict[str, int] = {}
        """One-way messages that did not fit their schema, and how often."""
        self.messages = 0
        self.bytes = 0
        self.by_method: dict[str, int] = {}
        self.events = 0
        self.lives = 0
        """Counts the starts and ends of nodes: as long as it is the same, the same nodes run."""
        self.observer: Callable[..., None] | None = None
        """``observer(kind, time, sender, target, method, arguments, arrivals)``; not with ``PlainEnv``."""
        self.watching: dict[str, Callable[[str], None]] = {}
        """By its address, what a node does when the process of another has died (connections are reset)."""
        self.progress: Callable[[float], None] | None = None
        """Called now and then with the virtual time in seconds."""
        self._chance = self.random.fork("network")
        self._constant = getattr(self.network.latency, "seconds", None)
        self.constant: int | None = None if self._constant is None else ns(self._constant)
        """The latency of all links, when it is the same for all."""
        self._fifo = self.constant is None and not getattr(self.network.latency, "steady", False)
        self._wheel: dict[int, dict[Task, tuple[int, int, Method]]] = {}
        self._resolve = resolve
        self._hash = 0
        self._env: type[SimEnv] = DetailedEnv if detailed else LinkEnv if links else PlainEnv
        self.disturbable = detailed or links
        self._calm = not (self.network.loss or self.network.duplicate or self.network.reorder)
        if not self.disturbable and not self._calm:
            raise ValueError("loss, duplication and reordering need a simulation with links")

    # -- building ---------------------------------------------------------------------------------------

    def add_process(
        self,
        name: str,
        nodes: Iterable[tuple[str, Node]],
        *,
        role: str = "",
        cores: int = 1,
        cost: float | None = None,
        region: int = 0,
        zone: int = 0,
    ) -> SimProcess:
        """Declare a process and its nodes, ``(address, declaration)``; ``boot`` starts it.  ``cost``:
        core seconds that each message takes here."""
        cost_ns = self.handler_cost_ns if cost is None else ns(cost)
        process = SimProcess(self, name, role or name, cores, cost_ns, region, zone)
        if name in self.processes:
            raise ValueError(f"two processes are called {name!r}")
        self.processes[name] = process
        for address, declared in nodes:
            if address in self.directory:
                raise ValueError(f"two nodes have the address {address!r}")
            env = self._env(process, address, declared, len(self.directory))
            self.directory[address] = env
            process.envs.append(env)
        process.envs = process.envs[:]  # without the room that a list keeps to grow
        return process

    def boot(self, *names: str) -> None:
        """Start processes (all, if none is named): build each node, then run every ``start``."""
        processes = [self.processes[name] for name in names or self.processes]
        self.lives += 1
        for process in processes:
            process.up = True
            for env in process.envs:
                env.up = True
                env.node = bind(env.declared, env, partial(self.wire, env))
        for process in processes:
            for env in process.envs:
                if type(env.declared).start is not Node.start:
                    env.inbox = []
                    task = Task(env, env.node.start())
                    task.watch(self._started)
                    task.resume()

    def wire(self, env: SimEnv, wire: Any) -> Any:
        """What a wire of a node's configuration is at run time."""
        if self._resolve is None:
            raise TypeError(f"{env.address}: nothing here can resolve the wire {wire!r}")
        return self._resolve(env, wire)

    def _started(self, task: Task) -> None:
        env = task.env
        if isinstance(task.error, Failure):
            # A node that cannot start is a bug of its own: it must retry what it needs.
            self.bugs.append((self.now * 1e-9, env.address, task.error))
        self.lives += 1
        waiting, env.inbox, env.current = env.inbox or [], None, None
        for event in waiting:
            self.schedule(self.now, event)

    # -- time ---------------------------------------------------------------------------------------------

    def schedule(self, time: int, event: tuple[Any, ...]) -> None:
        """Let an event ``(handler, …)`` happen at a time, after those that were scheduled for it before.

        The heap holds each time once: with constant latencies much happens at the same time, and then an
        event costs an append; integers compare faster than tuples when it does not."""
        agenda = self._agenda
        known = agenda.get(time)
        if known is None:
            agenda[time] = event
            heapq.heappush(self._times, time)
        elif isinstance(known, list):
            known.append(event)
        else:
            agenda[time] = [known, event]

    def at(self, time: int, env: SimEnv | None, function: Callable[[], None]) -> None:
        """Call a function at a time, if ``env`` lives then."""
        self.schedule(time, (on_function, env, function))

    def run(self, seconds: float | None = None, *, until: Task | None = None) -> None:
        """Run for some virtual seconds, or until a task has ended, or until nothing is left to do."""
        wanted = [True]  # an early stop of this run must not be found by the next one
        if until is not None:
            until.watch(lambda _: self._present.append((_stop, wanted)))  # before anything else
        if seconds is not None:
            self.schedule(self.now + ns(seconds), (_stop, wanted))
        times, pop, take = self._times, heapq.heappop, self._agenda.pop
        present, next_present = self._present, self._present.pop
        chunk = range(_CHUNK)
        with no_collector(), _quiet_crashes():
            done = 0
            try:
                while True:
                    for done in chunk:  # noqa: B007
                        if present:
                            event = next_present()
                        elif times:
                            self.now = now = pop(times)
                            due = take(now)
                            if isinstance(due, list):
                                due.reverse()  # taken from the end, each is free when it has happened
                                present += due
                                event = next_present()
                            else:
                                event = due
                        else:
                            raise _Stop
                        event[0](event)
                    self.events += _CHUNK
                    done = 0
                    self._housekeeping()
            except _Stop:
                pass
            finally:
                self.events += done
                wanted.clear()
                self._housekeeping()

    def _housekeeping(self) -> None:
        if self.trace:
            # Appended to a list and packed in bulk: a fifth of what packing each event would cost.
            packed = array("q", self.trace)
            if sys.byteorder == "big":
                packed.byteswap()
            self._hash = crc32(packed, self._hash)
            self.trace.clear()
        if self.progress is not None:
            self.progress(self.now * 1e-9)

    @property
    def trace_hash(self) -> str:
        """A fingerprint of everything that has happened: same seed, same hash, anywhere."""
        self._housekeeping()
        return f"{self._hash:08x}"

    def note(self, data: bytes) -> None:
        """Make ``data`` (such as the results of operations) part of the trace hash."""
        self._housekeeping()
        self._hash = crc32(data, self._hash)

    # -- deadlines ------------------------------------------------------------------------------------------

    def guard(
        self, caller: Task, token: int, deadline: int, method: Method
    ) -> dict[Task, tuple[int, int, Method]]:
        """Remember that a call may miss its deadline; removed from the returned bucket when answered."""
        slot = deadline >> _WHEEL_BITS
        bucket = self._wheel.get(slot)
        if bucket is None:
            bucket = self._wheel[slot] = {}
            time = max(self.now, slot << _WHEEL_BITS)
            self.at(time, None, lambda: self._open_slot(slot))
        bucket[caller] = (token, deadline, method)
        return bucket

    def _open_slot(self, slot: int) -> None:
        for caller, (token, deadline, method) in self._wheel.pop(slot).items():
            self.expire(caller, token, deadline, method)

    def expire(self, caller: Task, token: int, deadline: int, method: Method) -> None:
        """The call will not be answered in time: tell the caller at its deadline."""
        self.schedule(max(deadline, self.now), (on_deadline, caller, token, method))

    def fail_now(self, caller: Task, token: int, failure: Failure) -> None:
        """Refuse a call at once, before it left."""

        def fail() -> None:
            if caller.token == token:
                caller.throw(failure)

        self.at(self.now, caller.env, fail)

    # -- the network ----------------------------------------------------------------------------------------

    def delay(self, source: SimProcess, target: SimProcess) -> int:
        """How long a message takes between two processes.  Messages of one link stay in order, as on a
        TCP connection: a slow one holds up those behind it."""
        delay = self.network.latency.sample(source, target, self._chance)
        if self._fifo:
            arrival = self.now + delay
            if arrival < source.arrivals.get(target, 0):
                arrival = source.arrivals[target]
            source.arrivals[target] = arrival
            return arrival - self.now
        return delay

    def carry(
        self, source: SimProcess, target: SimProcess, size: int, ledger: Ledger | None, method: str
    ) -> tuple[int, ...]:
        """Send ``size`` bytes: the times at which they arrive (none if lost, two if duplicated)."""
        if ledger is not None:
            ledger.messages += 1
            ledger.bytes += size
        if source.beside or target.beside:
            return (self.now + (self.delay(source, target) if self.constant is None else self.constant),)
        self.messages += 1
        self.bytes += size
        self.by_method[method] = self.by_method.get(method, 0) + 1
        sent = self.now
        if self.network.bandwidth is not None:
            sent = source.link_free = max(sent, source.link_free) + round(size / self.network.bandwidth * 1e9)
        return self.travel(source, target, sent)

    def travel(self, source: SimProcess, target: SimProcess, sent: int) -> tuple[int, ...]:
        """Put a message on a link at a time: the times at which it arrives."""
        delay = self.constant
        if not self.rules and self._calm:
            return (sent + (self.delay(source, target) if delay is None else delay),)
        network, chance = self.network, self._chance
        loss, duplicate, reorder, extra = network.loss, network.duplicate, network.reorder, 0
        for rule in () if source.beside or target.beside else self.rules:
            if rule.applies(source.name, target.name):
                loss = 1 - (1 - loss) * (1 - rule.loss)
                duplicate = max(duplicate, rule.duplicate)
                reorder = max(reorder, rule.reorder)
                extra += ns(rule.delay)
        if loss and (loss >= 1 or chance.chance(loss)):
            return ()
        if reorder and chance.chance(reorder):
            # Held back for up to four delays, outside the order of its link.
            late = network.latency.sample(source, target, chance)
            return (sent + extra + round(late * (1 + 3 * chance.random())),)
        arrival = sent + extra + (self.delay(source, target) if delay is None else delay)
        if duplicate and chance.chance(duplicate):
            return (arrival, arrival + round((arrival - self.now) * chance.random()))
        return (arrival,)

    def clear(self) -> None:
        """Forget all that would still happen."""
        self._times.clear()
        self._agenda.clear()
        self._present.clear()

    def same_message(self, env: SimEnv, method: Method) -> Method:
        """The node's own version of a message that was sent through a port or a base class."""
        own = env.methods.get(method.name)
        if own is None or own.is_oneway != method.is_oneway:
            kind = type(env.declared).__name__
            known = ", ".join(env.methods) or "none"
            raise UnknownMethod(f"{kind} at {env.address} has no message {method.name!r}; it has: {known}")
        return own

    def reject(self, env: SimEnv, error: Failure) -> None:
        """A one-way message did not fit; its sender is not told."""
        key = f"{env.address}: {error}"
        self.rejected[key] = self.rejected.get(key, 0) + 1

    # -- crashes --------------------------------------------------------------------------------------------

    def crash(self, name: str, *, silent: bool = False, kept: float = 0.0) -> None:
        """Kill a process: its nodes forget everything that was not synced (but for a part ``kept``, torn).
        Peers see their connections reset; if ``silent`` (the host has died too) they run into timeouts."""
        process = self.processes[name]
        if not process.up:
            return
        waiting = [*(process.backlog or ()), *(event for env in process.envs for event in env.inbox or ())]
        self.lives += 1
        process.up = process.paused = False
        process.backlog = None
        if silent:
            self.silent.add(name)
        for i, env in enumerate(process.envs):
            env.up = False
            fresh = self._env(process, env.address, env.declared, env.number)
            if env._disk is not None:
                env._disk.crash(fresh, kept)
                fresh._disk = env._disk
            fresh._random = env._random
            process.envs[i] = self.directory[env.address] = fresh
            for task in [t for t in self.serving if t.env is env]:
                del self.serving[task]
                bucket, deadline, method = task.guard
                if silent:
                    continue
                broken = Broken(f"{env.address} died while it handled {method.name}")
                bucket.pop(task.caller, None)
                fresh.give(task.caller, task.caller_token, deadline, task.depth, False, broken, method)
            env.node = None
        for event in waiting:
            if is_request(event):
                event[0](event)
        process.cores = [0] * len(process.cores)
        process.sharing = None
        for dead in process.envs:
            self.watching.pop(dead.address, None)
        for tell in () if silent else list(self.watching.values()):
            for dead in process.envs:
                tell(dead.address)

    def restart(self, name: str) -> None:
        """Boot a crashed process again, from its disks."""
        process = self.processes[name]
        if not process.up:
            self.silent.discard(name)
            process.restarted = True
            self.boot(name)

    def pause(self, name: str) -> None:
        """Stop a process where it is (SIGSTOP): its messages and timers wait."""
        process = self.processes[name]
        if process.up and not process.paused:
            process.paused = True
            process.backlog = []
            for env in process.envs:
                env.up = False

    def resume(self, name: str) -> None:
        """Let a paused process run on (SIGCONT); what has waited happens now, in order."""
        process = self.processes[name]
        if process.paused:
            process.paused = False
            for env in process.envs:
                env.up = True
            backlog, process.backlog = process.backlog or [], None
            for event in backlog:
                self.schedule(self.now, event)

    def held(self, env: SimEnv, event: tuple[Any, ...]) -> None:
        """An event for a node that does not run: kept while it is paused, gone if it has crashed."""
        process = env.process
        if process.paused and process.backlog is not None and self.directory.get(env.address) is env:
            process.backlog.append(event)

    def undelivered(
        self, event: tuple[Any, ...], caller: Task, token: int, env: SimEnv, deadline: int, method: Method
    ) -> None:
        """A request for a node that does not run."""
        current = self.directory[env.address]
        if env.process.paused and env is current:
            self.held(env, event)
            self.guard(caller, token, deadline, method)
        elif env.process.name in self.silent:
            self.expire(caller, token, deadline, method)
        else:  # its host answers for it: nobody listens there, or no longer
            failure: Failure = Unreachable(f"{env.address} is down")
            if env is not current:  # it was on a connection to one that has died
                failure = Broken(f"{env.address} died before it handled {method.name}")
            current.give(caller, token, deadline, event[7], False, failure, method)


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """The cyclic garbage collector costs more than anything else here: what exists is frozen, what comes
    is freed by counting references.  Who has disabled it already, for many short runs, collects himself."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


@contextlib.contextmanager
def _quiet_crashes() -> Iterator[None]:
    """A crashed node's coroutines are dropped where they stand.  If one awaits in its ``finally`` the
    interpreter says so; a crash has no last words."""
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if "ignored GeneratorExit" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = quiet
    try:
        yield
    finally:
        sys.unraisablehook = hook
