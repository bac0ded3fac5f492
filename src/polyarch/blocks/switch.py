"""An application-layer switch: spreads HTTP requests over several servers.

It tries another server only if the first was certainly not reached: whatever else fails may have happened,
and only its client knows whether it may be asked for twice.  Health is passive: a server that could not
be reached, or did not answer, is left alone for a while, unless there is no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from polyarch.core import Http, Request, Response, Timeout, Unreachable

__all__ = ["Policy", "Switch"]

Policy = Literal["random", "round_robin", "least_connections", "two_choices"]
"""Which server gets a request: any; the next; the one with the fewest requests under way; the less busy of
two drawn at random (Mitzenmacher, "The power of two choices", IEEE TPDS 12(10), 2001)."""


class Switch(Http):
    """Passes each request to one of its backends."""

    timeout = 5.0
    backends: tuple[str, ...]
    """Addresses of nodes that speak HTTP."""
    policy: Policy = "round_robin"
    shun_seconds: float = 0.5
    """How long a backend is left alone that could not be reached or did not answer."""
    backend_seconds: float = 4.5
    """How long a backend may take for its answer."""

    async def start(self) -> None:
        self.under_way = dict.fromkeys(self.backends, 0)
        self.shunned_until = dict.fromkeys(self.backends, 0.0)
        self.turn = 0

    async def http(self, request: Request) -> Response:
        tried: set[str] = set()
        while len(tried) < len(self.backends):
            backend = self.pick([b for b in self.backends if b not in tried])
            tried.add(backend)
            self.under_way[backend] += 1
            try:
                return await self.at(backend, Http, timeout=self.backend_seconds).http(request)
            except Unreachable:
                self.shunned_until[backend] = self.now + self.shun_seconds
            except Timeout:
                self.shunned_until[backend] = self.now + self.shun_seconds
                raise
            finally:
                self.under_way[backend] -= 1
        raise Unreachable("no backend can be reached")

    def pick(self, backends: Sequence[str]) -> str:
        """One of these by the policy, among those that are well if there are any."""
        well = [b for b in backends if self.shunned_until[b] <= self.now] or list(backends)
        if self.policy == "round_robin":
            self.turn += 1
            return well[self.turn % len(well)]
        if self.policy == "least_connections":
            # Ties are broken at random: in order, the first would get all there is at low load.
            least = min(self.under_way[b] for b in well)
            return self.random.choice([b for b in well if self.under_way[b] == least])
        if self.policy == "two_choices" and len(well) > 1:
            return min(self.random.sample(well, 2), key=self.under_way.__getitem__)
        return self.random.choice(well)
