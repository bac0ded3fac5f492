"""A chunk store: a master knows where everything is, and servers hold it, each chunk on R of them.

Ghemawat, Gobioff and Leung: "The Google file system", SOSP 2003, reduced to its skeleton: values instead of
files, and chunks that never change. Where replicas go: Cidon et al., "Copysets", USENIX ATC 2013
(``blocks/placement.py``).

Who writes asks the master for a place, writes a new chunk to all its servers, and then tells the master that
the key has that chunk from now on: at this moment the write has happened.  Who reads asks the master for the
key's chunk, and any of its servers for the chunk.  Data does not pass through the master.

What a crash costs. The master is a single point of failure; what it knows is on its disk. Any R - 1
servers may fail. When R fail together that hold a common chunk, its data is lost with their disks: how
often that happens, when a power failure takes some percent of all servers, is a question of the placement.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.placement import Placement, Policy
from polyarch.core import (
    Architecture,
    Failure,
    Node,
    Record,
    Refused,
    System,
    Timeout,
    Verdict,
    gather,
    parameter,
    rpc,
)
from polyarch.jobs.kv import KeyValue, Kv, Value

TRIES = 8


class Chunk(Record, array_like=True):
    """A value that never changes, and where it is."""

    id: int
    servers: tuple[int, ...]


class Unavailable(Refused, code="chunk-unavailable"):
    """No server of the chunk answers."""


class ChunkServer(Node):
    """Holds chunks."""

    @rpc
    async def write(self, id: int, value: str | int) -> None:
        """Keep a chunk."""
        self.disk.put(f"chunk {id}", value)
        await self.disk.sync()

    @rpc
    async def read(self, id: int) -> str | int:
        """A chunk; refused if it is not here."""
        value = self.disk.get(f"chunk {id}", str | int | None, None)  # type: ignore[arg-type]
        if value is None:
            raise Refused(f"{self.address} has no chunk {id}")
        return value  # type: ignore[no-any-return]


class Master(Node):
    """Knows which chunk a key has, and where chunks are."""

    servers: tuple[str, ...]
    replicas: int = 3
    policy: Policy = "random"
    scatter_width: int = 2
    sync_before_answer: bool = True

    async def start(self) -> None:
        self.keys: dict[str, Chunk] = dict(self.disk.entries("keys", tuple[str, Chunk]))
        self.life = self.disk.get("life", int, 0) + 1  # ids of chunks never come again
        self.disk.put("life", self.life)
        await self.disk.sync()
        self.next_id = self.life << 40
        self.written = self.synced = 0  # assignments, and how many of them are on disk
        self.placement = Placement(
            self.policy, len(self.servers), self.replicas, self.random.fork("placement"),
            scatter_width=self.scatter_width,
        )  # fmt: skip

    @rpc
    async def allot(self, count: int) -> tuple[Chunk, ...]:
        """Places for so many new chunks."""
        first, self.next_id = self.next_id, self.next_id + count
        return tuple(Chunk(first + i, self.placement.choose()) for i in range(count))

    @rpc
    async def locate(self, key: str) -> Chunk | None:
        """Which chunk a key has."""
        chunk = self.keys.get(key)
        await self.durable()
        return chunk

    @rpc
    async def assign(self, key: str, chunk: Chunk, replaces: int | None) -> bool:
        """The key has this chunk from now on; with ``replaces``, only if it has that one (0: none) now."""
        now = self.keys.get(key)
        fits = replaces in (None, now.id if now else 0)
        if fits:
            self.keys[key] = chunk
            self.disk.append("keys", (key, chunk))
            self.written += 1
        await self.durable()
        return fits

    async def durable(self) -> None:
        """Nobody is told what a crash could take back."""
        written = self.written
        if self.synced < written and self.sync_before_answer:
            await self.disk.sync()
            self.synced = max(self.synced, written)


class ChunkClient(KeyValue):
    """Asks the master where, and the servers what."""

    master: Master
    servers: tuple[str, ...]

    @rpc
    async def get(self, key: str) -> Value:
        return (await self.look(key))[1]

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.master.assign(key, await self.store(value), None)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        while True:
            chunk, now = await self.look(key)
            if now != expected:
                return False
            if await self.master.assign(key, await self.store(value), chunk.id if chunk else 0):
                return True  # nobody was faster

    async def look(self, key: str) -> tuple[Chunk | None, Value]:
        """The chunk of a key, and what is in it.  Reading changes nothing: whatever fails, it is refused."""
        try:
            chunk = await self.master.locate(key)
        except Failure as failure:
            raise Refused(f"the master: {failure}") from failure
        if chunk is None:
            return None, None
        for i in self.random.sample(chunk.servers, len(chunk.servers)):
            try:
                return chunk, await self.at(self.servers[i], ChunkServer).read(chunk.id)
            except Failure:
                continue
        raise Unavailable(f"{key}: no server of {', '.join(self.servers[i] for i in chunk.servers)} answers")

    async def store(self, value: str | int) -> Chunk:
        """A new chunk, on all its servers; elsewhere if one does not answer.  Nobody knows of it yet."""
        for _ in range(TRIES):
            try:
                (chunk,) = await self.master.allot(1)
                asked = (self.at(self.servers[i], ChunkServer).write(chunk.id, value) for i in chunk.servers)
                await gather(*asked)
                return chunk
            except Failure as failure:
                last = failure
        raise Refused(f"no place for a chunk: {last}")


class ChunkStore(Architecture):
    """A master places chunks on servers, R replicas each, at random or in copysets."""

    family = "agreement"
    source = "Ghemawat et al., The Google file system, SOSP 2003; Cidon et al., Copysets, ATC 2013"
    jobs = (Kv,)
    claims = ("linearizable", "the master is a single point of failure", "any R - 1 servers may fail")

    nodes: int = parameter(9, "servers", least=1)
    replicas: int = parameter(3, "of each chunk", least=1)
    placement: Policy = parameter("copysets", "how servers are chosen for a chunk")
    scatter_width: int = parameter(2, "copysets: with how many others a server shares chunks", least=1)

    def build(self, system: System) -> None:
        if self.replicas > self.nodes:
            raise ValueError(f"--replicas {self.replicas}: there are only {self.nodes} servers")
        servers = system.addresses("server", self.nodes)
        master = Master(
            servers=servers, replicas=self.replicas, policy=self.placement, scatter_width=self.scatter_width
        )
        system.role("master", master)
        system.role("server", ChunkServer(), count=self.nodes)
        system.clients(ChunkClient(master=master, servers=servers))

    async def ready(self, x: Any) -> None:
        for _ in range(600):
            try:
                await x.client.get("")
                return
            except Failure:
                await x.sleep(0.1)
        raise Timeout("the master does not answer")

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return {}, []
