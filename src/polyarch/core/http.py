"""HTTP as a message: ``http(request) -> response``.

A node that speaks HTTP has one message, ``http``.  In a simulation it is a message like any other, of the
size it would have; on a live runtime it *is* HTTP/1.1 on a socket, so that curl, a browser, Caddy and our
own switch can stand before the same node.  ``Web`` maps requests to the node's other methods:

    class Front(Web):
        @get("/products/{product_id}")
        async def product(self, product_id: int) -> Product: ...

        @post("/orders")                       # the JSON body's fields are the arguments
        async def order(self, order_id: str, lines: tuple[Line, ...]) -> Receipt: ...

    Over(Front, self.at(address)).product(17)  # the other end: the same call, as HTTP

Refused answers 409 (or 400, 404, 413, 503 by its code), Timeout 504 (Broken 502, or 500 when the node
itself failed), all with ``{"error": code, "detail": …}``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from polyarch.core.errors import BadArguments, Broken, Failure, UnknownMethod, failure_from_wire
from polyarch.core.messages import Method, _hints, rpc, schema_of
from polyarch.core.node import Node
from polyarch.core.records import Record

__all__ = [
    "Http",
    "Over",
    "Request",
    "Response",
    "Route",
    "Web",
    "failure_of",
    "failure_response",
    "get",
    "post",
    "routes_of",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_ROUTE = "__polyarch_route__"
_JSON = "application/json"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a body that is no JSON, or JSON nested without end, raises."""


class Request(Record):
    """One HTTP request."""

    method: str
    target: str
    """Path and query."""
    body: bytes = b""
    headers: dict[str, str] = {}
    """Headers that the application cares for, by lower-case name."""
    client: str = ""
    """Host of who sent it, where the runtime knows it: a live one does."""

    def wire_size(self) -> int:
        """Bytes of it as HTTP/1.1, with the headers that our client sends."""
        extra = sum(len(k) + len(v) + 4 for k, v in self.headers.items())
        return len(self.method) + len(self.target) + len(self.body) + extra + _REQUEST_OVERHEAD


class Response(Record):
    """One HTTP response."""

    status: int
    body: bytes = b""
    content_type: str = _JSON
    headers: dict[str, str] = {}
    """Further headers, by lower-case name."""
    cookies: tuple[str, ...] = ()
    """What its Set-Cookie lines say: the header that may come several times and cannot be joined into one
    (RFC 9110, 5.3)."""

    def wire_size(self) -> int:
        """Bytes of it as HTTP/1.1, with the headers that our server sends."""
        extra = sum(len(k) + len(v) + 4 for k, v in self.headers.items())
        extra += sum(len(c) + len("set-cookie: \r\n") for c in self.cookies)
        return len(self.body) + len(self.content_type) + extra + _RESPONSE_OVERHEAD


# What our live client and server add to target, method, body and type (a test compares with the wire).
_REQUEST_OVERHEAD = len(
    " " + " HTTP/1.1\r\nHost: 127.0.0.1:65535\r\nPolyarch-Patience: 10\r\nContent-Length: 100\r\n\r\n"
)
_RESPONSE_OVERHEAD = len("HTTP/1.1 200 OK\r\nContent-Type: \r\nContent-Length: 100\r\n\r\n")


class Http(Node):
    """Whatever answers HTTP: a web front, a switch, a proxy."""

    @rpc
    async def http(self, request: Request) -> Response:
        """Answer one request."""
        raise UnknownMethod("this node answers no HTTP")


