"""A job and a system as small as they come, for tests of what loads, breaks and compares them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polyarch.core import Architecture, Node, Refused, System, parameter, rpc
from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.randomness import Random


class Tap(Node):
    """The port."""

    timeout = 30.0

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        """The number."""
        raise NotImplementedError

    @rpc
    async def spill(self, number: int) -> None:
        """Always refused."""
        raise NotImplementedError


class Draw(Job):
    """Draw numbers."""

    name = "draw"
    port = Tap
    spills: bool = parameter(False, "whether the second of three operations of a visit is refused")

    def visits(self, random: Random) -> Iterator[Visit]:
        for n in itertools.count():
            draw = Operation("draw", (n, random.below(1000)))
            yield (draw, Operation("spill", (n,)), draw) if self.spills else (draw,)

    def trace(self, path: Path) -> Iterator[tuple[float, Visit]]:
        for at in path.read_text().split():
            yield float(at), (Operation("draw", (0, 0)),)

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        wrong = [d for d in history if d.name == "draw" and d.outcome == "ok" and d.value != d.arguments[0]]
        return [Verdict("what is drawn is what was asked for", not wrong, f"{len(wrong)} wrong")]


class Server(Tap):
    service: float = 0.0
    lie: bool = False

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        if self.service:
            await self.sleep(self.service)
        return number + self.lie

    @rpc
    async def spill(self, number: int) -> None:
        raise Refused("no")


class Client(Tap):
    """Asks each server in turn, until one answers; patient ones begin again."""

    servers: tuple[str, ...]
    patient: bool = False

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        while True:
            for i, server in enumerate(self.servers, 1):
                try:
                    return await self.at(server, Tap, timeout=1.0).draw(number, salt)
                except Refused:
                    if i == len(self.servers) and not self.patient:
                        raise
            await self.sleep(0.01)

    @rpc
    async def spill(self, number: int) -> None:
        await self.at(self.servers[0], Tap).spill(number)


class Well(Architecture):
    """Servers of which any can answer, and one beside them that nobody needs."""

    name = "well"
    family = "client-server"
    source = "none"
    jobs = (Draw,)
    servers: int = parameter(1, "servers", least=1)
    service: float = parameter(0.0, "seconds that an answer takes", least=0)
    lie: bool = parameter(False, "whether answers are wrong")
    patient: bool = parameter(False, "whether clients wait for a server")

    def build(self, system: System) -> None:
        system.role("server", Server(service=self.service, lie=self.lie), count=self.servers)
        system.role("idle", Server())
        system.clients(Client(servers=system.addresses("server", self.servers), patient=self.patient))
