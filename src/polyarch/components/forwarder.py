"""The transport-layer switch: connections of clients, forwarded byte by byte to one of several servers.

    python -m polyarch.components.forwarder FILE

``FILE`` is JSON, see ``Settings``; SIGHUP reads it again: a server that is no longer in it gets no new
connections and keeps those that it has.  SIGTERM drains: nobody is let in, and it ends with its last
connection, or after ``drain_seconds``.

The loop is epoll and plain sockets: each end of a connection is a descriptor, with the other one as its
*peer*.  What can be read there is read and at once written here.  What the peer does not take is kept
(``unsent``), and nothing more is read before it is gone, so a slow client holds up its own server and no more
than one buffer of memory.  An end of stream is handed on as such: half-open connections work.  A reset is
handed on as a reset: a response that breaks off must not look like one that has ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec

from polyarch.blocks.balancing import PolicyName, balancer
from polyarch.components import proxy_protocol
from polyarch.core.randomness import Random

__all__ = ["Forwarder", "Settings"]

BUFFER = 64 << 10
ACCEPTED_AT_ONCE = 64
SPARE = 32
"""File descriptors that are for something else than connections and checks."""
_READ, _WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds: close with a reset
_AGAIN = (errno.EAGAIN, errno.EINTR)


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What the forwarder is to do."""

    listen: str
    """``host:port``"""
    backends: list[str]
    """``host:port`` of each server."""
    policy: PolicyName = "round_robin"
    weights: dict[str, float] = {}
    choices: int = 2
    bound: float = 1.25
    affinity: Literal["connection", "client"] = "connection"
    """What hashing policies look at: the client's address and port, as routers do, or only its address: then
    all its connections have one server."""
    send_proxy: int = 0
    """Version of the PROXY header that servers are sent; 0: none."""
    accept_proxy: bool = False
    """Whether clients send one."""
    connect_seconds: float = 1.0
    """Until a server must have accepted; then the next one is tried."""
    header_seconds: float = 5.0
    """Until a client must have sent its PROXY header."""
    idle_seconds: float = 300.0
    """After which a connection is cut on which nothing moves in either direction."""
    half_open_seconds: float = 30.0
    """The same, once one side has finished sending."""
    check_seconds: float = 0.5
    """How often each server is connected to, to see whether it is well; 0: never."""
    shun_seconds: float = 0.5
    """How long a server is left alone that could not be reached; one that failed a check, until it passes."""
    drain_seconds: float = 10.0
    most: int = 20_000
    """Connections at a time, and no more than there are file descriptors for; beyond it clients wait in the
    listener's backlog."""
    processes: int = 1
    """That share the port (SO_REUSEPORT)."""


