"""Simulated links: how long a message takes, and whether it arrives.

All times inside the simulator are integer nanoseconds (see docs/decisions/0001).
"""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from typing import Protocol

from polyarch.core.randomness import Random

__all__ = ["Constant", "Exponential", "Latency", "LogNormal", "Network", "Regional", "Uniform", "ns"]


def ns(seconds: float) -> int:
    """Seconds to integer nanoseconds."""
    return round(seconds * 1e9)


class Latency(Protocol):
    """One-way delay between two processes, in nanoseconds."""

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int: ...


class Endpoint(Protocol):
    """What a latency model may look at."""

    name: str
    region: int
    zone: int


@dataclasses.dataclass(frozen=True)
class Constant:
    """Always ``seconds``."""

    seconds: float = 0.0005

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return ns(self.seconds)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform between ``low`` and ``high`` seconds."""

    low: float
    high: float

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return round((self.low + (self.high - self.low) * random.random()) * 1e9)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """``least`` seconds and an exponential part with mean ``mean`` seconds."""

    mean: float
    least: float = 0.0

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return ns(self.least + random.exponential(self.mean))


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """Log-normal with a median in seconds; ``sigma`` is the deviation of the logarithm."""

    median: float
    sigma: float = 0.3

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return ns(random.lognormal(self.median, self.sigma))


class Regional:
    """Half of the measured round trips between cloud regions (IBM Cloud VPC documentation, 2024), zones
    of a region, and machines of a zone; ``jitter`` is the log-normal sigma around them."""

    def __init__(self, jitter: float = 0.0) -> None:
        table = json.loads(files("polyarch.runtimes.sim").joinpath("regions.json").read_text())
        self.names: list[str] = table["regions"]
        self.jitter = jitter
        self._between = [[ns(ms / 2e3) for ms in row] for row in table["inter_region_rtt_ms"]]
        zones = table["inter_zone_rtt_ms"]
        self._zones = [
            {(int(pair[0]), int(pair[2])): ns(ms / 2e3) for pair, ms in zones[name].items()}
            for name in self.names
        ]
        self._within = ns(table["intra_zone_rtt_ms"]["Dallas"] / 2e3)

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        a, b = source.region, target.region
        if a != b:
            delay = self._between[a][b]
        elif source.zone != target.zone:
            low, high = sorted((source.zone + 1, target.zone + 1))
            delay = self._zones[a][low, high]
        else:
            delay = self._within
        return round(random.lognormal(delay, self.jitter)) if self.jitter else delay


@dataclasses.dataclass
class Network:
    """All links of a simulation."""

    latency: Latency = dataclasses.field(default_factory=Constant)
    bandwidth: float | None = None
    """Bytes per second that each process's outgoing link carries; None: unlimited."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
