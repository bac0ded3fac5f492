"""The runtime's own two nodes: a hub beside the experimenter, and an agent in every process.

They are ordinary nodes: the control plane of a live session uses the transport that it controls.
"""

from __future__ import annotations

from typing import Any, ClassVar

from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.runtimes.base import Rule

__all__ = ["Agent", "Directory", "Hub", "Registration", "RuleRecord", "Statistics"]


class Registration(Record):
    """Where a process listens."""

    process: str
    port: int
    http_ports: dict[str, int]


class Directory(Record):
    """Where everything is."""

    places: dict[str, str]
    """Node to process."""
    ports: dict[str, int]
    """Process to port."""
    http_ports: dict[str, int]
    """Node (or component) that speaks HTTP to port."""
    components: dict[str, str]
    """Role of a component to its address."""


class RuleRecord(Record):
    """A ``Rule`` as a message."""

    sources: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    loss: float
    delay: float
    duplicate: float
    reorder: float

    def rule(self) -> Rule:
        return Rule(
            None if self.sources is None else frozenset(self.sources),
            None if self.targets is None else frozenset(self.targets),
            self.loss,
            self.delay,
            self.duplicate,
            self.reorder,
        )


class Statistics(Record):
    """What a process has counted."""

    messages: int
    bytes: int
    by_method: dict[str, int]
    unmeasured: int
    bugs: tuple[str, ...]
    complaints: tuple[str, ...]


class Hub(Node):
    """Where processes register; in the session's own process."""

    session: Any

    @rpc
    async def register(self, registration: Registration) -> None:
        """A process listens."""
        self.session.registered(registration)


class Agent(Node):
    """In each process: does what the session asks."""

    timeout: ClassVar[float | None] = 20.0
    process: Any

    @rpc
    async def boot(self, directory: Directory) -> None:
        """Everything is up: start the nodes."""
        self.process.learn(directory)
        self.process.boot(self.process.resolve)

    @rpc
    async def learn(self, directory: Directory) -> None:
        """Something has moved."""
        self.process.learn(directory)

    @rpc
    async def rules(self, rules: list[RuleRecord]) -> None:
        """Disturb messages from now on."""
        self.process.rules = [record.rule() for record in rules]

    @rpc
    async def skew(self, offset: float, drift: float) -> None:
        """Set the clock."""
        self.process.offset = offset
        self.process.drift = drift

    @rpc
    async def statistics(self) -> Statistics:
        """What was counted so far."""
        p = self.process
        bugs, complaints = tuple(p.bugs), tuple(p.complaints[:100])
        messages = sum(p.by_method.values())
        return Statistics(messages, p.bytes, dict(p.by_method), p.unmeasured, bugs, complaints)
