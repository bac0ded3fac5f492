"""Laws of CAP and PACELC: one partition, on a store that stays consistent and on one that stays available."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polyarch.architectures.quorum import Quorum
from polyarch.architectures.raft import RaftStore
from polyarch.checkers.linearizability import KV, check
from polyarch.core import Architecture, Done, Failure, Random, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, at_least, between, exactly
from polyarch.jobs.kv import KeyValue, calls_of
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Endpoint, Network, ns
from polyarch.runtimes.sim.session import SimSession

STORES: dict[str, Callable[[int], Architecture]] = {
    "CP": lambda n: RaftStore(servers=n),
    "AP": lambda n: Quorum(servers=n, n=n, r=1, w=1, sloppy=True, versions="last-writer-wins"),
}
"""One that gives up availability, and one that gives up consistency."""


class Servers:
    """So many seconds between servers; clients stand beside them."""

    def __init__(self, seconds: float) -> None:
        self.between_servers = seconds

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        servers = source.name.startswith("server") and target.name.startswith("server")
        return ns(self.between_servers) if servers else 0


class Partition(Law):
    """What a partition does to both kinds of stores, and what consistency costs without one."""

    id = "CP-01"
    architecture = "CAP/PACELC"
    claim = "Partition: CP serves the majority, and nothing diverges; AP serves both, diverges, converges"
    source = "Gilbert and Lynch 2002; Abadi, Consistency tradeoffs in modern distributed databases, 2012"
    certainty = "theory (well known), value computed here"
    note = (
        "CP: raft; AP: quorum with R = W = 1, sloppy, last writer wins.  A client on each side of the "
        "partition writes and reads; the histories are judged by the checker.  Without a partition, with one "
        "round trip between servers and clients beside them: a write to CP takes a round trip, to AP nothing"
    )
    seeds = 3
    n: int = parameter(5, "servers", least=3, most=15)
    minority: int = parameter(2, "of them, on the smaller side", least=1, most=7)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if 2 * self.minority >= self.n:
            raise ValueError(f"--minority takes less than half of --n {self.n}")

    def expected(self) -> dict[str, Expected]:
        return {
            "CP: minority, share answered": exactly(0),
            "CP: majority, share answered": exactly(1),
            "CP: histories that are not linearizable": exactly(0),
            "AP: share answered": exactly(1),
            "AP: keys that diverged": at_least(1),
            "AP: keys that still differ when healed": exactly(0),
            "AP: histories that are not linearizable": at_least(1),
            "CP: write / round trip": at_least(1.0),
            "CP: read / round trip": at_least(1.0),
            "AP: write / round trip": between(0.0, 0.01, 0.0),
            "AP: read / round trip": between(0.0, 0.01, 0.0),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        sides = {kind: [Sides(kind, self.n, self.minority, seed) for seed in seeds] for kind in STORES}
        asked = {kind: [run.perform() for run in runs] for kind, runs in sides.items()}
        tell(0.7)
        for kind, runs in asked.items():
            few, many = (
                [done.outcome == "ok" for r in runs for done in r.parted if done.client == c] for c in (0, 1)
            )
            if kind == "CP":
                figures["CP: minority, share answered"] = sum(few) / len(few)
                figures["CP: majority, share answered"] = sum(many) / len(many)
            else:
                figures["AP: share answered"] = sum(few + many) / len(few + many)
                figures["AP: keys that diverged"] = min(r.diverged for r in runs)
                figures["AP: keys that still differ when healed"] = max(r.differ for r in runs)
            wrong = [check(calls_of(r.history), KV).holds is False for r in runs]
            figures[f"{kind}: histories that are not linearizable"] = sum(wrong)
            for what, seconds in normally(kind, self.n, seeds[0]).items():
                figures[f"{kind}: {what} / round trip"] = seconds
        return figures


class Sides:
    """One store, parted with a client on each side."""

    def __init__(self, kind: str, n: int, minority: int, seed: int) -> None:
        self.store = STORES[kind](n)
        network = Network(latency=Constant(0.001))
        self.session = SimSession(self.store, seed=seed, clients=2, network=network)
        names = [f"server-{i}" for i in range(n)]
        self.small, self.large = ["client", *names[:minority]], ["client-1", *names[minority:]]
        self.history: list[Done] = []
        self.parted: list[Done] = []  # the part of it during the partition
        self.diverged = self.differ = 0

    def perform(self) -> Sides:
        self.session.perform(self.experiment)
        return self

    async def experiment(self, x: Experimenter) -> None:
        keys = [f"key-{i}" for i in range(5)]
        await self.store.ready(x)
        await settle(*(self.ask(x, 1, "put", key, 0) for key in keys))
        await x.sleep(1.0)
        await x.control.disturb(self.small, self.large, loss=1.0)
        await x.control.disturb(self.large, self.small, loss=1.0)
        await x.sleep(3.0)  # elections are over: what is asked now finds things as they are
        first = len(self.history)
        await settle(*(self.side(x, client, keys) for client in (0, 1)))
        self.parted = self.history[first:]
        seen = [d for d in self.parted if d.name == "get" and d.outcome == "ok"]
        read = [{d.arguments[0]: d.value for d in seen if d.client == client} for client in (0, 1)]
        self.diverged = sum(k in read[0] and k in read[1] and read[0][k] != read[1][k] for k in keys)
        await x.control.heal()
        await x.sleep(5.0)
        await self.store.ready(x)
        values = [[await self.ask(x, client, "get", key) for key in keys] for client in (0, 1)]
        self.differ = sum(a != b for a, b in zip(*values))

    async def side(self, x: Experimenter, client: int, keys: list[str]) -> None:
        """Each client writes every key, and then reads every key."""
        for i, key in enumerate(keys):
            await self.ask(x, client, "put", key, 100 * (client + 1) + i)
        for key in keys:
            await self.ask(x, client, "get", key)

    async def ask(self, x: Experimenter, client: int, name: str, *arguments: Any) -> Any:
        start, value, outcome, code = x.now, None, "ok", ""
        try:
            value = await getattr(x.at(f"client-{client}", KeyValue), name)(*arguments)
        except Failure as failure:
            outcome, code = "fail" if failure.definite else "info", failure.code
        self.history.append(
            Done(client, name, arguments, start, start, x.now, outcome, value, code)  # type: ignore[arg-type]
        )
        return value


def normally(kind: str, n: int, seed: int) -> dict[str, float]:
    """How long a write and a read take without a partition, in round trips between servers."""
    store = STORES[kind](n)
    trip = 0.02
    network = Network(latency=Servers(trip / 2))
    session = SimSession(store, seed=seed, network=network, disk_sync=0.0)

    async def experiment(x: Experimenter) -> dict[str, float]:
        await store.ready(x)
        await x.client.put("key", 0)  # the client has found whom to ask
        took = {"write": 0.0, "read": 0.0}
        for i in range(10):
            begin = x.now
            await x.client.put("key", i)
            took["write"] += (x.now - begin) / trip / 10
            begin = x.now
            await x.client.get("key")
            took["read"] += (x.now - begin) / trip / 10
            await x.sleep(0.5)
        return {what: round(trips, 9) for what, trips in took.items()}

    return session.perform(experiment)
