"""Nodes that talk in sealed messages only: any protocol, unchanged, between members.

    class SealedChord(Sealed, Chord):
        inside = Chord                                     # its messages travel sealed,
        withheld = messages_of(Chord)                      # and are taken in no other way

``self.at(n).find_successor(key)`` then seals the method's name and its arguments, and the other side opens
them, looks whether it has had them before, runs the method, and seals its answer.  The first message to a
node is preceded by a handshake (``blocks/sealing.py``).

A node becomes a member when the operator *admits* it: it makes its key itself and tells the public half; the
operator hands it the certificate and the authority's public key.  The first to admit a node is its authority
for ever ("imprinting": Stajano and Anderson, "The resurrecting duckling", 1999); both are on its disk, and it
comes back from a crash as a member.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from msgspec import MsgspecError

from polyarch.blocks.sealing import (
    ANSWER,
    CALL,
    TELL,
    Authority,
    Certificate,
    Envelope,
    Forged,
    Hello,
    Keys,
    Window,
    agree_called,
    agree_calling,
    public_key,
)
from polyarch.core.errors import BadArguments, Broken, Failure, Refused, UnknownMethod, failure_from_wire
from polyarch.core.messages import Method, Schema, decode, encode, oneway, rpc, schema_of
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import Future, settle

__all__ = ["SEALED", "NoSession", "NotAdmitted", "Sealed", "admit_all", "messages_of", "sealing_costs"]

SEALED = {
    "sealed": "messages that were sealed, of all members",
    "handshakes": "handshakes that were begun",
    "refused": "messages that were refused: forged, replayed, or of a session that is not known",
}
"""What ``sealing_costs`` measures."""


class NotAdmitted(Refused, code="not-admitted"):
    """This node has no certificate (yet)."""


class NoSession(Refused, code="no-session"):
    """The keys of this session are not known (any more): a handshake is needed."""


class Seals(Record):
    """What sealing has cost a member."""

    sealed: int
    handshakes: int
    refused: int


class Inbound:
    """A session in which somebody calls us."""

    def __init__(self, caller: str, keys: Keys) -> None:
        self.caller = caller
        self.keys = keys
        self.window = Window()


class Outbound:
    """A session in which we call somebody."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.numbers = 0


def messages_of(kind: type[Node]) -> frozenset[str]:
    """The names of all messages of a class."""
    return frozenset(schema_of(kind).methods)


