"""A quorum store: each key on N servers; a write waits for W of them, a read for R.

DeCandia et al.: "Dynamo: Amazon's highly available key-value store", SOSP 2007.  Sections are the paper's.
Quorums are Gifford's: "Weighted voting for replicated data", SOSP 1979.

The servers stand on a ring; a key belongs to the N that come first clockwise from it, its *homes* (section
4.2 and 4.3).  Any home *coordinates* a read or a write: it asks all N and answers when R or W have answered
(4.5).

* **R + W > N**: every read meets a server that has the latest write, so no read misses an answered write.
* **R + W <= N**: faster, and reads may be stale.  How often is a question of luck: Bailis et al.,
  "Probabilistically bounded staleness", PVLDB 2012; with ``expanding`` off it is their model.
* **Sloppy quorums** (4.6): the first N servers that *answer* count, homes or not.  Writes then go on when
  homes are cut off, on both sides of a partition; and R + W > N promises nothing any more.

Versions that were written without knowledge of each other meet sooner or later: a **read repairs** what it
found out of date; a server that took a write in for a home that was away **hands it off** when that is back
(4.6); and servers compare **Merkle trees** of what they share (anti-entropy, 4.7).  Which version stays is
said by version vectors, and siblings by their times; or else by the times alone: last writer wins (4.4).

Nothing here is linearizable: of two reads during a write the second may see the older value, and
compare-and-set is a read and then a write, with nothing to keep others from coming between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from typing import Any, Literal

from polyarch.blocks.replicas import until_it_answers
from polyarch.blocks.ring import Ring
from polyarch.blocks.safeguards import Guarded
from polyarch.blocks.versioned_store import Holdings, Safeguards, VersionedStore, Versions
from polyarch.blocks.versions import Policy, Vector, Version, advance, join, newest, reconcile
from polyarch.core import (
    Failure,
    Refused,
    System,
    Timeout,
    Unreachable,
    Verdict,
    first,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST, KeyValue, Kv, Value

__all__ = ["Quorum", "QuorumClient", "Server"]


class TooFew(Timeout, code="too-few-replicas"):
    """A quorum did not answer."""


class Server(VersionedStore):
    """One server: it stores versions, and coordinates reads and writes of the keys to which it is home."""

    r: int
    w: int
    sloppy: bool = False
    read_repair: bool = True

    async def start(self) -> None:
        await super().start()
        self.written = 0
        self.latest = 0  # time of the last version

    # -- coordinating (section 4.5) --------------------------------------------------------------------------

    @rpc
    async def get(self, key: str) -> Versions:
        """Read from R servers: what is to be kept of their versions."""
        if self.address not in self.homes(key):
            try:
                found: Versions = await self.forward(key, lambda home: home.get(key))
                return found
            except Failure:
                if not self.sloppy:
                    raise
        answers: list[tuple[str, Versions]] = []
        spare = self.spare(key) if self.sloppy else iter(())

        async def ask(home: str) -> None:
            for server in chain((home,), spare):
                try:
                    versions = await self.at(server, timeout=self.patience).load(key)
                except Failure:
                    continue
                answers.append((server, versions))
                return
            raise Refused("no server answered")

        await self.quorum(self.r, self.chosen(key, self.r), ask)
        latest = reconcile([v for _, versions in answers for v in versions], self.policy)
        if self.read_repair and self.expanding:
            self.after(2 * self.patience, self.repair, key, answers)
        return latest

    @rpc
    async def put(self, key: str, value: str | int, context: Vector) -> None:
        """Write to W servers.  ``context``: what the writer had read, which this replaces."""
        if self.address not in self.homes(key):
            try:
                await self.forward(key, lambda home: home.put(key, value, context))
                return
            except Failure:
                if not self.sloppy:
                    raise
        self.written += 1
        self.latest = max(self.latest + 1, int(self.now * 1e9))
        version = Version(value, self.latest, self.writer, advance(context, self.writer, self.written))
        spare = self.spare(key)

        async def give(home: str) -> None:
            try:
                return await self.at(home, timeout=self.patience).store(key, (version,))
            except Failure as failure:
                missed = failure
            for server in spare if self.expanding else ():
                try:
                    await self.at(server, timeout=self.patience).store_for(home, key, (version,))
                except Failure:
                    continue
                if self.sloppy:
                    return
                break
            raise missed

        await self.quorum(self.w, self.chosen(key, self.w), give)

    async def repair(self, key: str, answers: list[tuple[str, Versions]]) -> None:
        """Read repair: those whose answer was out of date get what is newer (section 5)."""
        latest = reconcile([v for _, versions in answers for v in versions], self.policy)
        homes = self.homes(key)
        stale = [server for server, versions in answers if versions != latest and server in homes]
        await settle(*(self.at(server).store(key, latest) for server in stale))

    def chosen(self, key: str, quorum: int) -> list[str]:
        """Whom to ask: all homes; in the model of Bailis et al. only as many as are needed, at random."""
        homes = self.homes(key)
        return homes if self.expanding else self.random.sample(homes, quorum)

    def spare(self, key: str) -> Iterator[str]:
        """Servers that may stand in for homes: each once."""
        return iter(self.ring.walk(key)[self.n :])

    async def quorum(self, needed: int, homes: list[str], ask: Callable[[str], Awaitable[None]]) -> None:
        try:
            await first(needed if self.safeguards.quorums_meet else 1, *map(ask, homes))
        except Failure as failure:
            raise TooFew(f"{needed} of {self.n} servers are needed: {failure}") from None

    async def forward(self, key: str, send: Callable[[Any], Awaitable[Any]]) -> Any:
        """We are no home to this key: a home coordinates."""
        for home in self.homes(key):
            try:
                return await send(self.at(home, timeout=2.5 * self.patience))
            except Unreachable as refusal:
                last = refusal
        raise last


class QuorumClient(KeyValue):
    """Reads before it writes, so that the store knows what a write replaces (the context of section 4.1)."""

    servers: tuple[str, ...]
    policy: Policy
    sloppy: bool
    routing: Literal["client", "server"]
    attempts: int = 8

    async def start(self) -> None:
        self.ring = Ring(self.servers)
        self.shunned_until = dict.fromkeys(self.servers, 0.0)

    @rpc
    async def get(self, key: str) -> Value:
        return self.value(await self.read(key))

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        # Last writer wins need not know what was there.
        seen = await self.read(key) if self.policy == "vectors" else ()
        await self.write(key, value, seen)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        seen = await self.read(key)
        if self.value(seen) != expected:
            return False
        await self.write(key, value, seen)
        return True

    def value(self, versions: Versions) -> Value:
        """Siblings are merged: the newest of them is the value."""
        latest = newest(versions)
        return None if latest is None else latest.value

    async def read(self, key: str) -> Versions:
        try:
            versions: Versions = await self.ask(key, lambda server: server.get(key), again=True)
            return versions
        except Failure as failure:
            raise Refused(f"{key} could not be read: {failure}") from None

    async def write(self, key: str, value: str | int, seen: Versions) -> None:
        """A write that may have happened is not sent again, as it would be another version, and the first
        could come back when the second was replaced; except where that is not promised anyway."""
        context = join(*(version.vector for version in seen))
        await self.ask(key, lambda server: server.put(key, value, context), again=self.sloppy)

    async def ask(self, key: str, send: Callable[[Any], Awaitable[Any]], *, again: bool) -> Any:
        """Ask a home of the key (client-driven), or any server, which finds one (server-driven: one step
        more, section 6.4); if it cannot be reached, others; if it does not answer, only ``again``."""
        servers = list(self.ring.walk(key))
        if self.routing == "server":
            self.random.shuffle(servers)
        doubt: Failure | None = None
        left: list[str] = []
        for attempt in range(self.attempts):
            left = left or list(servers)  # nobody twice before everybody once
            left.sort(key=lambda server: self.shunned_until[server] > self.now)
            server = left.pop(0)
            try:
                return await send(self.at(server, Server, timeout=0.7))
            except Failure as failure:
                if not failure.definite:
                    doubt = failure
                if doubt is not None and not again:
                    raise
                last = failure
                self.shunned_until[server] = self.now + 0.5
                await self.sleep(0.01 * attempt)
        raise doubt or last


class Quorum(Guarded):
    """Each key is on N servers; a write waits for W of them and a read for R (Dynamo)."""

    name = "quorum"
    family = "agreement"
    source = "DeCandia et al., Dynamo, SOSP 2007; Gifford, Weighted voting for replicated data, SOSP 1979"
    jobs = (Kv,)
    Safeguards = Safeguards
    claims = (
        "all replicas agree in the end",
        "strict quorums with R + W > N and version vectors: no read is stale, no acknowledged write is lost",
        "last writer wins: that too, but only while the clocks agree",
        "never linearizable: compare-and-set is a read and then a write",
        "no single point of failure",
    )
    metrics = {
        "siblings": "keys that some server holds in more than one version",
        "hints": "writes that are held for servers that were away",
    }

    servers: int = parameter(5, "servers on the ring", least=1)
    n: int = parameter(3, "servers that hold a key", least=1)
    r: int = parameter(2, "servers that a read waits for", least=1)
    w: int = parameter(2, "servers that a write waits for", least=1)
    versions: Policy = parameter("vectors", "how the newer of two versions is found")
    sloppy: bool = parameter(False, "whether other servers may stand in for those that do not answer")
    routing: Literal["client", "server"] = parameter(
        "client", "who knows the servers of a key: the client asks one, or any server finds one"
    )
    anti_entropy: float = parameter(
        0.5, "time between comparisons with another server; 0: never, and no hand-off", least=0, unit="s"
    )
    read_repair: bool = parameter(True, "whether a read repairs what it finds out of date")
    expanding: bool = parameter(
        True, "ask all N; false: only R or W at random, and nothing else is spread (Bailis et al., section 3)"
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not max(self.r, self.w) <= self.n <= self.servers:
            wrong = f"--r {self.r} --w {self.w} --n {self.n} --servers {self.servers}"
            raise ValueError(f"R and W are at most N, and N is at most the number of servers, not {wrong}")

    @property
    def strict(self) -> bool:
        """Whether every read meets every answered write."""
        return self.r + self.w > self.n and not self.sloppy

    @property
    def disclaims(self) -> tuple[str, ...]:
        sure = self.strict and self.versions == "vectors"
        spread = self.expanding and self.anti_entropy > 0
        return (
            LINEARIZABLE,
            *(() if sure else (FRESH, NOTHING_LOST)),
            *(() if spread else ("all replicas agree when it is quiet",)),
        )

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        server = Server(
            servers=addresses,
            n=self.n,
            r=self.r,
            w=self.w,
            policy=self.versions,
            sloppy=self.sloppy,
            expanding=self.expanding,
            read_repair=self.read_repair,
            anti_entropy=self.anti_entropy,
            safeguards=self.safeguards,
        )
        system.role("server", server, count=self.servers)
        client = QuorumClient(
            servers=addresses,
            policy=self.versions,
            sloppy=self.sloppy or not self.safeguards.write_once,
            routing=self.routing,
        )
        system.clients(client)

    async def ready(self, x: Any) -> None:
        await until_it_answers(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        """Wait until it is quiet; does every home of a key then hold the same of it?"""
        hints, differ, siblings, keys = 0, 0, 0, 0
        for _ in range(200 if self.expanding and self.anti_entropy else 1):
            asked = await settle(*(x.at(f"server-{i}", Server).holdings() for i in range(self.servers)))
            told = [t for t in asked if isinstance(t, Holdings)]
            hints = sum(t.hints for t in told)
            held: dict[str, list[Versions]] = {}
            for stored in (s for t in told for s in t.stored):
                held.setdefault(stored.key, []).append(stored.versions)
            keys = len(held)
            differ = sum(len(h) < self.n or len(set(h)) > 1 for h in held.values())
            siblings = sum(any(len(versions) > 1 for versions in h) for h in held.values())
            if not hints and not differ:
                break
            await x.sleep(0.1)
        words = f"{differ} of {keys} keys differ between their {self.n} servers"
        verdict = Verdict("all replicas agree when it is quiet", not differ, words)
        return {"siblings": siblings, "hints": hints}, [verdict]
