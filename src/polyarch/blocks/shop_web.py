"""The shop's edges: its clients, and the presentation tier, which holds no logic."""

from __future__ import annotations

from polyarch.blocks.relay import relaying
from polyarch.blocks.shop import Orchestrator
from polyarch.core import Http, Over, Web
from polyarch.jobs.shop import Shop

__all__ = ["Front", "RemoteFront", "ShopClient"]


class ShopClient(relaying(Shop)):  # type: ignore[misc]
    """A client, as a browser would be: asks the front over HTTP."""

    timeout = 6.0
    front: Http

    async def start(self) -> None:
        self.behind = Over(Shop, self.front)


class Front(relaying(Shop), Web):  # type: ignore[misc]
    """The presentation tier: HTTP and JSON outside, typed messages inside."""

    title = "A shop"
    behind: Orchestrator


class RemoteFront(relaying(Shop), Web):  # type: ignore[misc]
    """The presentation tier where a switch stands between it and the logic: HTTP on both sides."""

    title = "A shop"
    switch: Http

    async def start(self) -> None:
        self.behind = Over(Shop, self.switch)