class Sealed(Node):
    """Takes and sends sealed messages only."""

    inside: ClassVar[type[Node] | None] = None
    """Whose messages come sealed; None: it takes none."""

    async def start(self) -> None:
        self._secret = self.disk.get("secret key", bytes, b"")
        if not self._secret:
            self._secret = self.secret(32)
            self.disk.put("secret key", self._secret)
            await self.disk.sync()
        self.authority = self.disk.get("authority", bytes, b"")
        self.certificate = self.disk.get("certificate", Certificate, Certificate("", b"", b""))
        self.calling: dict[str, Future[Outbound]] = {}
        self.called: dict[bytes, Inbound] = {}
        # Of each caller: the session that it uses, and one that it has not used yet.  Who replays a hello
        # must not displace the first.
        self.used: dict[str, bytes] = {}
        self.offered: dict[str, bytes] = {}
        self.sealed_out = self.handshakes = self.refused = 0
        await super().start()

    # -- becoming a member --------------------------------------------------------------------------------

    @rpc
    async def introduce(self) -> bytes:
        """This node's public key."""
        return public_key(self._secret)

    @rpc
    async def admit(self, authority: bytes, certificate: Certificate) -> None:
        """The operator makes this node a member."""
        if self.authority not in (b"", authority):
            raise Refused(f"{self.address} has another authority")
        certificate.check(authority)
        if (certificate.address, certificate.public) != (self.address, public_key(self._secret)):
            raise Forged(f"that certificate is not for {self.address}")
        self.authority, self.certificate = authority, certificate
        self.disk.put("authority", authority)
        self.disk.put("certificate", certificate)
        await self.disk.sync()

    # -- sending ------------------------------------------------------------------------------------------

    def at(self, target: Any, of: Any = None, *, timeout: float | None = None) -> Any:
        """A reference whose messages are sealed."""
        to = target if isinstance(target, str) else target.address
        return Line(self, to, schema_of(of or self.inside or type(self)), timeout)

    def unsealed(self, to: str, timeout: float | None = None) -> Sealed:
        """For what carries the seals."""
        return super().at(to, Sealed, timeout=timeout)

    async def session(self, to: str) -> Outbound:
        """The session in which we call somebody; the first message waits for a handshake."""
        known = self.calling.get(to)
        if known is None:
            self.calling[to] = known = self.future()
            try:
                known.set(Outbound(await self.shake_hands(to)))
            except Failure as failure:
                del self.calling[to]
                known.fail(failure)
                raise
        return await known

    async def shake_hands(self, to: str) -> Keys:
        """Agree on keys with somebody."""
        self.handshakes += 1
        fresh = self.secret(32)
        mine = Hello(self.admitted(), public_key(fresh))
        other = await self.unsealed(to).hello(mine)
        other.certificate.check(self.authority)
        if other.certificate.address != to:
            raise Forged(f"{other.certificate.address} answers for {to}")
        return agree_calling(self._secret, fresh, mine, other)

    async def call_sealed(self, to: str, method: Method, arguments: Any, timeout: float) -> Any:
        """Call a method of somebody, and wait for the answer."""
        text = encode((method.name, arguments))
        for last in (False, True):
            session = await self.session(to)
            session.numbers += 1
            self.sealed_out += 1
            envelope = session.keys.seal(CALL, session.numbers, text)
            try:
                answer = await self.unsealed(to, timeout).sealed(envelope)
            except NoSession:
                self.end_session(to, session)
                if last:
                    raise
            else:
                break
        if answer.number != envelope.number:
            raise Forged("that answers something else")
        ok, *said = parts_of(session.keys.open(ANSWER, answer))
        if ok is True and len(said) == 1:
            return method.check_result(said[0])
        if ok is False and [type(part) for part in said] == [str, str, bool]:
            raise failure_from_wire(*said)
        raise Broken(f"{to} answers nothing that is an answer")

    async def tell_sealed(self, to: str, method: Method, arguments: Any) -> None:
        """Send a one-way message."""
        session = await self.session(to)
        session.numbers += 1
        self.sealed_out += 1
        text = encode((method.name, arguments))
        self.unsealed(to).told(session.keys.seal(TELL, session.numbers, text))

    def end_session(self, to: str, session: Outbound) -> None:
        """The other side does not know a session any more."""
        known = self.calling.get(to)
        if known is not None and known.done and known.value is session:
            del self.calling[to]

    # -- receiving ----------------------------------------------------------------------------------------

    @rpc
    async def hello(self, other: Hello) -> Hello:
        """Somebody wants to call us."""
        mine = self.admitted()
        try:
            other.certificate.check(self.authority)
            fresh = self.secret(32)
            answer = Hello(mine, public_key(fresh))
            keys = agree_called(self._secret, fresh, answer, other)
        except Forged:
            self.refused += 1
            raise
        caller = other.certificate.address
        self.called.pop(self.offered.pop(caller, b""), None)
        self.offered[caller] = keys.session
        self.called[keys.session] = Inbound(caller, keys)
        return answer

    @rpc
    async def sealed(self, envelope: Envelope) -> Envelope:
        """Somebody calls."""
        session, name, arguments = self.opened(CALL, envelope)
        try:
            method = self.method(name)
            if method.is_oneway:
                raise UnknownMethod(f"{name} is not called but told")
            result = method.invoke(self, arguments)
            if isinstance(result, Coroutine):
                result = await result
            text = encode((True, method.check_result(result)))
        except Failure as failure:
            text = encode((False, failure.code, failure.detail, failure.definite))
        self.sealed_out += 1
        return session.keys.seal(ANSWER, envelope.number, text)

    @oneway
    async def told(self, envelope: Envelope) -> None:
        """Somebody tells us something."""
        _, name, arguments = self.opened(TELL, envelope)
        method = self.method(name)
        if method.is_oneway:
            result = method.invoke(self, arguments)
            if isinstance(result, Coroutine):
                await result

    def opened(self, kind: bytes, envelope: Envelope) -> tuple[Inbound, str, Any]:
        """The session, and the method and arguments in an envelope that has not been here before."""
        session = self.called.get(envelope.session)
        try:
            if session is None:
                raise NoSession(self.address)
            text = session.keys.open(kind, envelope)
            session.window.accept(envelope.number)
        except Refused:
            self.refused += 1
            raise
        if self.offered.get(session.caller) == envelope.session:  # its first use
            del self.offered[session.caller]
            self.called.pop(self.used.get(session.caller, b""), None)
            self.used[session.caller] = envelope.session
        name, *arguments = parts_of(text)
        if not isinstance(name, str) or len(arguments) != 1 or not isinstance(arguments[0], list):
            raise BadArguments(f"{session.caller} says nothing that is a message")
        return session, name, arguments[0]

    def method(self, name: str) -> Method:
        method = schema_of(self.inside).methods.get(name) if self.inside else None
        if method is None:
            raise UnknownMethod(name)
        return method

    def admitted(self) -> Certificate:
        if not self.authority:
            raise NotAdmitted(self.address)
        return self.certificate

    @rpc
    async def seals(self) -> Seals:
        """What sealing has cost so far."""
        return Seals(self.sealed_out, self.handshakes, self.refused)


