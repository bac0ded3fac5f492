"""One service on several servers: partitioned, replicated, or cached; and on one server, for comparison.

Coulouris et al. name the ways in which a service is mapped to servers: its objects can be divided among
them, or each can have copies of all, or copies of what was asked for lately are kept closer to the clients.
The service keeps values under keys; its clients mostly read.

* **one**: a server has everything.  It can be scaled *up*: given more ``cores``.
* **partition**: each server has a part of the keys, by their hash.
* **replicate**: each server has all of them, and any of them answers a read.  A write goes to the first,
  which has all the others write it before it answers (read one, write all).
* **cache**: the first server has everything; the others keep what they have read for a while (``keep``),
  and are asked in its place.

What is the problem with this?  With a share r of reads, and the same work w for a read or a write at a
server, n servers carry n/w operations per second if they are partitioned; n / (w (r + n (1 - r))) if they
are replicated, which is never more than 1 / (w (1 - r)), however many there are; and caches what they let
through to the first server: 1 / (w (1 - r h)), if a share h of the reads is found (laws SV-A, SV-B).
Replication is Amdahl's law, with the writes as what cannot be divided: at r = 0.9 `polyarch scale` finds a
contention of 0.124 (0.085 to 0.133) in it (sim).

*Up or out?*  As long as a machine can be had that is large enough: up.  At 6,400/s of 1 ms, 95 % of them
reads, 8 cores of one server answer half of the reads in 2.0 ms and 99 % in 3.2; 8 partitions in 3.3 and
14.7, because some wait while others have nothing to do (and 8 replicas carry only 5,900).  But when that
one machine is down, everything is: of 4 servers, 500 requests/s and a crash of 2 s, `one` fails 1,014
requests; a partition 251 to 267; replicas 286 if it is the first (the writes, and the reads that were sent
there) and else 236, while writes wait for it; caches 1,001 if it is the first server, as little was cached
at this rate, and else 358.  (Sim; these clients ask a server that is down again and again: a switch would
not.)
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from polyarch.blocks.ring import identifier
from polyarch.blocks.values import Values
from polyarch.core import Architecture, Failure, Node, Record, System, Timeout, gather, parameter, rpc
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST, KeyValue, Kv, Value

__all__ = ["Cache", "Mapping", "Replica", "Server", "ServiceMapping"]

Mapping = Literal["one", "partition", "replicate", "cache"]


class Entry(Record):
    """A value, and how often its key was written."""

    value: Value
    version: int


class Server(KeyValue):
    """Has all entries, or a part of them, on its disk."""

    timeout = 5.0
    seconds: float
    """Work of a read or a write, on a core."""

    async def start(self) -> None:
        self.entries = Values(self.disk)

    def entry(self, key: str) -> Entry:
        version = self.entries.data.get(f"version of {key}")
        return Entry(self.entries.data.get(key), version if isinstance(version, int) else 0)

    async def write(self, key: str, value: str | int) -> None:
        """Write a value here, and wherever else it has to be."""
        entry = Entry(value, self.entry(key).version + 1)
        self.set(key, entry)
        await self.entries.durable()

    def set(self, key: str, entry: Entry) -> None:
        self.entries.change({key: entry.value, f"version of {key}": entry.version})

    @rpc
    async def get(self, key: str) -> Value:
        await self.work(self.seconds)
        value = self.entry(key).value
        await self.entries.durable()  # what was read is not taken back by a crash
        return value

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.work(self.seconds)
        await self.write(key, value)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        await self.work(self.seconds)
        if self.entry(key).value != expected:
            await self.entries.durable()
            return False
        await self.write(key, value)
        return True


class Replica(Server):
    """Has all entries; the first one gets all writes, and has the others write them."""

    others: tuple[str, ...]
    """All but the first."""

    PATIENCE: ClassVar[float] = 5.0

    async def write(self, key: str, value: str | int) -> None:
        # On our own disk first: after a crash, no other version may have this one's number.
        await super().write(key, value)
        entry = self.entry(key)
        await gather(*(self.see_to(other, key, entry) for other in self.others))

    async def see_to(self, other: str, key: str, entry: Entry) -> None:
        """Have another one write an entry, however long it is down while somebody waits for that."""
        deadline = self.now + self.PATIENCE
        while True:
            try:
                return await self.at(other, Replica).copy(key, entry)
            except Failure as failure:
                if self.now >= deadline:  # and it is written here
                    raise Timeout(f"{other} has no copy yet") from failure
            await self.sleep(0.05)

    @rpc
    async def copy(self, key: str, entry: Entry) -> None:
        """An entry that the first one has written; older ones than ours come late."""
        await self.work(self.seconds)
        if entry.version > self.entry(key).version:
            self.set(key, entry)
        await self.entries.durable()


class Cache(KeyValue):
    """Keeps what it has read for a while; has all else done by the server that has everything."""

    timeout = 5.0
    origin: Server
    seconds: float
    keep: float

    async def start(self) -> None:
        self.kept: dict[str, tuple[float, Value]] = {}
        self.asked = self.found = 0

    @rpc
    async def get(self, key: str) -> Value:
        await self.work(self.seconds)
        self.asked += 1
        until, value = self.kept.get(key, (0.0, None))
        if self.now < until:
            self.found += 1
            return value
        value = await self.origin.get(key)
        self.kept[key] = (self.now + self.keep, value)
        return value

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.origin.put(key, value)
        self.kept.pop(key, None)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        try:
            return await self.origin.compare_and_set(key, expected, value)
        finally:
            self.kept.pop(key, None)

    @rpc
    async def shares(self) -> tuple[int, int]:
        """Reads, and how many of them were found here."""
        return self.asked, self.found


class Client(KeyValue):
    """Knows which server to ask."""

    mapping: Mapping
    servers: tuple[str, ...]

    def reading(self, key: str) -> KeyValue:
        """Whom to ask for the value of a key."""
        if self.mapping == "replicate":
            return self.at(self.random.choice(self.servers), Server)
        return self.writing(key)

    def writing(self, key: str) -> KeyValue:
        """Who changes the value of a key."""
        if self.mapping == "cache":
            return self.at(self.random.choice(self.servers), Cache)
        if self.mapping == "partition":
            return self.at(self.servers[identifier(key, 32) % len(self.servers)], Server)
        return self.at(self.servers[0], Server)

    @rpc
    async def get(self, key: str) -> Value:
        return await self.reading(key).get(key)

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.writing(key).put(key, value)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return await self.writing(key).compare_and_set(key, expected, value)


class ServiceMapping(Architecture):
    """A key-value service on several servers: partitioned, replicated or cached; or on one that is bigger."""

    name = "service_mapping"
    family = "horizontal"
    source = "Coulouris et al., Distributed Systems, 5th ed., section 2.3.1 (placement)"
    jobs = (Kv,)
    claims = (
        "linearizable on one server, and partitioned",
        "replicated: no read misses a write that was answered before",
    )
    metrics = {"found_share": "share of the reads that a cache could answer by itself"}

    mapping: Mapping = parameter("partition", "of the service to its servers")
    servers: int = parameter(4, "servers; of caches, one of them has the data", least=1, most=1000)
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1, most=1000)
    work: float = parameter(1e-3, "work of a read or a write, on a core", least=0, most=10, unit="s")
    keep: float = parameter(1.0, "how long a cache keeps a value", least=0, unit="s")

    @property
    def disclaims(self) -> tuple[str, ...]:
        if self.mapping == "replicate":
            return (LINEARIZABLE,)  # of two reads during a write, the second may be of a slower copy
        return (LINEARIZABLE, FRESH, NOTHING_LOST) if self.mapping == "cache" else ()

    @property
    def not_borne(self) -> tuple[str, ...]:
        return ("duplicate",)  # a write that is delivered twice is done twice

    def build(self, system: System) -> None:
        if self.mapping == "cache" and self.servers < 2:
            raise ValueError("--servers of caches: one that has the data, and at least one cache")
        if self.mapping in ("replicate", "partition"):
            names = system.addresses("server", self.servers)
            others = names[1:] if self.mapping == "replicate" else ()
            servers: Node = Replica(seconds=self.work, others=others)
            system.role("server", servers, count=self.servers, cores=self.cores)
        else:
            origin = Server(seconds=self.work)
            system.role("server", origin, cores=self.cores)
            names = ("server-0",)
            if self.mapping == "cache":
                cache = Cache(origin=origin, seconds=self.work, keep=self.keep)
                system.role("cache", cache, count=self.servers - 1, cores=self.cores)
                names = system.addresses("cache")
        system.clients(Client(mapping=self.mapping, servers=names))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Any]]:
        if self.mapping != "cache":
            return {}, []
        told = await gather(*(x.at(f"cache-{i}", Cache).shares() for i in range(self.servers - 1)))
        asked = sum(asked for asked, _ in told)
        return {"found_share": sum(found for _, found in told) / asked} if asked else {}, []
