"""A user's own file, broken on purpose: a store that answers a write before it has replicated it, and lets
anybody answer reads.  ``--wait true`` mends it: then there is one copy."""

from __future__ import annotations

from typing import Any

from polyarch.core import Architecture, Failure, Node, System, parameter, rpc
from polyarch.jobs.kv import KeyValue, Kv, Value


class Store(Node):
    others: tuple[str, ...]
    pause: float

    async def start(self) -> None:
        self.data: dict[str, Value] = self.disk.get("data", dict[str, str | int | None], {})

    @rpc
    async def get(self, key: str) -> Value:
        return self.data.get(key)

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        self.data[key] = value
        self.disk.put("data", self.data)
        for other in self.others:
            if other != self.address:
                self.spawn(self.copy(other, key, value))
        await self.disk.sync()

    async def copy(self, other: str, key: str, value: str | int) -> None:
        await self.at(other).keep(key, value)

    @rpc
    async def keep(self, key: str, value: str | int) -> None:
        self.data[key] = value

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        if self.data.get(key) != expected:
            return False
        if self.pause:  # somebody may write meanwhile: their update is lost
            await self.sleep(self.pause)
        await self.put(key, value)
        return True


class Client(KeyValue):
    stores: tuple[str, ...]
    reads_anywhere: bool

    @rpc
    async def get(self, key: str) -> Value:
        store = self.random.choice(self.stores) if self.reads_anywhere else self.stores[0]
        value: Value = await self.at(store, Store).get(key)
        return value

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.at(self.stores[0], Store).put(key, value)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return bool(await self.at(self.stores[0], Store).compare_and_set(key, expected, value))


class Early(Architecture):
    """A store that answers before it has replicated."""

    name = "early"
    family = "test"
    source = "nobody"
    jobs = (Kv,)

    stores: int = parameter(2, "copies", least=1, most=9)
    reads_anywhere: bool = parameter(True, "whether copies answer reads")
    pause: float = parameter(0.0, "seconds between the look and the write of a compare-and-set", least=0)
    raises: bool = parameter(False, "whether a look at the invariants finds something")

    def build(self, system: System) -> None:
        addresses = system.addresses("store", self.stores)
        system.role("store", Store(others=addresses, pause=self.pause), count=self.stores)
        system.clients(Client(stores=addresses, reads_anywhere=self.reads_anywhere))

    async def ready(self, x: Any) -> None:
        try:
            await x.client.get("")
        except Failure:
            pass

    def invariants(self, nodes: Any, seen: dict[Any, Any]) -> list[str]:
        if self.raises and sum(bool(node.data) for node in nodes.values()) > 1:
            return ["only one holds data: two do"]
        return []