class Route:
    """A method of a node as an HTTP resource."""

    def __init__(self, verb: str, path: str) -> None:
        self.verb = verb
        self.path = path
        self.segments = [s for s in path.split("/") if s]
        self.method: Method

    def bind(self, method: Method) -> None:
        """Work out, once, where each parameter is: in the path, the query or the body."""
        self.method = method
        self.in_path = {s[1:-1] for s in self.segments if s.startswith("{")}
        names = [p.name for p in method.parameters]
        unknown = self.in_path - set(names)
        if unknown:
            raise TypeError(f"{self.path}: {method.name} has no parameter {sorted(unknown)[0]!r}")
        hints = _hints(method.function, object)
        self.types = {n: hints[n] for n in names}
        self.result = msgspec.json.Decoder(hints.get("return", type(None)))

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The path's variables, if it fits."""
        if len(segments) != len(self.segments):
            return None
        values = {}
        for pattern, segment in zip(self.segments, segments):
            if pattern[0] == "{":
                values[pattern[1:-1]] = segment
            elif pattern != segment:
                return None
        return values

    def request(self, arguments: tuple[Any, ...]) -> Request:
        """The request that asks for this method with these arguments."""
        values = {p.name: v for p, v in zip(self.method.parameters, arguments)}
        path = "/" + "/".join(
            quote(str(values.pop(s[1:-1])), safe="") if s[0] == "{" else s for s in self.segments
        )
        if self.verb == "GET":
            given = {n: v for n, v in values.items() if v is not None}
            query = "&".join(f"{n}={quote(str(v), safe='')}" for n, v in given.items())
            return Request("GET", f"{path}?{query}" if query else path)
        return Request(self.verb, path, msgspec.json.encode(values) if values else b"")

    def arguments(self, path: dict[str, str], query: str, body: bytes) -> tuple[Any, ...]:
        """The typed arguments of a request; ``BadArguments`` says which does not fit."""
        values: dict[str, Any] = {n: unquote(v) for n, v in path.items()}
        if query:
            values.update(parse_qsl(query))
        strict = set()
        if body:
            try:
                given = msgspec.json.decode(body, type=dict[str, Any])
            except _UNREADABLE as error:
                raise BadArguments(f"{self.path}: the body must be a JSON object: {error}") from None
            values.update(given)
            strict = set(given)
        unknown = set(values) - set(self.types)
        if unknown:
            raise BadArguments(
                f"{self.path} has no field {min(unknown)!r}; its fields: {', '.join(self.types) or 'none'}"
            )
        arguments = []
        for p in self.method.parameters:
            if p.name not in values:
                if p.default is p.empty:
                    raise BadArguments(f"{self.path} needs the field {p.name!r}")
                arguments.append(p.default)
                continue
            try:
                value = msgspec.convert(values[p.name], self.types[p.name], strict=p.name in strict)
            except msgspec.ValidationError as error:
                raise BadArguments(f"{self.path}: field {p.name!r}: {error}") from None
            arguments.append(value)
        return tuple(arguments)


def get(path: str) -> Callable[[F], F]:
    """This rpc is also ``GET path``; ``{name}`` in the path is the parameter of that name, others are in
    the query."""
    return _routed("GET", path)


def post(path: str) -> Callable[[F], F]:
    """This rpc is also ``POST path``; parameters that are not in the path are fields of the JSON body."""
    return _routed("POST", path)


def _routed(verb: str, path: str) -> Callable[[F], F]:
    def mark(function: F) -> F:
        setattr(function, _ROUTE, (verb, path))
        return cast("F", rpc(function))

    return mark


def routes_of(cls: type) -> dict[str, Route]:
    """The routes of a node class or a port, by method name.  An override keeps its base's route."""
    cached = cls.__dict__.get("__polyarch_routes__")
    if cached is None:
        cached = {}
        for name, method in schema_of(cls).methods.items():
            for base in cls.__mro__:
                mark = getattr(base.__dict__.get(name), _ROUTE, None)
                if mark is not None:
                    cached[name] = route = Route(*mark)
                    route.bind(method)
                    break
        cls.__polyarch_routes__ = cached  # type: ignore[attr-defined]
    return cast("dict[str, Route]", cached)


_STATUS = {
    "bad-arguments": 400,
    "unknown-method": 404,
    "not-found": 404,
    "too-large": 413,
    "unreachable": 503,
    "overloaded": 503,
}


_LATER = {"retry-after": "1"}
"""Seconds after which to ask a server again that has too much to do (RFC 9110, 10.2.3)."""


def failure_response(failure: Failure) -> Response:
    """How a failure is said in HTTP."""
    if failure.definite:
        status = _STATUS.get(failure.code, 409)
    elif isinstance(failure, Broken):
        status = 502 if failure.__cause__ is None else 500  # what it asked has failed, or it has itself
    else:
        status = 504
    body = msgspec.json.encode({"error": failure.code, "detail": failure.detail})
    return Response(status, body, headers=_LATER if failure.code == "overloaded" else {})


