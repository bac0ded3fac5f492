"""DNS as a message on a live process: questions that leave on UDP, and those that come on UDP and TCP.

What goes over the wire is packed and parsed by dnslib.  A question is one datagram, as a message is: who
asked finds out by a time-out that it was lost, and may ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dnslib

from polyarch.core.dns import DnsQuery, DnsRecord, DnsReply
from polyarch.core.errors import BadArguments, Broken, Failure, Timeout, Unreachable
from polyarch.core.tasks import Ledger, Task
from polyarch.runtimes.local.http_links import Caller

if TYPE_CHECKING:
    from polyarch.runtimes.local.env import LocalEnv
    from polyarch.runtimes.local.process import LocalProcess

__all__ = ["DnsCaller", "DnsLinks", "DnsServer"]

HOST = "127.0.0.1"
PLAIN_LIMIT, EDNS_LIMIT = 512, 1232
"""Most bytes of a datagram: to those that say nothing (RFC 1035), and at all (DNS flag day 2020)."""
IDLE = 10.0
"""Seconds without a question after which a TCP connection is closed (RFC 7766 wants a few)."""
CONNECTIONS = 200
"""Most of them at a time."""
UNREAD = 1 << 18
"""Bytes of answers that a client may leave unread before its connection is cut."""
_TRANSFERS = (dnslib.QTYPE.AXFR, dnslib.QTYPE.IXFR)
"""Whole zones are not given away (RFC 5936)."""
COSTS = 65001
"""EDNS option for local use (RFC 6891): of a question its depth, of an answer what it has cost."""
_secret = random.SystemRandom()


# -- packing and parsing ------------------------------------------------------------------------------------


def pack_query(query: DnsQuery, depth: int | None) -> tuple[int, bytes]:
    """A question, and the number by which its answer is known; ``depth`` None: nobody counts costs.
    ``BadArguments`` for what is no name or no type of records."""
    number = _secret.getrandbits(16)
    try:
        message = dnslib.DNSRecord.question(query.name, query.kind)
        message.header.id = number
        costs = [] if depth is None else [dnslib.EDNSOption(COSTS, str(depth).encode())]
        message.add_ar(dnslib.EDNS0(udp_len=EDNS_LIMIT, opts=costs))
        return number, message.pack()
    except (dnslib.DNSError, UnicodeError, ValueError) as error:
        raise BadArguments(f"dns: {query.name} {query.kind}: {error}") from None


def pack_reply(
    request: dnslib.DNSRecord, reply: DnsReply, ports: dict[str, int], costs: str = ""
) -> dnslib.DNSRecord:
    """The answer to a question, with the ports of the nodes that its records lead to."""
    recursive = not reply.authoritative and reply.code in ("NOERROR", "NXDOMAIN", "SERVFAIL")
    message = request.reply(ra=int(recursive), aa=int(reply.authoritative))
    message.header.ad = 0  # nothing here is signed
    message.header.rcode = getattr(dnslib.RCODE, reply.code)
    seen = set()
    for record in reply.answers:
        packed = _packed(record, ports)
        if packed.toZone() not in seen:  # several A records may lead to this machine
            seen.add(packed.toZone())
            message.add_answer(packed)
    message.add_auth(*(_packed(record, ports) for record in reply.authority))
    if any(extra.rtype == dnslib.QTYPE.OPT for extra in request.ar):
        options = [dnslib.EDNSOption(COSTS, costs.encode())] if costs else []
        message.add_ar(dnslib.EDNS0(udp_len=EDNS_LIMIT, opts=options))
    return message


def _packed(record: DnsRecord, ports: dict[str, int]) -> dnslib.RR:
    data: Any
    if record.kind == "SRV":
        data = dnslib.SRV(0, 1, ports.get(record.node, 0), record.value)
    elif record.kind == "A":
        data = dnslib.A(HOST)
    elif record.kind == "TXT":
        data = dnslib.TXT(record.value)
    elif record.kind == "SOA":
        master, mailbox, *times = record.value.split()
        data = dnslib.SOA(master, mailbox, tuple(map(int, times)))
    else:
        data = getattr(dnslib, record.kind)(record.value)  # NS, CNAME: a name
    return dnslib.RR(record.name, getattr(dnslib.QTYPE, record.kind), ttl=record.ttl, rdata=data)


def parsed_reply(message: dnslib.DNSRecord) -> DnsReply:
    """What an answer says."""
    return DnsReply(
        dnslib.RCODE.forward.get(message.header.rcode, "SERVFAIL"),
        tuple(_parsed(record) for record in message.rr),
        tuple(_parsed(record) for record in message.auth),
        bool(message.header.aa),
    )


def _parsed(record: Any) -> DnsRecord:
    value = str(record.rdata.target if record.rtype == dnslib.QTYPE.SRV else record.rdata)
    return DnsRecord(_name(record.rname), dnslib.QTYPE[record.rtype], record.ttl, value.rstrip("."))


def _name(label: Any) -> str:
    return str(label).rstrip(".").lower()


def _costs(message: dnslib.DNSRecord) -> str:
    for extra in message.ar:
        if extra.rtype == dnslib.QTYPE.OPT:
            for option in extra.rdata:
                if option.code == COSTS:
                    return bytes(option.data).decode("ascii", "replace")
    return ""


def _limit(message: dnslib.DNSRecord) -> int:
    """How large a datagram may be for who asks."""
    for extra in message.ar:
        if extra.rtype == dnslib.QTYPE.OPT:
            return min(max(int(extra.rclass), PLAIN_LIMIT), EDNS_LIMIT)
    return PLAIN_LIMIT


# -- asking -------------------------------------------------------------------------------------------------


class DnsLinks:
    """Questions of this process to whatever answers them elsewhere."""

    def __init__(self, process: LocalProcess) -> None:
        self.process = process
        self._sockets: dict[str, _Questions] = {}

    def call(self, task: Task, token: int, to: str, query: DnsQuery, timeout_ns: int) -> None:
        """Ask the node at an address, and resume the task with its answer."""
        process = self.process
        place = process.places.get(to, to)
        ledger = task.ledger
        try:
            questions = self._sockets.get(to)
            if questions is None:
                port = process.http_ports.get(to)
                if port is None:
                    raise Unreachable(f"{to} answers no DNS")
                questions = self._sockets[to] = _Questions(process, port)
            number, data = questions.pack(query, None if ledger is None else task.depth + 1)
        except Failure as failure:
            process.ready.append((process.resume, (task, token, False, failure)))
            return

        def done(size: int, message: dnslib.DNSRecord | None, failure: Failure | None) -> None:
            if size:
                process.count(size, "dns", place)
            if ledger is not None:
                ledger.messages += 1 if failure else 2
                ledger.bytes += len(data) + size
            if failure is not None or message is None:
                # It may be another question's turn now: this one's comes after it.
                process.ready.append((process.resume, (task, token, False, failure)))
                return
            costs = _costs(message).split(",")
            if ledger is not None and len(costs) == 3:
                ledger.messages += int(costs[0])
                ledger.bytes += int(costs[1])
                task.depth = max(task.depth, int(costs[2]))
            # As with HTTP, the link back is disturbed here; a lost answer is waited for in vain.
            process.carry(
                place, process.name, process.event, process.resume, task, token, True, parsed_reply(message)
            )

        def expire() -> None:
            questions.waiting.pop(number, None)
            process.resume(task, token, False, Timeout("dns was not answered in time"))

        def send() -> None:
            process.count(len(data), "dns", place)
            questions.ask(number, data, done)

        process.timers.at(time.monotonic_ns() + timeout_ns, expire)
        process.carry(process.name, place, send)

    async def close(self) -> None:
        """Close all sockets."""
        for questions in self._sockets.values():
            questions.close()


Done = Callable[[int, "dnslib.DNSRecord | None", "Failure | None"], None]


class _Questions:
    """A socket on which one name server is asked, and what was not answered yet."""

    def __init__(self, process: LocalProcess, port: int) -> None:
        self.process = process
        self.port = port
        self.waiting: dict[int, tuple[bytes, Done]] = {}
        self.open()

    def open(self) -> None:
        """Have a socket from which the server is asked, and its answers are read."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect((HOST, self.port))  # so that nobody else's datagrams are taken for answers
        self.process.loop.add_reader(self.socket.fileno(), self.process.event, self.read)

    def pack(self, query: DnsQuery, depth: int | None) -> tuple[int, bytes]:
        while True:
            number, data = pack_query(query, depth)
            if number not in self.waiting:
                return number, data

    def ask(self, number: int, data: bytes, done: Done) -> None:
        try:
            self.socket.send(data)
        except ConnectionRefusedError:  # what earlier questions met; this one was not sent
            self.refused(*self.waiting)
            with contextlib.suppress(OSError):
                self.socket.send(data)
        except OSError:
            pass  # no room for it: it is lost, as datagrams are
        self.waiting[number] = data, done

    def read(self) -> None:
        for _ in range(100):  # others want to be served too
            try:
                data = self.socket.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionRefusedError:
                self.refused(*self.waiting)
                return
            except OSError:
                return
            self.take(data)

    def refused(self, *numbers: int) -> None:
        """Nobody listens there.  The socket is given up: libuv watches none that has had an error."""
        self.close()
        self.open()
        for number in numbers:
            _, done = self.waiting.pop(number)
            done(0, None, Unreachable("nobody answers DNS there"))

    def take(self, data: bytes) -> None:
        """A datagram: the answer to what is waited for, or junk."""
        try:
            message = dnslib.DNSRecord.parse(data)
            question = dnslib.DNSRecord.parse(self.waiting[message.header.id][0])
            if not message.header.qr or message.q != question.q:
                raise ValueError("the answer to another question")
        except Exception as error:  # dnslib raises what it meets
            self.process.complain(f"dns: {type(error).__name__}: {error}")
            return
        sent, done = self.waiting.pop(message.header.id)
        if message.header.tc:  # it did not fit: ask again where it does
            self.process.keep(self.ask_by_tcp(sent, done))
        else:
            done(len(data), message, None)

    async def ask_by_tcp(self, data: bytes, done: Done) -> None:
        try:
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                writer.write(len(data).to_bytes(2, "big") + data)
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = await reader.readexactly(size)
                writer.close()
                message = dnslib.DNSRecord.parse(answer)
        except (OSError, EOFError, TimeoutError, dnslib.DNSError) as error:
            broken = Broken(f"dns by TCP: {type(error).__name__}")
            self.process.event(done, 0, None, broken)
        else:
            self.process.event(done, size, message, None)

    def close(self) -> None:
        self.process.loop.remove_reader(self.socket.fileno())
        self.socket.close()


