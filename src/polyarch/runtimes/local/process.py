"""One live process: its nodes, its connections, its timers; driven by events of an asyncio loop.

Handlers run directly on the stack of the event that brings their message, as in the simulator, and not in
asyncio tasks.  An *event* (a read, a timer, a future) runs to its end between ``enter`` and ``leave``; what
it has made ready inside the process runs then, and the frames that it has made leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from polyarch.core.dns import Dns
from polyarch.core.errors import Broken, Failure, Timeout, TooLarge, Unreachable, failure_from_wire
from polyarch.core.http import Http
from polyarch.core.messages import FOREVER_NS, Method
from polyarch.core.node import Node, bind
from polyarch.core.randomness import Random
from polyarch.core.tasks import Task
from polyarch.core.wire import ANSWER, BASE, FAILURE, HEADER, MAX_FRAME, ONEWAY, REQUEST, UNSENDABLE, encode
from polyarch.runtimes.base import EXPERIMENTER, Rule, describe_bug
from polyarch.runtimes.local.env import LocalEnv
from polyarch.runtimes.local.http_links import HttpLinks, http_handler
from polyarch.runtimes.local.http_server import HttpServer
from polyarch.runtimes.local.threads import Shares
from polyarch.runtimes.local.timers import Timers
from polyarch.runtimes.local.transport import Connection, Link

__all__ = ["LocalProcess", "loop_factory"]

T = TypeVar("T")

_SWEEP_NS = 1 << 26  # deadlines of calls are looked at every 67 ms
_MOST = 1000  # bugs and complaints that are kept

# Below the range from which Linux takes the ports of outgoing connections (32768 on): there, another
# connection could take the port of a process that is down, and one that tries again and again to reach it
# would one day connect to itself.  Components take theirs above these.
_PORTS = range(12_000, 20_000)


class LocalProcess:
    """Nodes in this operating-system process, and everything that connects them to others."""

    def __init__(self, name: str, *, seed: int, epoch: int, folder: Path, incarnation: int = 0) -> None:
        """``epoch``: the session's beginning, in ns of the machine's monotonic clock, which all its
        processes share.  ``incarnation``: how often it was restarted."""
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.incarnation = incarnation
        whole = Random(seed).fork(f"incarnation {incarnation}") if incarnation else Random(seed)
        self.nodes_random = whole
        """Every node's stream is a fork of it, as in a simulation; a restarted node draws anew."""
        self.random = whole.fork(f"network of {name}")
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
        """Where each node that speaks HTTP (or DNS) listens."""
        self.rules: list[Rule] = []
        self.calls = BASE
        self.bytes = 0
        self.by_method: defaultdict[str, int] = defaultdict(int)
        """Messages that have left, by name."""
        self.unmeasured = 0
        """Exchanges with components whose bytes could not be counted."""
        self.bugs: list[str] = []
        self.complaints: list[str] = []
        self.incoming: set[Connection] = set()
        self.dirty: list[Connection] = []
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.shares = Shares()
        self._inside = 0
        self._links: dict[str, Link] = {}
        self._expected: dict[int, tuple[Task, int, Method, int, Link | None]] = {}
        """Who waits for the answer to each call, and until when."""
        self._horizon = 0
        """Calls whose deadlines are before it have timers of their own."""
        self._sweeping = False
        self.timers = Timers(self.event)
        self.http = HttpLinks(self)
        self._kept: set[asyncio.Task[Any]] = set()
        self._servers: list[Any] = []
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
            self.flush()
        self._inside -= 1

    def flush(self) -> None:
        """Let the frames go that were made so far."""
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            connection.flush()

    def event(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a function as an event of its own.  What it raises is a bug, and ends nothing else."""
        self.enter()
        try:
            function(*arguments)
        except Exception as error:
            self.bug(self.name, error)
        finally:
            self.leave()

    def later(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        """Call after some seconds of this process's clock."""
        delay = round(max(0.0, seconds) * 1e9 / self.drift)
        self.timers.at(time.monotonic_ns() + delay, function, *arguments)

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
        if len(self.bugs) < _MOST:
            self.bugs.append(describe_bug(where, error))

    def complain(self, text: str) -> None:
        """Somebody sent what does not fit, and it was dropped."""
        if len(self.complaints) < _MOST:
            self.complaints.append(text)

    # -- nodes --------------------------------------------------------------------------------------------

    def add(self, address: str, declared: Node) -> LocalEnv:
        """Declare a node of this process."""
        env = self.envs[address] = LocalEnv(self, address, declared)
        self.places[address] = self.name
        return env

    async def listen(self, port: int = 0, http_ports: dict[str, int] | None = None) -> None:
        """Open this process's sockets; OSError if a port is in use."""

        def serve(port: int) -> Awaitable[asyncio.Server]:
            return self.loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=1024)

        async def serve_foreign(env: LocalEnv, port: int) -> Any:
            server: Any
            if isinstance(env.declared, Dns):
                from polyarch.runtimes.local.dns_links import DnsServer  # 15 ms that few need

                server = DnsServer(env, port)
            else:
                server = HttpServer(http_handler(env), port=port)
            await server.start()
            return server

        self._listener = await _at_a_port(serve, port)
        self.ports[self.name] = self._listener.sockets[0].getsockname()[1]
        for address, env in self.envs.items():
            if isinstance(env.declared, Http | Dns):
                given = (http_ports or {}).get(address, 0)
                server = await _at_a_port(lambda port, env=env: serve_foreign(env, port), given)  # type: ignore[misc]
                self._servers.append(server)
                self.http_ports[address] = server.port

    def boot(self, resolve: Callable[[LocalEnv, Any], Any], *addresses: str) -> None:
        """Build nodes (all that do not run, if none is named) and run their ``start``."""
        self.enter()
        try:
            for env in self.envs.values():
                if not env.up and (not addresses or env.address in addresses):
                    env.node = bind(env.declared, env, partial(resolve, env))
                    env.up = True
                    task = Task(env, env.node.start())
                    task.watch(self._started)
                    self.ready.append((task.resume, ()))
        finally:
            self.leave()

    def _started(self, task: Task) -> None:
        if isinstance(task.error, Failure):
            self.bug(task.env.address, task.error)
        waiting, task.env.inbox = task.env.inbox or [], None
        self.ready.extend((handle, ()) for handle in waiting)

    # -- frames -------------------------------------------------------------------------------------------

    @cached_property
    def dns(self) -> Any:
        """Questions to nodes that answer DNS."""
        from polyarch.runtimes.local.dns_links import DnsLinks

        return DnsLinks(self)

    def endpoint(self, name: str) -> tuple[str, int]:
        """Where a process listens; LookupError if there is none of that name."""
        return "127.0.0.1", self.ports[name]

    def ask(self, task: Task, token: int, to: str, data: bytes, method: Method, timeout_ns: int) -> None:
        """Send a request, number ``self.calls``, and remember who waits for its answer."""
        place = self.places.get(to)
        if place is None:
            refused = Unreachable(f"no node has the address {to!r}")
            self.ready.append((self.resume, (task, token, False, refused)))
            return
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = Link(self, place)
        self.expect(task, token, method, timeout_ns, link)
        if place != EXPERIMENTER:
            self.bytes += len(data) + HEADER
            self.by_method[method.name] += 1
        if self.rules:
            self.carry(self.name, place, link.send, data, self.calls)
        else:
            link.send(data, self.calls)

    def transmit(self, to: str, data: bytes, method: str) -> None:
        """Send a one-way frame to the process of a node, if there is one."""
        place = self.places.get(to)
        if place is None:
            return
        self.count(len(data) + HEADER, method, place)
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = Link(self, place)
        if self.rules:
            self.carry(self.name, place, link.send, data)
        else:
            link.send(data)

    def count(self, size: int, method: str, peer: str) -> None:
        """One message has crossed; the experimenter's are not the system's."""
        if peer != EXPERIMENTER:
            self.bytes += size
            self.by_method[method] += 1

    def carry(self, source: str, target: str, send: Callable[..., None], *what: Any) -> bool:
        """Send through the rules in force: lost (False), late, twice."""
        delay, copies = 0.0, 1
        for rule in self.rules:
            if EXPERIMENTER not in (source, target) and rule.applies(source, target):
                if rule.loss and self.random.chance(rule.loss):
                    return False
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
        return True

    def handle(self, connection: Connection, frame: Any, size: int) -> None:
        """A frame has arrived."""
        try:
            kind = frame[0]
            if kind == REQUEST:
                _, call, to, sender, name, arguments, depth = frame
                if type(name) is not str or type(arguments) is not list or type(depth) is not int:
                    raise TypeError("a request's parts are of other types")
                if not connection.peer:
                    connection.peer = self.places.get(sender, "")
                env = self.envs.get(to)
                if env is not None:
                    env.request(connection, call, name, arguments, depth)
                else:
                    nobody = Unreachable(f"no node has the address {to!r}")
                    self.give(connection, call, name, None, False, nobody)
            elif kind == ANSWER:
                _, call, value, messages, size_, depth = frame
                self._settled(connection, call, size, messages, size_, depth, value, None)
            elif kind == FAILURE:
                _, call, code, detail, definite, messages, size_, depth = frame
                failure = failure_from_wire(code, detail, definite)
                self._settled(connection, call, size, messages, size_, depth, None, failure)
            elif kind == ONEWAY:
                _, to, sender, name, arguments = frame
                if type(name) is not str or type(arguments) is not list:
                    raise TypeError("a one-way message's parts are of other types")
                if not connection.peer:
                    connection.peer = self.places.get(sender, "")
                env = self.envs.get(to)
                if env is not None:
                    env.oneway(name, arguments)
            else:
                connection.close(f"a frame of kind {kind!r}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            connection.close(f"a malformed frame ({error})")

    def give(
        self, back: Connection | None, call: int, method: str, task: Task | None, ok: bool, value: Any
    ) -> None:
        """Answer a request that came on a connection, or from this very process (None)."""
        if back is None:
            depth = task.depth if task is not None else 0
            self.ready.append((self._settle_here, (call, depth, ok, value)))
            return
        costs = (0, 0, 0)
        if task is not None and task.ledger is not None:
            costs = (BASE + task.ledger.messages, BASE + task.ledger.bytes, task.depth + 1)
        try:
            if ok:
                data = encode((ANSWER, call, value, *costs))
            else:
                data = encode((FAILURE, call, value.code, value.detail, value.definite, *costs))
            if len(data) > MAX_FRAME:
                raise TooLarge(f"{method}: an answer of {len(data)} bytes; the most is {MAX_FRAME}")
        except (*UNSENDABLE, TooLarge) as error:
            # The work was done; only the answer cannot be given.
            broken = Broken(str(error))
            data = encode((FAILURE, call, broken.code, broken.detail, broken.definite, *costs))
        if back.peer != EXPERIMENTER:
            self.bytes += len(data) + HEADER
            self.by_method[method] += 1
        if self.rules and back.peer:
            self.carry(self.name, back.peer, back.send, data)
        else:
            back.send(data)

    # -- calls that wait ----------------------------------------------------------------------------------

    def expect(self, task: Task, token: int, method: Method, timeout_ns: int, link: Link | None) -> None:
        """Remember who waits for the answer to call number ``self.calls``, until when, and by which link
        the answer comes (None: in this process)."""
        deadline = time.monotonic_ns() + timeout_ns
        self._expected[self.calls] = (task, token, method, deadline, link)
        if deadline < self._horizon:
            self.timers.at(deadline, self._expire, self.calls)
        elif not self._sweeping and deadline < FOREVER_NS:
            self._sweep()

    def _sweep(self) -> None:
        """Give timers to the calls whose deadlines are near.  Most are answered before that, and then their
        timeouts have cost nothing."""
        near, now = self._horizon, time.monotonic_ns()
        self._horizon = horizon = now + 2 * _SWEEP_NS
        self._sweeping = False
        for call, (_, _, _, deadline, _) in self._expected.items():
            if near <= deadline < horizon:
                self.timers.at(deadline, self._expire, call)
            elif horizon <= deadline < FOREVER_NS:
                self._sweeping = True
        if self._sweeping:
            self.timers.at(now + _SWEEP_NS, self._sweep)

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

    def link_lost(self, link: Link) -> None:
        """The connection to a process has died: nobody knows what became of the calls that were on it."""
        lost = [call for call, waiting in self._expected.items() if waiting[4] is link]
        for call in lost:
            self.broken(call, f"{link.name} died or closed the connection")

    def _fail(self, call: int, failure: Failure) -> None:
        waiting = self._expected.pop(call, None)
        if waiting is not None:
            task, token, *_ = waiting
            self.resume(task, token, False, failure)

    def resume(self, task: Task, token: int, ok: bool, value: Any) -> None:
        """The outcome of a task's call, unless it has had one."""
        if task.token == token and not task.done:
            task.token = token + 1
            if ok:
                task.resume(value)
            else:
                task.throw(value)

    def _settle_here(self, call: int, depth: int, ok: bool, value: Any) -> None:
        waiting = self._expected.pop(call, None)
        if waiting is not None:
            task, token, *_ = waiting
            if task.ledger is not None:
                task.depth = max(task.depth, depth)
            if not ok:
                value = failure_from_wire(value.code, value.detail, value.definite)  # nodes share nothing
            self.resume(task, token, ok, value)

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
        if waiting is None:
            return  # too late
        task, token, method, _, _ = waiting
        ledger = task.ledger
        if ledger is not None:
            ledger.messages += 1
            ledger.bytes += size
            if messages:  # else whoever answered has counted nothing
                ledger.messages += messages - BASE
                ledger.bytes += bytes_ - BASE
            task.depth = max(task.depth, depth)
        if failure is None:
            try:
                value = method.check_result(value)
            except Broken as broken:
                failure = broken
            else:
                if task.token == token and not task.done:  # as `resume` does
                    task.token = token + 1
                    task.resume(value)
                return
        self.resume(task, token, False, failure)

    # -- the end --------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close sockets and timers."""
        self.timers.close()
        for env in self.envs.values():
            env.up = False
        for link in self._links.values():
            link.close()
        await self.http.close()
        if "dns" in self.__dict__:
            await self.dns.close()
        for server in self._servers:
            await server.close(0.2)
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.incoming):
            connection._transport.abort()
        for task in list(self._kept):
            task.cancel()


async def _at_a_port(serve: Callable[[int], Awaitable[T]], port: int) -> T:
    """What ``serve(port)`` gives; at a free port if 0 is asked for."""
    if port:
        return await serve(port)
    for candidate in random.SystemRandom().sample(_PORTS, 200):
        with contextlib.suppress(OSError):
            return await serve(candidate)
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