class Web(Http):
    """A node whose routed methods can be called over HTTP."""

    title: ClassVar[str] = ""

    async def http(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        segments = [s for s in path.split("/") if s]
        routes = routes_of(type(self))
        allowed: set[str] = set()
        for route in routes.values():
            values = route.match(segments)
            if values is None:
                continue
            if route.verb != request.method and not (route.verb == "GET" and request.method == "HEAD"):
                allowed.add(route.verb)
                continue
            try:
                arguments = route.arguments(values, query, request.body)
                result = route.method.function(self, *arguments)
                if route.method.is_async:
                    result = await result
                return Response(200, msgspec.json.encode(result))
            except Failure as failure:
                return failure_response(failure)
        if allowed:
            body = msgspec.json.encode({"error": "method", "detail": f"not {request.method}"})
            return Response(405, body, headers={"allow": ", ".join(sorted(allowed))})
        if not segments:
            return Response(200, _index(type(self), routes).encode(), "text/html; charset=utf-8")
        return failure_response(UnknownMethod(f"nothing at {path}; see /"))


def _index(cls: type, routes: dict[str, Route]) -> str:
    """A page that lists what can be asked: made from the methods and their words."""
    rows = "".join(
        f"<tr><td><code>{r.verb}</code></td><td><code>{r.path}</code></td>"
        f"<td>{(r.method.doc.splitlines() or [''])[0]}</td>"
        f"<td><code>{_html(r.method.signature())}</code></td></tr>"
        for r in routes.values()
    )
    title = getattr(cls, "title", "") or cls.__name__
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>body{{font:16px system-ui;"
        f"margin:3em auto;max-width:64em}}td{{padding:.3em .8em;border-top:1px solid #8884}}</style>"
        f"<h1>{title}</h1><p>Served by Polyarch.</p><table>{rows}</table>"
    )


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def Over(port: type[T], carrier: Any) -> T:
    """The routed operations of ``port``, called over HTTP through ``carrier`` (a reference to an ``Http``
    node: a front or a switch): ``await Over(Shop, self.front).product(17)``."""
    return cast("T", _caller_class(port)(carrier))


def _caller_class(port: type) -> type:
    cached = port.__dict__.get("__polyarch_over__")
    if cached is None:

        def caller(route: Route) -> Callable[..., Any]:
            parameters = route.method.parameters
            signature = inspect.Signature(parameters)

            async def call(self: Any, *arguments: Any, **named: Any) -> Any:
                if named or len(arguments) != len(parameters):
                    try:
                        bound = signature.bind(*arguments, **named)
                    except TypeError as error:
                        raise TypeError(f"{port.__name__}.{route.method.name}: {error}") from None
                    bound.apply_defaults()
                    arguments = tuple(bound.arguments.values())
                response = await self.carrier.http(route.request(arguments))
                return _result(route, response)

            return call

        cached = type(
            f"{port.__name__}OverHttp",
            (),
            {
                "__slots__": ("carrier",),
                "__init__": lambda self, carrier: setattr(self, "carrier", carrier),
                **{name: caller(route) for name, route in routes_of(port).items()},
            },
        )
        port.__polyarch_over__ = cached  # type: ignore[attr-defined]
    return cast("type", cached)


def _result(route: Route, response: Response) -> Any:
    """The typed result of a response, or the failure that it stands for."""
    if response.status == 200:
        try:
            return route.result.decode(response.body)
        except _UNREADABLE as error:
            raise Broken(f"{route.path} answered what is no {route.method.name}: {error}") from None
    raise failure_of(response)


def failure_of(response: Response) -> Failure:
    """The failure that a response of any status but 200 stands for."""
    try:
        problem = msgspec.json.decode(response.body, type=dict[str, Any])
        code, detail = str(problem["error"]), str(problem["detail"])
    except (*_UNREADABLE, KeyError):
        code, detail = "refused" if response.status < 500 else "broken", f"HTTP status {response.status}"
    # 503: a switch or a front that reached nobody; any other 5xx may have happened.
    return failure_from_wire(code, detail, response.status < 500 or response.status == 503)