# -- being asked --------------------------------------------------------------------------------------------


class DnsCaller(Caller):
    """Whoever asked by DNS."""

    __slots__ = ("accounted", "request", "respond")

    def __init__(
        self, request: dnslib.DNSRecord, respond: Callable[[dnslib.DNSRecord], None], accounted: bool
    ) -> None:
        self.request = request
        self.respond = respond
        self.accounted = accounted

    def answer(self, task: Task, reply: Any) -> None:
        """Answer with the handler's reply."""
        costs = ""
        if self.accounted and task.ledger is not None:
            costs = f"{task.ledger.messages},{task.ledger.bytes},{task.depth + 1}"
        try:
            message = pack_reply(self.request, reply, task.env.process.http_ports, costs)
            message.pack()
        except Exception as error:  # a record of the node's that is none
            task.env.bug(error)
            message = pack_reply(self.request, DnsReply("SERVFAIL"), {})
        self.respond(message)

    def fail(self, error: Failure) -> None:
        """Answer that it could not be found out."""
        code = "FORMERR" if error.code == "bad-arguments" else "SERVFAIL"
        self.respond(pack_reply(self.request, DnsReply(code), {}))


class DnsServer:
    """Answers for one node, on UDP and TCP at the same port."""

    def __init__(self, env: LocalEnv, port: int) -> None:
        self.env = env
        self.port = port
        self.streams: set[_Stream] = set()

    async def start(self) -> None:
        """Listen; OSError if the port is in use."""
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(HOST, self.port)
        )
        try:
            self._tcp = await loop.create_server(lambda: _Stream(self), HOST, self.port)
        except OSError:
            self._udp.close()
            raise

    async def close(self, grace: float) -> None:
        """Close all sockets."""
        self._udp.close()
        self._tcp.close()
        for stream in list(self.streams):
            stream.transport.abort()

    def handle(self, data: bytes, respond: Callable[[dnslib.DNSRecord], None]) -> None:
        """A message has come: a question, or something else that is said no to, or junk."""
        env = self.env
        try:
            request = dnslib.DNSRecord.parse(data)
            name = _name(request.q.qname) if request.questions else ""
            account = _costs(request)
        except Exception as error:  # dnslib raises what it meets
            env.process.complain(f"{env.address}: no DNS: {type(error).__name__}: {error}")
            if len(data) >= 12 and not data[2] & 0x80:
                respond(_malformed(data))
            return
        if request.header.qr:
            return  # an answer, to which there is none
        code = ""
        if request.header.opcode != dnslib.OPCODE.QUERY:
            code = "NOTIMP"
        elif len(request.questions) != 1:
            code = "FORMERR"
        elif request.q.qclass != dnslib.CLASS.IN or request.q.qtype in _TRANSFERS:
            code = "REFUSED"
        options = [extra for extra in request.ar if extra.rtype == dnslib.QTYPE.OPT]
        if len(options) > 1:
            code = "FORMERR"
        elif options and options[0].ttl >> 16 & 255:
            respond(_bad_version(request))
            return
        if code:
            respond(pack_reply(request, DnsReply(code), {}))
            return
        query = DnsQuery(name, dnslib.QTYPE[request.q.qtype])
        depth = int(account) if account.isdigit() else 0

        def handle() -> None:
            task = Task(env, env.node.dns(query), Ledger() if account else None, depth)
            task.caller = DnsCaller(request, respond, bool(account))
            task.resume()

        if env.inbox is not None:
            env.inbox.append(handle)  # until the node has started
        else:
            env.process.event(handle)


