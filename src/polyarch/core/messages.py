"""Typed methods are the messages: what ``@rpc`` and ``@oneway`` mean, and what is derived from a signature.

From a method's signature come, once per class and before the first message:

* a *stub* with the same parameters, on the class's reference type: it sends instead of running;
* a *check* of arguments on arrival: exact types pass at the speed of ``type(x) is int``; anything else is
  converted by msgspec or refused as ``BadArguments`` with msgspec's explanation.  Bounds are a part of the
  type (``Annotated[int, msgspec.Meta(ge=1)]``) and cost a comparison;
* whether the arguments can be *shared* in a simulation (all immutable) or must be copied.

The stub of an rpc is a generator that yields ``(reference, method, arguments)`` to whoever drives the
coroutine: that tuple is the whole interface between an author's code and a runtime.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, Union, overload
from zlib import crc32

import msgspec

from polyarch.core.errors import BadArguments, Broken
from polyarch.core.wire import UNSENDABLE

__all__ = ["Method", "Reference", "Schema", "decode", "encode", "oneway", "rpc", "schema_of"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

FOREVER_NS = 1 << 62
"""The timeout of a call that has none."""


def timeout_ns(seconds: float | None) -> int:
    """A timeout in nanoseconds; None and what is longer than 30 years are for ever."""
    return FOREVER_NS if seconds is None or seconds > 1e9 else round(seconds * 1e9)


_MARK = "__polyarch_message__"

encode = msgspec.msgpack.Encoder().encode
"""MessagePack bytes of a value."""
decode = msgspec.msgpack.Decoder().decode
"""Plain values from MessagePack bytes (lists, dicts, numbers); ``Method.check`` makes them typed."""


@dataclasses.dataclass(frozen=True)
class _Mark:
    kind: str  # "rpc" or "oneway"
    timeout: float | None


@overload
def rpc(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def rpc(*, timeout: float) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def rpc(function: Any = None, *, timeout: float | None = None) -> Any:
    """A method that other nodes may call and whose answer they await (request and reply).

    ``timeout``: seconds that a caller waits unless it says otherwise; the node class's ``timeout`` by
    default.  An ``async def`` may await; a plain ``def`` answers at once and costs less.
    """

    def mark(f: Any) -> Any:
        setattr(f, _MARK, _Mark("rpc", timeout))
        return f

    return mark if function is None else mark(function)


def oneway(
    function: Callable[Concatenate[S, P], Coroutine[Any, Any, None]] | Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], None]:
    """A method that other nodes may call without an answer: sent and forgotten, never awaited.
    It may be lost, and the sender is not told."""
    setattr(function, _MARK, _Mark("oneway", None))
    return typing.cast("Callable[Concatenate[S, P], None]", function)


class Reference:
    """A typed reference to another node.  ``reference.method(…)`` sends.  Made by ``Node.at``."""

    __slots__ = ("_env", "_timeout", "_to")
    _schema: typing.ClassVar[Schema]

    def __init__(self, env: Any, to: str, timeout: float | None = None) -> None:
        self._env = env
        self._to = to
        self._timeout = timeout

    @property
    def address(self) -> str:
        """The address of the node that is referred to."""
        return self._to

    def __repr__(self) -> str:
        return f"<{self._schema.name} at {self._to}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other._to == self._to

    def __hash__(self) -> int:
        return crc32(self._to.encode())


class Method:
    """One message of a node class."""

    __slots__ = (
        "check",
        "check_result",
        "code",
        "doc",
        "function",
        "invoke",
        "is_async",
        "is_oneway",
        "name",
        "parameters",
        "result_shared",
        "shared",
        "siblings",
        "timeout_ns",
    )

    def __init__(
        self,
        owner: type,
        name: str,
        mark: _Mark,
        function: Callable[..., Any],
        siblings: dict[str, Method],
    ) -> None:
        self.siblings = siblings
        """All messages of the class, by name: a node that has this very dict has this very method."""
        self.name = name
        self.function = function
        self.is_oneway = mark.kind == "oneway"
        timeout = getattr(owner, "timeout", 1.0) if mark.timeout is None else mark.timeout
        self.timeout_ns = timeout_ns(timeout)
        """How long callers wait, in nanoseconds, unless their reference says otherwise."""
        self.is_async = inspect.iscoroutinefunction(function)
        self.doc = inspect.getdoc(function) or ""
        self.code = crc32(name.encode())
        """A number for the trace hash: the same everywhere."""
        hints = _hints(function, owner)
        self.parameters = list(inspect.signature(function).parameters.values())[1:]
        kinds = {p.kind for p in self.parameters}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            raise TypeError(f"{owner.__name__}.{name}: a message has named parameters, not * or **")
        missing = [p.name for p in self.parameters if p.name not in hints]
        if missing:
            raise TypeError(f"{owner.__name__}.{name}: parameter {missing[0]!r} needs a type: the schema")
        types_ = [hints[p.name] for p in self.parameters]
        where = f"{owner.__name__}.{name}"
        self.check, self.invoke = _argument_check(where, self.parameters, types_, function)
        self.shared = all(map(_immutable, types_))
        result = hints.get("return", type(None))
        self.check_result = _value_check(where, result)
        self.result_shared = _immutable(result)

    def required(self) -> int:
        """How many arguments have no default."""
        return sum(p.default is inspect.Parameter.empty for p in self.parameters)

    def signature(self) -> str:
        """``find_successor(key: int) -> Peer``, as written."""
        signature = inspect.signature(self.function)
        return f"{self.name}{signature.replace(parameters=self.parameters)}".replace("'", "")

    def __repr__(self) -> str:
        return f"<message {self.signature()}>"


class Schema:
    """All messages of a node class (or of a port), and the reference type made from them."""

    def __init__(self, owner: type) -> None:
        self.owner = owner
        self.name = owner.__name__
        self.methods: dict[str, Method] = {}
        for name in dir(owner):
            mark = _mark_of(owner, name)
            if mark is not None and name not in getattr(owner, "withheld", ()):
                function = inspect.getattr_static(owner, name)
                self.methods[name] = Method(owner, name, mark, function, self.methods)
        stubs = {name: _stub(method) for name, method in self.methods.items()}
        body = {"__slots__": (), **stubs, "_schema": self}
        self.reference = type(f"{self.name}Reference", (Reference,), body)


def schema_of(owner: type) -> Schema:
    """The schema of a class; made on first use, when all names in its annotations are known."""
    schema = owner.__dict__.get("__polyarch_schema__")
    if schema is None:
        schema = Schema(owner)
        owner.__polyarch_schema__ = schema  # type: ignore[attr-defined]
    return typing.cast("Schema", schema)


def _mark_of(owner: type, name: str) -> _Mark | None:
    """An override of a message is that message, marked again or not."""
    for cls in owner.__mro__:
        mark = getattr(cls.__dict__.get(name), _MARK, None)
        if mark is not None:
            return typing.cast("_Mark", mark)
    return None


def _hints(function: Callable[..., Any], owner: type) -> dict[str, Any]:
    """Resolved annotations; names are looked up where the function was written."""
    module = sys.modules.get(function.__module__)
    names = dict(vars(module)) if module else {}
    names.setdefault(owner.__name__, owner)
    return typing.get_type_hints(function, globalns=names, include_extras=True)


# -- what a type allows -----------------------------------------------------------------------------

_ATOMS = (int, float, str, bytes, bool, type(None))


def _immutable(t: Any, within: tuple[type, ...] = ()) -> bool:
    """Whether values of this type can be shared between nodes without a copy."""
    if t in _ATOMS or t is None or t in within:
        return True
    origin = typing.get_origin(t)
    if origin in (Union, types.UnionType):
        return all(_immutable(a, within) for a in typing.get_args(t))
    if origin is tuple:
        return all(a is Ellipsis or _immutable(a, within) for a in typing.get_args(t))
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _immutable(typing.get_args(t)[0], within)
    if isinstance(t, type):
        if issubclass(t, enum.Enum):
            return True
        if issubclass(t, msgspec.Struct):
            return t.__struct_config__.frozen and all(
                _immutable(f.type, (*within, t)) for f in msgspec.structs.fields(t)
            )
    return False


def _exact_test(t: Any, value: str, names: dict[str, Any], within: tuple[type, ...] = ()) -> str | None:
    """A Python expression that is true only if ``value`` has exactly type ``t``; None if there is no
    cheap one.  Nested values are tested too: what passes needs no conversion."""
    if t in (None, type(None)):
        return f"{value} is None"

    def name(thing: Any) -> str:
        names[label := f"T{len(names)}"] = thing
        return label

    def all_of(*parts: str | None) -> str | None:
        return None if None in parts else "(" + " and ".join(typing.cast("tuple[str, ...]", parts)) + ")"

    origin, arguments = typing.get_origin(t), typing.get_args(t)
    if origin is typing.Annotated:
        bounds = _bounds_test(value, arguments[1:])
        return None if bounds is None else all_of(_exact_test(arguments[0], value, names, within), *bounds)
    if origin in (Union, types.UnionType):
        tests = [_exact_test(a, value, names, within) for a in arguments]
        return None if None in tests else "(" + " or ".join(typing.cast("list[str]", tests)) + ")"
    if origin is typing.Literal and all(type(a) is str for a in arguments):
        return f"(type({value}) is str and {value} in {name(frozenset(arguments))})"
    if origin is tuple and arguments[1:] == (Ellipsis,):
        inner = _exact_test(arguments[0], f"x{len(within)}", names, within)
        return inner and f"(type({value}) is tuple and all([{inner} for x{len(within)} in {value}]))"
    if origin is tuple:
        items = [_exact_test(a, f"{value}[{i}]", names, within) for i, a in enumerate(arguments)]
        return all_of(f"type({value}) is tuple", f"len({value}) == {len(arguments)}", *items)
    if not isinstance(t, type) or t in within:
        return None
    if t in _ATOMS or issubclass(t, enum.Enum):
        return f"type({value}) is {name(t)}"
    if issubclass(t, msgspec.Struct) and _immutable(t):
        fields = msgspec.structs.fields(t)
        parts = [_exact_test(f.type, f"{value}.{f.name}", names, (*within, t)) for f in fields]
        return all_of(f"type({value}) is {name(t)}", *parts)
    return None


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_OTHER_CONDITIONS = ("multiple_of", "pattern", "min_length", "max_length", "tz")


def _bounds_test(value: str, annotations: tuple[Any, ...]) -> list[str] | None:
    """Expressions that are true only within the bounds that ``Annotated[int, Meta(ge=1)]`` gives; None if it
    has other conditions too, which msgspec must look at."""
    metas = [meta for meta in annotations if isinstance(meta, msgspec.Meta)]
    if any(getattr(meta, name) is not None for meta in metas for name in _OTHER_CONDITIONS):
        return None
    bounds = [(sign, getattr(meta, name)) for meta in metas for name, sign in _SIGNS.items()]
    return [f"{value} {sign} {bound!r}" for sign, bound in bounds if bound is not None]


def _converter(where: str, t: Any) -> Callable[[Any], Any]:
    """Full validation and copy: encode and decode again, as if it had crossed a wire."""
    encoder = msgspec.msgpack.Encoder()
    try:
        decoder = msgspec.msgpack.Decoder(t)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None

    def convert(value: Any) -> Any:
        return decoder.decode(encoder.encode(value))

    return convert


def _argument_check(
    where: str, parameters: list[inspect.Parameter], types_: list[Any], function: Callable[..., Any]
) -> tuple[Callable[[Any], tuple[Any, ...]], Callable[[Any, Any], Any]]:
    """``check(arguments) -> arguments``, typed, or ``BadArguments``; and ``invoke(node, arguments)``: check
    them and call the method, in one step."""
    names = [p.name for p in parameters]
    converters = [_converter(where, t) for t in types_]
    required = sum(p.default is inspect.Parameter.empty for p in parameters)
    defaults = [p.default for p in parameters]

    def explain(arguments: Any) -> tuple[Any, ...]:
        if not isinstance(arguments, (tuple, list)):
            raise BadArguments(f"{where}: expected its arguments as an array, got {type(arguments).__name__}")
        if not required <= len(arguments) <= len(names):
            wanted = f"{len(names)}" if required == len(names) else f"{required} to {len(names)}"
            raise BadArguments(f"{where} takes {wanted} arguments ({', '.join(names)}), got {len(arguments)}")
        converted = []
        for name, convert, value in zip(names, converters, arguments):
            try:
                converted.append(convert(value))
            except UNSENDABLE as error:
                raise BadArguments(f"{where}: argument {name!r}: {error}") from None
        return tuple(converted) + tuple(defaults[len(arguments) :])

    scope: dict[str, Any] = {}
    tests = [_exact_test(t, f"a{i}", scope) if _immutable(t) else None for i, t in enumerate(types_)]
    scope |= {"explain": explain, "function": function}
    if None in tests:  # something is mutable: always copied
        exec("def invoke(node, arguments):\n    return function(node, *explain(arguments))\n", scope)
        return explain, scope["invoke"]
    names_ = [f"a{i}" for i in range(len(tests))]
    unpack = f"{', '.join(names_)}, = arguments" if tests else "pass"
    source = "".join(
        f"def {head}:\n"
        f"    if len(arguments) == {len(tests)}:\n"
        f"        {unpack}\n"
        f"        if {' and '.join(typing.cast('list[str]', tests)) or 'True'}:\n"
        f"            return {passed}\n"
        f"    return {otherwise}\n"
        for head, passed, otherwise in (
            ("check(arguments)", "arguments", "explain(arguments)"),
            (
                "invoke(node, arguments)",
                f"function({', '.join(['node', *names_])})",
                "function(node, *explain(arguments))",
            ),
        )
    )
    exec(source, scope)
    return scope["check"], scope["invoke"]


def _value_check(where: str, t: Any) -> Callable[[Any], Any]:
    """``check(result) -> result``: typed, or ``Broken``: the handler has run, but its answer is not what its
    signature promises."""
    convert = _converter(f"{where} result", t)

    def explain(value: Any) -> Any:
        try:
            return convert(value)
        except UNSENDABLE as error:
            raise Broken(f"{where} answered {value!r:.100}: {error}") from None

    scope: dict[str, Any] = {"explain": explain}
    test = _exact_test(t, "value", scope) if _immutable(t) else None
    if test is None:
        return explain
    exec(f"def check(value):\n    return value if {test} else explain(value)\n", scope)
    return typing.cast("Callable[[Any], Any]", scope["check"])


def _stub(method: Method) -> Callable[..., Any]:
    """The sending side of a method, with its own parameter names and defaults."""
    scope: dict[str, Any] = {"METHOD": method}
    parameters = []
    for i, p in enumerate(method.parameters):
        if p.default is inspect.Parameter.empty:
            parameters.append(p.name)
        else:
            scope[f"default{i}"] = p.default
            parameters.append(f"{p.name}=default{i}")
    names = "".join(f"{p.name}, " for p in method.parameters)
    head = f"def {method.name}({', '.join(['reference', *parameters])}):\n"
    if method.is_oneway:
        exec(f"{head}    reference._env.send(reference, METHOD, ({names}))\n", scope)
        return typing.cast("Callable[..., Any]", scope[method.name])
    exec(f"{head}    return (yield (reference, METHOD, ({names})))\n", scope)
    stub = types.coroutine(scope[method.name])
    stub.__doc__ = method.doc
    return typing.cast("Callable[..., Any]", stub)


def iterate_messages(owner: type) -> Iterator[Method]:
    """The messages of a class in the order of their names."""
    yield from schema_of(owner).methods.values()