class Line:
    """A reference to a member: what is sent through it is sealed."""

    def __init__(self, node: Sealed, to: str, schema: Schema, timeout: float | None) -> None:
        self._node = node
        self._to = to
        self._schema = schema
        self._timeout = timeout

    @property
    def address(self) -> str:
        return self._to

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = self._schema.methods.get(name)
        if method is None:
            raise AttributeError(f"{self._schema.name} has no message {name!r}")
        node, to = self._node, self._to
        if method.is_oneway:
            return lambda *a, **k: node.spawn(node.tell_sealed(to, method, _in_order(method, a, k)))
        seconds = method.timeout_ns * 1e-9 if self._timeout is None else self._timeout
        return lambda *a, **k: node.call_sealed(to, method, _in_order(method, a, k), seconds)


def parts_of(text: bytes) -> list[Any]:
    """The parts of a text that was opened.  A member that lies can have sealed anything: then [None]."""
    try:
        parts = decode(text)
    except MsgspecError:
        parts = None
    return parts if isinstance(parts, list) and parts else [None]


def _in_order(method: Method, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments of a message in their order, defaults too."""
    rest = method.parameters[len(given) :]
    return (*given, *(named.get(p.name, p.default) for p in rest))


async def sealing_costs(x: Any, addresses: Sequence[str]) -> dict[str, int]:
    """``SEALED``, so far, of these nodes."""
    told = await settle(*(x.at(a, Sealed).seals() for a in addresses))
    members = [seals for seals in told if isinstance(seals, Seals)]
    return {
        "sealed": sum(m.sealed for m in members),
        "handshakes": sum(m.handshakes for m in members),
        "refused": sum(m.refused for m in members),
    }


async def admit_all(x: Any, authority: Authority, addresses: Sequence[str]) -> bool:
    """Make these nodes members, as their operator (``x``: the experimenter); whether all are."""
    admitted = True
    for at in range(0, len(addresses), 256):
        page = addresses[at : at + 256]
        keys = await settle(*(x.at(a, Sealed).introduce() for a in page))
        given = await settle(
            *(
                x.at(a, Sealed).admit(authority.public, authority.certify(a, key))
                for a, key in zip(page, keys)
                if not isinstance(key, Failure)
            )
        )
        admitted = admitted and not any(isinstance(told, Failure) for told in (*keys, *given))
    return admitted
