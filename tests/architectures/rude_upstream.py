"""Our application switch before an upstream of bad manners, for ``test_switches.py``."""

from __future__ import annotations

import socketserver
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyarch.blocks.switch import Switch
from polyarch.components.base import Component as LiveComponent
from polyarch.components.base import accepts_connections
from polyarch.core import Architecture, Http, Node, Request, Response, System
from polyarch.core.node import Env
from polyarch.core.system import Component


class Rude(socketserver.StreamRequestHandler):
    """``/die``: half an answer; ``/garbage``: none at all; else the path."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            path = line.split()[1]
            while self.rfile.readline().strip():
                pass
            if path == b"/die":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")
                return
            if path == b"/garbage":
                self.wfile.write(b"what did you say?\r\n\r\n")
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


class Server(LiveComponent):
    name = "rude"

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        return [sys.executable, __file__, str(self.port)]


class Upstream(Component):
    def simulated(self) -> Node:
        return Polite()

    def attach(self, env: Env) -> Any:
        raise TypeError("nobody is wired to this")

    def attach_live(self, env: Env, address: str) -> Any:
        return self.attach(env)

    def server(self, http_ports: Mapping[str, int]) -> Any:
        return Server()


class Polite(Http):
    async def http(self, request: Request) -> Response:
        return Response(200)


class RudeUpstream(Architecture):
    """The switch and the upstream."""

    name = "rude-upstream"
    family = "test"
    jobs = ()

    def build(self, system: System) -> None:
        system.component("rude", Upstream())
        system.role("switch", Switch(backends=("rude-0",), shun_seconds=0.05))
        system.clients(Node())


if __name__ == "__main__":

    class Threads(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    Threads(("127.0.0.1", int(sys.argv[1])), Rude).serve_forever()