def _malformed(data: bytes) -> dnslib.DNSRecord:
    message = dnslib.DNSRecord(dnslib.DNSHeader(id=int.from_bytes(data[:2], "big"), qr=1))
    message.header.rcode = dnslib.RCODE.FORMERR
    return message


def _bad_version(request: dnslib.DNSRecord) -> dnslib.DNSRecord:
    """BADVERS: there is no other version of EDNS here than 0 (RFC 6891, section 6.1.3)."""
    message = request.reply(ra=0, aa=0)
    message.add_ar(dnslib.EDNS0(udp_len=EDNS_LIMIT, ext_rcode=1))
    return message


def _truncated(message: dnslib.DNSRecord) -> dnslib.DNSRecord:
    """The question alone, and the word that the answer is to be fetched by TCP."""
    message.header.tc = 1
    return dnslib.DNSRecord(message.header, message.questions, ar=message.ar)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        def respond(message: dnslib.DNSRecord) -> None:
            if not self.transport.is_closing():
                packed = message.pack()
                if len(packed) > limit:
                    packed = _truncated(message).pack()
                self.transport.sendto(packed, sender)

        try:
            limit = _limit(dnslib.DNSRecord.parse(data))
        except Exception:  # junk, which `handle` knows how to answer
            limit = PLAIN_LIMIT
        self.server.handle(data, respond)


class _Stream(asyncio.Protocol):
    """A TCP connection: messages, each behind its length of two bytes."""

    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.server.streams.add(self)
        self.clock = asyncio.get_running_loop().call_later(IDLE, transport.close)
        if len(self.server.streams) > CONNECTIONS:
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.server.streams.discard(self)
        self.clock.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 2:
            size = int.from_bytes(self.buffer[:2], "big")
            if len(self.buffer) < 2 + size:
                return
            message, self.buffer = self.buffer[2 : 2 + size], self.buffer[2 + size :]
            # Only whole questions keep it open.
            self.clock.cancel()
            self.clock = asyncio.get_running_loop().call_later(IDLE, self.transport.close)
            self.server.handle(message, self.respond)

    def respond(self, message: dnslib.DNSRecord) -> None:
        if not self.transport.is_closing():
            packed = message.pack()
            self.transport.write(len(packed).to_bytes(2, "big") + packed)
            if self.transport.get_write_buffer_size() > UNREAD:
                self.transport.abort()