class End:
    """One socket of a forwarded connection."""

    __slots__ = ("backend", "client", "closed_read", "closed_write", "fd", "key", "mask", "moved", "peer",
                 "recv", "send", "sock", "state", "tried", "unsent")  # fmt: skip

    def __init__(self, sock: socket.socket, client: bool, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv, self.send = sock.recv, sock.send
        self.client = client
        self.peer: End | None = None
        self.unsent = b""
        """What this socket has not taken yet."""
        self.mask = 0
        self.closed_read = self.closed_write = False
        self.state = "open"
        """``header``: of the client, waited for; ``connecting``: to a server."""
        self.moved = now
        self.backend = ""
        self.key = ""
        """Of a client: what hashing policies look at."""
        self.tried: list[str] = []


class Forwarder:
    """The loop and all connections."""

    def __init__(self, settings: Settings, file: Path | None = None) -> None:
        self.file = file
        self.ends: dict[int, End] = {}
        self.checks: dict[int, tuple[socket.socket, str, float]] = {}
        self.load: dict[str, int] = {}
        self.shunned: dict[str, float] = {}
        self.connections = 0
        self.accepting = False
        self.draining = 0.0
        self.now = time.monotonic()
        self.epoll = select.epoll()
        self.orders: list[int] = []
        """Signals that have come: they are followed between two events, and not in the middle of one."""
        self.bell, self.rope = socket.socketpair()
        for sock in (self.bell, self.rope):
            sock.setblocking(False)
        self.epoll.register(self.bell, select.EPOLLIN)
        self.configure(settings)
        host, _, port = settings.listen.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.processes > 1:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.bind((host.strip("[]"), int(port)))
        self.listener.listen(1024)
        self.listener.setblocking(False)
        self.accept_more(True)

    def configure(self, settings: Settings) -> None:
        """At first, and when the servers change; all of it or, if it makes no sense (ValueError), nothing."""
        chooses = balancer(
            settings.policy, Random(time.monotonic_ns()), settings.weights, choices=settings.choices,
            bound=settings.bound,
        )  # fmt: skip
        chooses.members(settings.backends)
        self.balancer = chooses
        self.settings = settings
        self.backends = tuple(settings.backends)
        self.most = settings.most
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files != resource.RLIM_INFINITY:
            self.most = max(1, min(self.most, (files - SPARE - len(self.backends)) // 2))
        for backend in self.backends:
            self.load.setdefault(backend, 0)
        self.load = {b: n for b, n in self.load.items() if n or b in self.backends}
        self.shunned = {b: until for b, until in self.shunned.items() if b in self.backends}

    def reload(self) -> None:
        if self.file is not None:
            try:
                self.configure(msgspec.json.decode(self.file.read_bytes(), type=Settings))
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                sys.stderr.write(f"the settings stay as they were: {error}\n")

    def follow_orders(self) -> None:
        """SIGHUP: look at the settings again; others: end."""
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(100)
        orders, self.orders = self.orders, []
        for order in orders:
            if order == signal.SIGHUP:
                self.reload()
            else:
                self.drain()

    def drain(self) -> None:
        """Let nobody in, and end with the last connection."""
        if not self.draining:
            self.draining = time.monotonic() + self.settings.drain_seconds
            self.accept_more(False)
            self.listener.close()

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until drained."""
        next_look = 0.0
        listener, ends, poll = self.listener.fileno(), self.ends, self.epoll.poll
        bell = self.bell.fileno()
        while not self.draining or (self.ends and self.now < self.draining):
            events = poll(0.1)
            self.now = now = time.monotonic()
            for fd, event in events:
                end = ends.get(fd)
                if end is None:
                    if fd == listener and self.accepting:
                        self.accept()
                    elif fd in self.checks:
                        self.checked(fd)
                    elif fd == bell:
                        self.follow_orders()
                    continue
                if event & _WRITE:
                    self.writable(end)
                    if event == _WRITE or ends.get(fd) is not end:
                        continue
                self.readable(end)  # errors come up there too
            if now >= next_look:
                next_look = now + 0.1
                self.look(now)

    def readable(self, end: End) -> None:
        """The fast path: what has come goes straight out on the other side."""
        if end.state != "open":
            if end.state == "header":
                self.header(end)
            else:
                self.connected(end)
            return
        try:
            data = end.recv(BUFFER)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.reset(end)
            return
        peer = end.peer
        end.moved = self.now
        if not data:
            self.finished(end)
            return
        if peer is None or peer.state != "open" or peer.unsent:
            if peer is not None:  # it hung up while we did not read: what it has said goes out yet
                peer.unsent += data
            return
        try:
            sent = peer.send(data)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.reset(peer)
                return
            sent = 0
        if sent < len(data):
            peer.unsent = data[sent:]
            self.watch(end, 0)
            self.watch(peer, peer.mask | _WRITE)

    def writable(self, end: End) -> None:
        """There is room again: what is left goes out, then the other side is read again."""
        if end.state == "connecting":
            self.connected(end)
            return
        if end.unsent:
            try:
                sent = end.send(end.unsent)
            except OSError as error:
                if error.errno not in _AGAIN:
                    self.reset(end)
                return
            end.moved = self.now
            end.unsent = end.unsent[sent:]
            if end.unsent:
                return
        self.watch(end, end.mask & ~_WRITE)
        peer = end.peer
        if peer is None:
            self.close(end)
        elif peer.closed_read:
            self.shut(end)
        else:
            self.watch(peer, peer.mask | _READ)

    def finished(self, end: End) -> None:
        """One side has said all: the other is told, when it has taken what came before."""
        end.closed_read = True
        # Once both directions are shut epoll would say so for ever: it may say it once.
        self.watch(end, end.mask & ~_READ | select.EPOLLONESHOT)
        peer = end.peer
        if peer is not None and peer.state == "open" and not peer.unsent:
            self.shut(peer)

    def shut(self, end: End) -> None:
        """Tell this side that nothing more comes; close both when both have finished."""
        if not end.closed_write:
            end.closed_write = True
            try:
                end.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.reset(end)
                return
        peer = end.peer
        if end.closed_read and (peer is None or peer.closed_write):
            self.close(end)

    def watch(self, end: End, mask: int) -> None:
        if mask != end.mask:
            end.mask = mask
            self.epoll.modify(end.fd, mask)

    def close(self, end: End, *, abruptly: bool = False) -> None:
        """Both sides of a connection."""
        for one in (end, end.peer):
            if one is None or self.ends.get(one.fd) is not one:
                continue
            del self.ends[one.fd]
            self.connections -= one.client
            if one.backend:
                self.load[one.backend] -= 1
            if abruptly:
                one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.sock.close()
        end.peer = None
        if not self.accepting and not self.draining and self.connections < self.most:
            self.accept_more(True)

    def reset(self, end: End) -> None:
        """One side was cut off: so is the other."""
        self.close(end, abruptly=True)

    # -- opening --------------------------------------------------------------------------------------------

    def accept_more(self, more: bool) -> None:
        if more != self.accepting:
            self.accepting = more
            if more:
                self.epoll.register(self.listener, select.EPOLLIN)
            else:
                self.epoll.unregister(self.listener)

    def accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self.connections >= self.most:
                self.accept_more(False)
                return
            try:
                sock, _ = self.listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self.accept_more(False)  # until a connection is closed, or the next look
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who vanished is found out
            client = End(sock, True, self.now)
            self.connections += 1
            self.ends[client.fd] = client
            if self.settings.accept_proxy:
                client.state = "header"
                client.mask = _READ
                self.epoll.register(client.fd, client.mask)
            else:
                self.epoll.register(client.fd, 0)
                self.connect(client, b"")

    def header(self, client: End) -> None:
        """The PROXY header of a client: no more of it is read than belongs to it and what came with it."""
        try:
            data = client.recv(BUFFER)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.reset(client)
            return
        client.unsent += data
        try:
            found = proxy_protocol.parse(client.unsent) if data else None
        except proxy_protocol.BadHeader:
            self.reset(client)
            return
        if found is not None:
            rest, client.unsent = client.unsent[found[1] :], b""
            client.state = "open"
            self.watch(client, 0)
            self.connect(client, rest, found[0])
        elif not data or len(client.unsent) > proxy_protocol.LONGEST:
            self.reset(client)

    def connect(self, client: End, data: bytes, said: proxy_protocol.Proxied | None = None) -> None:
        """Open the other side, to a server by the policy; ``data`` is what it is sent first."""
        if self.settings.send_proxy or self.balancer.keyed:
            try:
                source, own = client.sock.getpeername()[:2], client.sock.getsockname()[:2]
            except OSError:  # it has gone already
                self.reset(client)
                return
            if said is not None and said.source:
                source, own = (said.source, said.source_port), (said.destination, said.destination_port)
            client.key = source[0] if self.settings.affinity == "client" else f"{source[0]} {source[1]}"
        if self.settings.send_proxy:
            data = proxy_protocol.encode(source, own, self.settings.send_proxy) + data
        self.try_next(client, data)

    def try_next(self, client: End, data: bytes) -> None:
        """Connect to one server that was not tried; reset the client if there is none."""
        while True:
            backend = self.choose(client)
            if not backend:
                self.reset(client)
                return
            client.tried.append(backend)
            try:
                sock, connecting = towards(backend)
            except OSError:  # no descriptor is left: that is not the server's fault
                self.reset(client)
                return
            if connecting:
                break
            sock.close()
            self.ill(backend)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        server = End(sock, False, self.now)
        server.backend, server.state, server.unsent = backend, "connecting", data
        server.peer, client.peer = client, server
        self.load[backend] += 1
        self.ends[server.fd] = server
        server.mask = _WRITE
        self.epoll.register(server.fd, server.mask)

    def choose(self, client: End) -> str:
        left = [b for b in self.backends if b not in client.tried] if client.tried else self.backends
        usable = [b for b in left if self.shunned.get(b, 0.0) <= self.now] if self.shunned else left
        usable = usable or left
        if not usable:
            return ""
        return self.balancer.pick(usable, self.load, client.key)

    def connected(self, server: End) -> None:
        """A server has accepted, or has not."""
        client = server.peer
        assert client is not None
        if server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.refused(server)
            return
        try:
            server.sock.getpeername()
        except OSError:
            return  # not yet: the event was of a socket that had this number before
        self.shunned.pop(server.backend, None)
        server.state = "open"
        server.moved = self.now
        self.watch(server, _READ | _WRITE if server.unsent or client.closed_read else _READ)
        if not server.unsent and not client.closed_read:
            self.watch(client, _READ)
        elif server.unsent:
            self.writable(server)

    def refused(self, server: End) -> None:
        """Nothing has reached it: another one may have the client, and what the client has sent."""
        client, data = server.peer, server.unsent
        assert client is not None
        del self.ends[server.fd]
        self.load[server.backend] -= 1
        server.sock.close()
        self.ill(server.backend)
        self.try_next(client, data)

    def ill(self, backend: str) -> None:
        self.shunned[backend] = max(self.shunned.get(backend, 0.0), self.now + self.settings.shun_seconds)

    def failed_check(self, backend: str) -> None:
        """Left alone until the next check has found it well."""
        settings = self.settings
        self.shunned[backend] = self.now + 2 * settings.check_seconds + 2 * settings.connect_seconds

    # -- now and then ---------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Who takes too long?"""
        settings = self.settings
        if not self.accepting and not self.draining and self.connections < self.most:
            self.accept_more(True)
        for end in list(self.ends.values()):
            if end.client and end.state == "header":
                if now - end.moved > settings.header_seconds:
                    self.reset(end)
            elif end.state == "connecting":
                if now - end.moved > settings.connect_seconds:
                    self.refused(end)
            elif end.client and end.peer is not None and self.ends.get(end.fd) is end:
                half = end.closed_read or end.peer.closed_read
                limit = settings.half_open_seconds if half else settings.idle_seconds
                if now - max(end.moved, end.peer.moved) > limit:
                    self.reset(end)
        if settings.check_seconds and not self.draining:
            for fd, (sock, backend, since) in list(self.checks.items()):
                if now - since > settings.connect_seconds:
                    del self.checks[fd]
                    sock.close()
                    self.failed_check(backend)
            if now >= getattr(self, "_next_check", 0.0):
                self._next_check = now + settings.check_seconds
                self.check(now)

    def check(self, now: float) -> None:
        under = {backend for _, backend, _ in self.checks.values()}
        for backend in self.backends:
            if backend in under:
                continue
            try:
                sock, connecting = towards(backend)
            except OSError:  # no descriptor is left
                return
            if connecting:
                self.checks[sock.fileno()] = (sock, backend, now)
                self.epoll.register(sock.fileno(), _WRITE)
            else:
                sock.close()
                self.failed_check(backend)

    def checked(self, fd: int) -> None:
        sock, backend, _ = self.checks.pop(fd)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.failed_check(backend)
        else:
            self.shunned.pop(backend, None)
        sock.close()


def towards(backend: str) -> tuple[socket.socket, bool]:
    """A socket that connects to ``host:port``, and whether it does.  OSError when there can be no more."""
    host, _, port = backend.rpartition(":")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock, sock.connect_ex((host.strip("[]"), int(port))) in (0, errno.EINPROGRESS)


def main(path: str) -> None:
    """Run until SIGTERM."""
    file = Path(path)
    # Two descriptors for each connection: the usual 1,024 are for whoever uses select(2), which we do not.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings = msgspec.json.decode(file.read_bytes(), type=Settings)
    children: list[int] = []
    for _ in range(settings.processes - 1):
        child = os.fork()
        if not child:
            children = []
            break
        children.append(child)
    forwarder = Forwarder(settings, file)

    def tell(number: int, _: object) -> None:
        for child in children:
            os.kill(child, number)
        forwarder.orders.append(number)
        with contextlib.suppress(BlockingIOError):  # it rings already
            forwarder.rope.send(b"!")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, tell)
    forwarder.run()
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
