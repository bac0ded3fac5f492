"""The system that `rpc.py` measures: a node that echoes, and one in another process that calls it."""

from __future__ import annotations

from polyarch.core import Architecture, Node, System, gather, rpc


class Echo(Node):
    @rpc
    def echo(self, number: int, text: str) -> str:
        return text


class Caller(Node):
    server: Echo
    timeout = 120.0

    @rpc
    async def measure(self, in_flight: int, calls: int, text: str) -> float:
        """Seconds that so many calls take, ``in_flight`` at a time."""
        numbers = iter(range(calls))
        begun = self.now
        await gather(*(self.call(numbers, text) for _ in range(in_flight)))
        return self.now - begun

    async def call(self, numbers: object, text: str) -> None:
        for number in numbers:
            await self.server.echo(number, text)


class Rpc(Architecture):
    """A caller and an echo, each in a process."""

    name = "rpc-benchmark"
    family = "benchmark"
    jobs = ()

    def build(self, system: System) -> None:
        server = Echo()
        system.role("server", server)
        system.clients(Caller(server=server))
