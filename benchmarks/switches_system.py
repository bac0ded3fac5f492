"""The system that `switches.py` measures: one backend, and every switch that is installed before it.

The backend answers the same few bytes to whatever it reads; it is an epoll loop of its own process, as cheap
as Python can do it, so that the switches are what takes time.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from polyarch.blocks.switch import Switch
from polyarch.components.base import Component as LiveComponent
from polyarch.components.base import accepts_connections, find_program
from polyarch.components.declared import Caddy, TransportSwitch
from polyarch.components.traefik import TraefikServer
from polyarch.core import Architecture, Http, Node, Request, Response, System
from polyarch.core.node import Env
from polyarch.core.system import Component

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + b"x" * 100


def serve(port: int) -> None:
    """The backend: an answer for every read (clients have one request at a time on a connection)."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_now: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            sock = open_now.get(fd)
            if sock is None:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                open_now[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                continue
            try:
                data = sock.recv(65536)
                if data:
                    sock.send(ANSWER)
                    continue
            except OSError:
                pass
            del open_now[fd]
            sock.close()


class Stub(Http):
    """Stands for what has no simulation here."""

    async def http(self, request: Request) -> Response:
        return Response(200)


class _Part(Component):
    """A live part that is reached over HTTP."""

    def simulated(self) -> Node:
        return Stub()

    def attach(self, env: Env) -> Any:
        raise TypeError("nobody is wired to this")

    def attach_live(self, env: Env, address: str) -> Any:
        return self.attach(env)


class BackendServer(LiveComponent):
    name = "backend"

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        return [sys.executable, __file__, str(self.port)]


class Backend(_Part):
    def server(self, http_ports: Mapping[str, int]) -> Any:
        return BackendServer()


class HAProxyServer(LiveComponent):
    """HAProxy, with as many threads as it likes."""

    name = "haproxy"

    def __init__(self, upstream: str, mode: str) -> None:
        super().__init__()
        self.upstream = upstream
        self.mode = mode

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        config = self.folder / "haproxy.cfg"
        reuse = "  http-reuse always\n" if self.mode == "http" else ""
        config.write_text(
            f"defaults\n  mode {self.mode}\n  timeout connect 2s\n  timeout client 60s\n"
            f"  timeout server 60s\n{reuse}"
            f"listen switch\n  bind {self.address}\n  balance leastconn\n  server a {self.upstream} check\n"
        )
        return [find_program("haproxy", "haproxy (not a wheel)"), "-db", "-f", config]


class HAProxy(_Part):
    after_nodes = True

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def server(self, http_ports: Mapping[str, int]) -> Any:
        return HAProxyServer(f"127.0.0.1:{http_ports['backend-0']}", self.mode)


class Traefik(_Part):
    after_nodes = True

    def __init__(self, layer: Literal["tcp", "http"]) -> None:
        self.layer = layer

    def server(self, http_ports: Mapping[str, int]) -> Any:
        return TraefikServer([f"127.0.0.1:{http_ports['backend-0']}"], layer=self.layer)


OTHERS: dict[str, Callable[[], Component]] = {
    "caddy": lambda: Caddy(("backend-0",), "least_connections"),
    "haproxy_tcp": lambda: HAProxy("tcp"),
    "haproxy_http": lambda: HAProxy("http"),
    "traefik_tcp": lambda: Traefik("tcp"),
    "traefik_http": lambda: Traefik("http"),
}
"""Whom ours are measured beside: program, and layer if it has two."""


def installed(other: str) -> bool:
    """Whether the program of one of the others is on this machine."""
    program = other.partition("_")[0]
    return bool(shutil.which(program)) or (Path(sys.executable).parent / program).is_file()


class Switches(Architecture):
    """A backend, and the switches before it; only one of them is used at a time."""

    name = "switches-benchmark"
    family = "benchmark"
    jobs = ()

    def build(self, system: System) -> None:
        cores = len(os.sched_getaffinity(0))  # as HAProxy, Caddy and Traefik have threads
        system.component("backend", Backend())
        backends = ("backend-0",)
        system.role("application", Switch(backends=backends, policy="least_connections"))
        system.component("transport", TransportSwitch(backends, "least_connections", processes=cores))
        for other, make in OTHERS.items():
            if installed(other):
                system.component(other, make())
        system.clients(Node())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
