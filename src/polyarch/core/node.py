"""The node: what an author writes.

A node is a class.  Its annotated fields are its configuration and its wires to others; its ``@rpc`` and
``@oneway`` methods are the messages that it handles; what it assigns in ``start`` is its state.

    class Counter(Node):                       # roles are wired by object references:
        step: int = 1                          #     counter = Counter(step=2)
                                               #     front = Front(counter=counter)
        async def start(self) -> None:
            self.total = self.disk.get("total", int, 0)

        @rpc
        async def increment(self) -> int:
            self.total += self.step
            self.disk.put("total", self.total)
            await self.disk.sync()             # before the answer: a crash must not take it back
            return self.total

A node touches the world only through what it was given: ``self.now``, ``self.random``, ``self.disk``,
``self.sleep``/``after``/``every``, and its references.  Handlers run to their next ``await`` without
interruption; between awaits others may run.  A crash ends everything at once; a restart builds the node
anew from its configuration and its disk.
"""

from __future__ import annotations

import abc
import contextlib
import dis
import inspect
import typing
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, overload

import msgspec

from polyarch.core.disk import Disk
from polyarch.core.errors import Failure
from polyarch.core.hooks import open_hooks
from polyarch.core.messages import Method, Reference, Schema, schema_of
from polyarch.core.randomness import Random
from polyarch.core.tasks import Future, Ledger, Suspension, Task, Timer
from polyarch.core.threads import Thread

__all__ = ["Attachable", "Env", "HasAddress", "Node", "config_of", "fields_of"]

N = TypeVar("N", bound="Node")
P = TypeVar("P")
T = TypeVar("T")


class HasAddress(Protocol):
    """Anything that says where a node is: a ``Peer`` record, a reference, a node."""

    @property
    def address(self) -> str: ...


