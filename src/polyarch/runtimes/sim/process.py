"""Simulated processes: what crashes and pauses, and what a host's cores and clock are."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from polyarch.runtimes.base import EXPERIMENTER
from polyarch.runtimes.sim.threads import Sharing

if TYPE_CHECKING:
    from polyarch.runtimes.sim.kernel import Kernel
    from polyarch.runtimes.sim.nodes import SimEnv
    from polyarch.runtimes.sim.threads import Doing

__all__ = ["SimProcess"]


class SimProcess:
    """One operating-system process of the simulated system: the unit of crashing and pausing, on a host
    of its own with ``cores``."""

    __slots__ = (
        "arrivals",
        "backlog",
        "beside",
        "busy_ns",
        "cores",
        "cost_ns",
        "drift",
        "envs",
        "kernel",
        "link_free",
        "name",
        "offset",
        "paused",
        "region",
        "restarted",
        "role",
        "sharing",
        "up",
        "zone",
    )

    def __init__(
        self, kernel: Kernel, name: str, role: str, cores: int, cost_ns: int, region: int, zone: int
    ) -> None:
        self.kernel = kernel
        self.name = name
        self.role = role
        self.region = region
        self.zone = zone
        self.up = False
        self.cost_ns = cost_ns
        """Core time that each message handled here takes (``DetailedEnv``)."""
        self.cores = [0] * cores
        """When each core is free, as a heap."""
        self.busy_ns = 0
        self.sharing: Sharing | None = None
        """How threads share the cores, if there are any."""
        self.beside = name == EXPERIMENTER
        """Beside the system: its messages are neither disturbed nor counted."""
        self.arrivals: dict[SimProcess, int] = {}
        """When the last message to each other process arrives: links keep their order."""
        self.link_free = 0
        """When the outgoing link has sent what was given to it."""
        self.offset = 0.0
        """Seconds that clocks here are ahead of virtual time."""
        self.drift = 1.0
        """Seconds that clocks here count per second of virtual time."""
        self.paused = self.restarted = False
        self.backlog: list[tuple[Any, ...]] | None = None
        self.envs: list[SimEnv] = []

    def occupy(self, duration: int, *, idle: bool = False) -> int:
        """Take the core that is free first for ``duration``; the time at which it has done.  ``idle``: the
        core has nothing to do, as who has taken it waits."""
        cores = self.cores
        end = max(self.kernel.now, cores[0]) + duration
        heapq.heapreplace(cores, end)
        if not idle:
            self.busy_ns += duration
        return end

    def share(self, duration: int, doing: Doing) -> None:
        """Let a thread compute, on cores that it shares with others."""
        if self.sharing is None:
            self.sharing = Sharing(self.kernel, len(self.cores))
        self.busy_ns += duration
        self.sharing.enter(duration, doing)
