"""The fixed small system whose trace everybody must get: ``python determined.py SEED`` prints its hash."""

from __future__ import annotations

import sys

from polyarch.core import Architecture, Failure, Node, Record, System, first, gather, oneway, rpc
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, LogNormal, Network
from polyarch.runtimes.sim.session import SimSession


class Rumour(Record):
    text: str
    hops: int = 0


class Gossip(Node):
    """Tells whom it draws, writes down what it hears, and asks two others now and then."""

    peers: tuple[str, ...]

    async def start(self) -> None:
        self.heard = set(self.disk.entries("heard", str))
        self.every(0.5, self.ask, jitter=0.2)

    @oneway
    async def hear(self, rumour: Rumour) -> None:
        if rumour.text not in self.heard:
            self.heard.add(rumour.text)
            self.disk.append("heard", rumour.text)
            await self.disk.sync()
            for peer in self.random.sample(self.peers, 3):
                self.at(peer).hear(Rumour(rumour.text, rumour.hops + 1))

    @rpc
    async def known(self, patience: float) -> tuple[str, ...]:
        await self.sleep(patience * self.random.random())
        return tuple(sorted(self.heard))

    async def ask(self) -> None:
        for answer in await first(2, *(self.at(p).known(0.3) for p in self.random.sample(self.peers, 3))):
            for text in answer:
                await self.hear(Rumour(text))


class Door(Node):
    @rpc
    async def tell(self, text: str, to: str) -> None:
        self.at(to, Gossip).hear(Rumour(text))


class Town(Architecture):
    """Nodes that gossip."""

    family = "peers"
    source = "none"
    jobs = ()

    def build(self, system: System) -> None:
        names = tuple(f"node-{i}" for i in range(20))
        system.role("node", Gossip(peers=names), count=20)
        system.clients(Door())


async def life(x: Experimenter) -> list[int]:
    """Rumours, in a world that goes wrong."""
    for i in range(5):
        await x.client.tell(f"rumour {i}", f"node-{i}")
        await x.sleep(0.2)
    await x.control.crash("node-3")
    await x.control.pause("node-4")
    await x.sleep(2.0)
    await x.control.restart("node-3")
    await x.control.resume("node-4")
    await x.sleep(3.0)

    async def count(i: int) -> int:
        try:
            return len(await x.at(f"node-{i}", Gossip).known(0.1))
        except Failure:
            return -1

    return await gather(*(count(i) for i in range(20)))


def trace(seed: int, *, detailed: bool = True, faults: bool = True) -> tuple[str, list[int]]:
    """The trace hash of one life, and what became known."""
    network = Network(LogNormal(0.01, 0.5), loss=0.02, duplicate=0.02, reorder=0.02, bandwidth=1e6)
    if not faults:
        network = Network(Constant(0.001))
    with SimSession(Town(), seed=seed, network=network, detailed=detailed) as session:
        known = session.perform(life)
        return session.kernel.trace_hash, known


if __name__ == "__main__":
    print(*trace(int(sys.argv[1])))