class Env(abc.ABC):
    """What a runtime gives to one incarnation of a node, and must implement.  Authors use it through
    ``Node``, which says what else these mean; times are seconds of the node's own clock."""

    __slots__ = ()

    address: str
    up: bool
    """False from the moment of a crash: whatever belongs to this incarnation stops."""
    current: Any
    """The task (or the request) on whose behalf the node is running: whose ledger pays."""

    @property
    @abc.abstractmethod
    def restarted(self) -> bool: ...
    @property
    @abc.abstractmethod
    def random(self) -> Random: ...
    @abc.abstractmethod
    def secret(self, size: int) -> bytes: ...
    @property
    @abc.abstractmethod
    def disk(self) -> Disk: ...
    @abc.abstractmethod
    def now(self) -> float: ...

    @abc.abstractmethod
    def call(self, task: Task, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        """Send a request; resume the task with the answer, or a Failure, at its timeout at the latest."""

    @abc.abstractmethod
    def send(self, reference: Reference, method: Method, arguments: tuple[Any, ...]) -> None:
        """Send a one-way message."""

    @abc.abstractmethod
    def answer(self, task: Task, value: Any) -> None:
        """A handler that had suspended has returned: answer who called it."""

    @abc.abstractmethod
    def answer_failure(self, task: Task, error: Failure) -> None:
        """A handler that had suspended has failed: answer who called it."""

    @abc.abstractmethod
    def after(self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Timer: ...
    @abc.abstractmethod
    def every(
        self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...], jitter: float
    ) -> Timer: ...
    @abc.abstractmethod
    def sleep(self, seconds: float) -> Suspension: ...
    @abc.abstractmethod
    def work(self, seconds: float) -> Suspension: ...
    @abc.abstractmethod
    def blocking_call(self, seconds: float) -> Suspension: ...
    @abc.abstractmethod
    def thread(self) -> Thread: ...

    @abc.abstractmethod
    def soon(self, function: Callable[[], None]) -> None:
        """Call it as an event of its own, at this very time."""

    @abc.abstractmethod
    def bug(self, error: BaseException) -> None:
        """The node has raised what is no Failure: keep it for the record of the run."""

    @abc.abstractmethod
    def wait_foreign(self, task: Task, waiting: Any) -> None:
        """A task awaits what is not Polyarch's (an asyncio future): resume it, or throw a TypeError."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        """Run a coroutine of this node beside the present one."""
        current = self.current
        if current is None:
            task = Task(self, coroutine)
        else:
            task = Task(self, coroutine, current.ledger, current.depth)
        task.resume()
        self.current = current
        return task

    def run_accounted(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], ledger: Ledger, depth: int
    ) -> None:
        """Run a one-way message's handler on behalf of an operation, whose ledger pays."""

        async def handle() -> None:
            result = function(*arguments)
            if isinstance(result, Coroutine):
                await result

        Task(self, handle(), ledger, depth).resume()

    def run_callback(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """A timer fired: call a plain function, or run a coroutine function as a task."""
        if self.up:
            self.current = None
            try:
                result = function(*arguments)
            except Exception as error:
                if not isinstance(error, Failure):
                    self.bug(error)
                return
            if isinstance(result, Coroutine):
                Task(self, result).resume()


class Attachable(abc.ABC):
    """A wire that is not a node: a port (tables, a queue) whose live or simulated end the runtime makes
    when a node starts."""

    @abc.abstractmethod
    def attach(self, env: Env) -> Any:
        """The port object that a simulated node will hold in place of this one."""

    @abc.abstractmethod
    def attach_live(self, env: Env, address: str) -> Any:
        """The port object that a live node will hold; ``address`` (host:port) is where the component
        listens, empty for what is embedded in the node's process."""


@dataclass_transform(kw_only_default=True)
class Node:
    """The base of everything that runs; see the module's text.

    ``Counter(step=2)`` *declares* a node: it checks and holds the configuration.  A runtime makes running
    nodes from the declaration, as many and as often as the architecture says.  A method that does nothing
    but ``raise NotImplementedError`` is left to subclasses: a class that still lacks it cannot be declared.
    """

    timeout: ClassVar[float | None] = 1.0
    """Seconds that callers of this class's messages wait unless they say otherwise; None: for ever."""

    withheld: ClassVar[frozenset[str]] = frozenset()
    """Messages of its bases that nodes of this class do not take from others."""

    _env: Env

    def __init__(self, **config: Any) -> None:
        if hooks := open_hooks(type(self)):
            raise TypeError(f"{type(self).__name__} lacks {', '.join(hooks)}")
        fields = fields_of(type(self))
        for name, value in config.items():
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise TypeError(f"{type(self).__name__} has no field {name!r}; its fields: {known}")
            setattr(self, name, _checked(type(self), name, fields[name], value))
        for name in fields:
            if name not in config and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} needs a value for {name!r}")

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Runs when the node boots, before it handles messages of others; after a restart too.  It may
        read the disk, set timers and call other nodes.  Nobody's messages are lost meanwhile: they wait."""

    # -- the world ------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """This node's own address, such as ``server-3``."""
        return self._env.address

    @property
    def restarted(self) -> bool:
        """Whether this node has run before: it comes back after a crash, or after it had left."""
        return self._env.restarted

    @property
    def now(self) -> float:
        """Seconds by this node's own clock: monotonic, skewed against others'."""
        return self._env.now()

    @property
    def random(self) -> Random:
        """This node's own random stream."""
        return self._env.random

    def secret(self, size: int) -> bytes:
        """So many bytes that nobody can guess, for keys: from the operating system on ``local``.  In a
        simulation they come from its seed, as all there is, and keep nothing secret from who knows it."""
        return self._env.secret(size)

    @property
    def disk(self) -> Disk:
        """This node's own disk."""
        return self._env.disk

    @overload
    def at(self: N, target: str | HasAddress, *, timeout: float | None = None) -> N: ...
    @overload
    def at(self, target: str | HasAddress, of: type[P], *, timeout: float | None = None) -> P: ...
    def at(self, target: Any, of: Any = None, *, timeout: float | None = None) -> Any:
        """A typed reference to the node at an address (or at what has an ``address``); of this node's own
        class unless ``of`` says which.  ``timeout``: seconds to wait for answers; ``inf``: for ever."""
        schema = self._schema if of is None else schema_of(of)
        return schema.reference(self._env, target if type(target) is str else target.address, timeout)

    def sleep(self, seconds: float) -> Suspension:
        """``await self.sleep(0.1)``"""
        return self._env.sleep(seconds)

    def work(self, seconds: float) -> Suspension:
        """``await self.work(0.002)``: occupy a core of this node's host for so long (on ``local``: really
        compute for so long, while everybody in the process waits)."""
        return self._env.work(seconds)

    def blocking_call(self, seconds: float) -> Suspension:
        """``await self.blocking_call(0.010)``: wait, for a disk or a database say, in the node's own thread:
        it does nothing else meanwhile.  (``sleep`` is the call that does not block.)"""
        return self._env.blocking_call(seconds)

    def thread(self) -> Thread:
        """A new thread of this node's process, for work and blocking calls beside the node's own;
        ``Overloaded`` if the machine has no more."""
        return self._env.thread()

    def after(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Timer:
        """Call a function (plain or async) once, ``seconds`` from now."""
        return self._env.after(seconds, function, arguments)

    def every(
        self, seconds: float, function: Callable[..., Any], *arguments: Any, jitter: float = 0.0
    ) -> Timer:
        """Call a function (plain or async) again and again.  The first call comes after a random part of
        the period, so that nodes that start together do not act together; each period is varied by up to
        ``jitter`` (a fraction) either way."""
        return self._env.every(seconds, function, arguments, jitter)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task:
        """Run a coroutine beside this one.  ``await`` the task for its result, or never: its failures
        are then nobody's business, its bugs still are reported."""
        return self._env.spawn(coroutine)

    def future(self) -> Future[Any]:
        """A value to be set later, awaited by any number of this node's tasks."""
        return Future(self._env)

    _schema: ClassVar[Schema]

    def __repr__(self) -> str:
        env = self.__dict__.get("_env")
        return f"<{type(self).__name__} {env.address if env else 'declared'}>"


def bind(declared: N, env: Env, resolve: Callable[[Any], Any]) -> N:
    """A fresh running node from its declaration.  ``resolve`` turns wires (declared nodes, attachables)
    into what the node holds at run time; plain values stay as they are."""
    cls = type(declared)
    node = cls.__new__(cls)
    if "_schema" not in cls.__dict__:
        cls._schema = schema_of(cls)
        _share_keys(cls, declared)
    node._env = env
    config = declared.__dict__
    if config:
        plain, wires = _split(cls)
        for name in plain:
            if name in config:
                setattr(node, name, config[name])
        for name in wires:
            if name in config:
                setattr(node, name, resolve(config[name]))
    return node


def _share_keys(cls: type[Node], declared: Node) -> None:
    """CPython keeps the names of attributes once per class, but only of those that the first instances
    had; later ones cost each instance a dict of its own.  Runtimes build all nodes before they start
    them, so let one instance have what is declared and what ``start`` will assign: 320 bytes less for each
    node.  (No more than that: a class shares at most 30 names.)"""
    first = cls.__new__(cls)
    for name in ("_env", *declared.__dict__):
        object.__setattr__(first, name, None)
    for base in reversed(cls.__mro__):
        code = getattr(base.__dict__.get("start"), "__code__", None)
        for instruction in dis.get_instructions(code) if code else ():
            if instruction.opname == "STORE_ATTR":
                with contextlib.suppress(AttributeError):  # an attribute of something else
                    object.__setattr__(first, instruction.argval, None)


def fields_of(cls: type) -> dict[str, Any]:
    """The configuration fields of a node class: name to type, in order of definition, bases first."""
    cached = cls.__dict__.get("__polyarch_fields__")
    if cached is None:
        cached = {}
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if typing.get_origin(hint) is not ClassVar and not name.startswith("_"):
                cached[name] = hint
        order = [n for base in reversed(cls.__mro__) for n in inspect.get_annotations(base)]
        cached = {n: cached[n] for n in dict.fromkeys(order) if n in cached}
        cls.__polyarch_fields__ = cached  # type: ignore[attr-defined]
    return typing.cast("dict[str, Any]", cached)


def is_wire(hint: Any) -> bool:
    """Whether a field of this type is wired to another node or port rather than given a value."""
    if typing.get_origin(hint) is tuple:
        return any(map(is_wire, typing.get_args(hint)))
    return isinstance(hint, type) and not issubclass(hint, msgspec.Struct) and hint not in _VALUES


_VALUES = (int, float, str, bytes, bool, tuple, list, dict)


def _split(cls: type) -> tuple[list[str], list[str]]:
    cached = cls.__dict__.get("__polyarch_split__")
    if cached is None:
        fields = fields_of(cls)
        cached = (
            [n for n, hint in fields.items() if not is_wire(hint)],
            [n for n, hint in fields.items() if is_wire(hint)],
        )
        cls.__polyarch_split__ = cached  # type: ignore[attr-defined]
    return typing.cast("tuple[list[str], list[str]]", cached)


def config_of(declared: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    """A declared node's given values and wires, by field name."""
    plain, wires = _split(type(declared))
    config = declared.__dict__
    return {n: config[n] for n in plain if n in config}, {n: config[n] for n in wires if n in config}


def _checked(cls: type, name: str, hint: Any, value: Any) -> Any:
    if is_wire(hint):
        return value
    try:
        return msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError as error:
        raise TypeError(f"{cls.__name__}.{name}: {error}") from None
