"""Our transport-layer switch (``components/forwarder.py``) as a component: a process that forwards bytes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyarch.blocks.balancing import PolicyName
from polyarch.components.base import Component, accepts_connections
from polyarch.components.forwarder import Settings

__all__ = ["TransportSwitchServer"]


class TransportSwitchServer(Component):
    """Forwards TCP connections on loopback.

    A server that does not accept is not seen by the client: the next one gets the connection.  What breaks
    later breaks the client's connection too: which of its bytes were understood nobody knows.  If no server
    accepts, the client's connection is reset."""

    name = "transport_switch"

    def __init__(
        self,
        upstreams: Sequence[str],
        *,
        policy: PolicyName = "round_robin",
        weights: Mapping[str, float] | None = None,
        port: int | None = None,
        **settings: Any,
    ) -> None:
        """``upstreams`` are ``host:port``; ``settings``: others of ``forwarder.Settings``."""
        super().__init__(port=port)
        self.settings = Settings("", list(upstreams), policy, dict(weights or {}), **settings)
        if not upstreams:
            raise ValueError("a switch needs at least one server")

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    async def change(self, upstreams: Sequence[str]) -> None:
        """Servers have joined or left.  Those that left keep the connections that they have."""
        self.settings.backends = list(upstreams)
        self._write()
        if self._process is not None and not self._process.exited:
            await self._process.kill(signal.SIGHUP)

    async def drain(self) -> None:
        """Let nobody in any more, and end with the last connection."""
        if self._process is not None and not self._process.exited:
            await self._process.kill(signal.SIGTERM)

    def _write(self) -> None:
        self.settings.listen = self.address
        # Whole or not at all: the switch may be reading.
        new = self.folder / "switch.new"
        new.write_bytes(msgspec.json.encode(self.settings))
        new.replace(self.folder / "switch.json")

    def _command(self) -> list[str | Path]:
        self._write()
        return [sys.executable, "-m", "polyarch.components.forwarder", self.folder / "switch.json"]
