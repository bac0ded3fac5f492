"""Sharding: each key is at one of many servers, and moves when servers come and go.

By *hash*: a key's place is its hash, so that keys are spread evenly whatever they are called.  The hashes are
cut into slots, many for each shard, so that a new shard takes some from each of the others and most keys
stay (Karger et al., "Consistent hashing and random trees", 1997; slots of one size as in DeCandia et al.,
"Dynamo", 2007, section 6.2, strategy 3).  Neighbours are anywhere: for a range of keys ask all shards.

By *range*: a key's place is the key.  There is one region at first; one with too many keys is split in its
middle, and regions move from full shards to empty ones (Chang et al., "Bigtable", 2006, section 5).  A range
of keys is at few shards; but so are keys that are popular together.

Either way a place belongs to a *region*, and a *map* says which shard has it.  Clients keep a copy of the
map, which may be old: a shard refuses what it does not own, and the client asks the *directory* for the map
of today.  The directory moves regions, one at a time, and each step can be taken again after a crash:

1. the move is on the directory's disk;
2. the source stops to serve the region, for good, and gives its content (``give``);
3. the target has the content on its disk, and serves it (``take``);
4. the new map is on the directory's disk.

Between 2 and 3 nobody serves the region: its clients wait.  The source keeps a useless copy of what it gave.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from polyarch.blocks.keyed import KeyedClient, KeyedServer
from polyarch.blocks.once import growing
from polyarch.blocks.regions import By, Map, Region, Span, evenly, heavy, place
from polyarch.blocks.safeguards import Guarded
from polyarch.blocks.shard_safeguards import Safeguards
from polyarch.core import Failure, Node, Record, Refused, System, Verdict, gather, parameter, rpc
from polyarch.jobs.kv import Kv, Value

__all__ = ["Directory", "Shard", "ShardClient", "Sharded"]

T = TypeVar("T")


# -- messages --------------------------------------------------------------------------------------------


class Move(Record, array_like=True):
    """A region on its way."""

    number: int
    span: Span
    source: str
    target: str


class Size(Record, array_like=True):
    """Of one region."""

    keys: int
    middle: str
    """The place that cuts it in two halves."""


class Work(Record):
    """What a shard has done since it started, and what it owns."""

    served: int
    refused: int
    owned: tuple[Span, ...]


class NotOwner(Refused, code="not-owner"):
    """The key is at another shard: the client's map is old, or the key is on its way."""


# -- shards ----------------------------------------------------------------------------------------------


class Holdings(Record):
    """What a shard owns, after which move: one value on its disk."""

    move: int
    owned: tuple[Span, ...]


class Shard(KeyedServer):
    """Keeps the keys of its regions."""

    by: By
    first: tuple[Region, ...]  # the regions at the beginning of all time
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        own = tuple(span for span, owner in Map(0, self.first).spans() if owner == self.address)
        self.holdings = self.disk.get("holdings", Holdings, Holdings(0, own))
        self.served = self.refused = 0
        await super().start()

    def serve(self, key: str) -> None:
        where = place(self.by, key)
        if self.safeguards.check_ownership and not any(span.has(where) for span in self.holdings.owned):
            self.refused += 1
            raise NotOwner(key)
        self.served += 1

    def hold(self, move: int, owned: Iterable[Span]) -> None:
        self.holdings = Holdings(move, tuple(owned))
        self.disk.put("holdings", self.holdings)

    def content(self, span: Span) -> dict[str, Value]:
        return {key: value for key, value in self.values.data.items() if span.has(place(self.by, key))}

    def refuse_old(self, move: Move) -> None:
        if move.number < self.holdings.move and self.safeguards.refuse_old_moves:
            raise Refused("an old copy of a message")

    @rpc
    async def give(self, move: Move) -> dict[str, Value]:
        """Step 2 of a move.  Asked again, it gives the same again: nobody can have changed it."""
        self.refuse_old(move)
        content = self.content(move.span)
        if self.safeguards.stop_before_copy:
            self.stop(move)
        await self.disk.sync()
        self.stop(move)
        return content

    def stop(self, move: Move) -> None:
        owned = self.holdings.owned
        if any(own.meets(move.span) for own in owned):
            self.hold(move.number, [part for own in owned for part in own.without(move.span)])

    @rpc
    async def take(self, move: Move, content: dict[str, Value]) -> None:
        """Step 3 of a move."""
        self.refuse_old(move)
        if move.number != self.holdings.move or not self.safeguards.refuse_old_moves:
            self.values.change(content)
            self.hold(move.number, [*self.holdings.owned, move.span])
        if self.safeguards.take_on_disk:
            await self.disk.sync()

    @rpc
    async def scan(self, span: Span) -> dict[str, Value]:
        """All keys of a span, in order, if all of it is ours."""
        if span.without_all(self.holdings.owned):
            raise NotOwner(span.low)
        found = dict(sorted(self.content(span).items()))
        await self.durable()
        return found

    @rpc
    async def sizes(self, spans: tuple[Span, ...]) -> tuple[Size, ...]:
        """How much is in these regions."""
        sizes = []
        for span in spans:
            places = sorted(place(self.by, key) for key in self.content(span))
            sizes.append(Size(len(places), places[len(places) // 2] if places else ""))
        return tuple(sizes)

    @rpc
    async def work_done(self) -> Work:
        """What it has done so far."""
        return Work(self.served, self.refused, self.holdings.owned)


# -- the directory ---------------------------------------------------------------------------------------


class Plan(Record):
    """All that the directory knows: one value on its disk."""

    map: Map
    active: tuple[str, ...]
    """The shards that shall have regions."""
    moves: int = 0
    moving: Move | None = None


class Directory(Node):
    """Has the map, and moves regions until they are spread evenly."""

    by: By
    first: tuple[Region, ...]
    shards: tuple[str, ...]
    """Those that there are; at first all but the last ``spares`` are to have regions."""
    spares: int
    split: int
    join_at: float
    leave_at: float
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        active = self.shards[: len(self.shards) - self.spares]
        self.plan = self.disk.get("plan", Plan, Plan(Map(1, self.first), active))
        if self.join_at:
            self.after(self.join_at, self.join, self.shards[-1])
        if self.leave_at:
            self.after(self.leave_at, self.leave, self.shards[0])
        self.spawn(self.work_on())

    @rpc
    async def where(self) -> Map:
        """The map of today."""
        return self.plan.map

    @rpc
    async def whole_plan(self) -> Plan:
        """Everything."""
        return self.plan

    @rpc
    async def join(self, shard: str) -> None:
        """This shard shall have regions too."""
        await self.activate(tuple(dict.fromkeys((*self.plan.active, shard))))

    @rpc
    async def leave(self, shard: str) -> None:
        """This shard shall have none any more."""
        if self.plan.active == (shard,):
            raise Refused(f"{shard} is the last shard")
        await self.activate(tuple(other for other in self.plan.active if other != shard))

    async def activate(self, shards: tuple[str, ...]) -> None:
        self.write(Plan(self.plan.map, shards, self.plan.moves, self.plan.moving))
        await self.disk.sync()

    def write(self, plan: Plan) -> None:
        self.plan = plan
        self.disk.put("plan", plan)

    async def work_on(self) -> None:
        """For ever: do the move that is begun, or think of the next one."""
        while True:
            move = self.plan.moving
            if move is not None:
                if self.safeguards.log_moves:
                    await self.disk.sync()  # 1
                content = await self.insist(self.at(move.source, Shard).give, move)  # 2
                await self.insist(self.at(move.target, Shard).take, move, content)  # 3
                self.write(Plan(self.plan.map.moved(move.span, move.target), self.plan.active, move.number))
                await self.disk.sync()  # 4
                continue
            try:
                better = await self.improve()
            except Failure:
                better = False  # somebody is down, and nothing can be said of how much is there
            if not better:
                await self.sleep(0.1)

    async def insist(self, ask: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        for pause in growing(most=0.5):
            try:
                return await ask(*arguments)
            except Failure:
                await self.sleep(pause)

    async def improve(self) -> bool:
        """Split a region that has become too large, or begin to move one from who has too much."""
        weights: dict[Span, int] = {}
        held: dict[str, list[Span]] = {shard: [] for shard in self.shards}
        for span, owner in self.plan.map.spans():
            held[owner].append(span)
            weights[span] = 1
        if self.by == "range":
            for shard, spans in held.items():
                for span, size in zip(spans, await self.at(shard, Shard).sizes(tuple(spans))):
                    if size.keys > self.split and size.middle > span.low:
                        cut = self.plan.map.cut(size.middle)
                        self.write(Plan(cut, self.plan.active, self.plan.moves))
                        return True
                    weights[span] = size.keys
        chosen, number = heavy(held, weights, self.plan.active), self.plan.moves + 1
        if chosen is not None:
            self.write(Plan(self.plan.map, self.plan.active, number, Move(number, *chosen)))
        return chosen is not None


# -- clients ---------------------------------------------------------------------------------------------


class ShardClient(KeyedClient):
    """Asks the shard that its map says, and for a new map when that was wrong."""

    directory: Directory
    by: By
    first: tuple[Region, ...]

    async def start(self) -> None:
        await super().start()
        self.map = Map(0, self.first)
        self.every(1.0, self.refresh, jitter=0.2)

    async def refresh(self) -> None:
        """Before we run into refusals, or because of one."""
        try:
            self.map = max(self.map, await self.directory.where(), key=lambda map_: map_.version)
        except Failure:
            pass  # the old one may do

    async def at_server(self, key: str, ask: Callable[[str, float], Awaitable[T]]) -> T:
        return await self.at_owner(place(self.by, key), ask)

    async def at_owner(self, where: str, ask: Callable[[str, float], Awaitable[T]]) -> T:
        give_up, pauses = self.now + self.patience, growing()
        while True:
            try:
                return await ask(self.map.owner(where), give_up)
            except NotOwner:
                if self.now >= give_up:
                    raise
            await self.sleep(next(pauses))
            await self.refresh()

    @rpc
    async def scan(self, low: str, high: str) -> dict[str, Value]:
        """The keys from ``low`` on and before ``high``, region by region: not all at one moment."""
        if self.by == "hash":
            raise Refused("by hash neighbours are anywhere: every shard would have to be asked")
        found: dict[str, Value] = {}
        while low < high:
            part, low = await self.at_owner(low, functools.partial(self.scan_one, low, high))
            found.update(part)
        return found

    async def scan_one(self, low: str, high: str, shard: str, give_up: float) -> tuple[dict[str, Value], str]:
        end = self.map.span(low).high
        span = Span(low, high if end is None else min(end, high))
        return await self.ask(shard, Shard, lambda there: there.scan(span), give_up), span.high or high


class Sharded(Guarded):
    """Keys spread over shards by hash or by range; they move when shards come and go."""

    name = "sharded"
    family = "horizontal"
    source = "Karger et al., 1997; DeCandia et al., Dynamo, 2007, section 6.2; Chang et al., Bigtable, 2006"
    jobs = (Kv,)
    gaps = {"bank": "a transfer touches two keys, at two shards: see two_phase_commit"}
    claims = (
        "each key is linearizable, also while it moves",
        "a crash of a shard stops the keys that are there, and no others",
        "a crash of the directory stops moves, and nothing else",
        "by range a range of keys can be asked for; by hash it cannot",
    )
    metrics = {
        "imbalance": "operations of the busiest shard by those of the mean one, since their last start",
        "regions": "regions of the map",
        "moves": "regions that have moved",
        "refused": "requests that came to a shard that did not own the key, since its last start",
    }
    Safeguards = Safeguards

    shards: int = parameter(4, "shards at first", least=1)
    spares: int = parameter(1, "further processes, which may join", least=0)
    by: By = parameter("hash", "how keys are spread: hash or range")
    slots: int = parameter(16, "by hash: regions for each shard", least=1, most=1000)
    split: int = parameter(20, "by range: most keys of a region", least=2)
    join_at: float = parameter(0.0, "when the last spare joins, since the start; 0: never", least=0, unit="s")
    leave_at: float = parameter(0.0, "when the first shard leaves, likewise", least=0, unit="s")

    def build(self, system: System) -> None:
        shards = system.addresses("shard", self.shards + self.spares)
        active = shards[: self.shards]
        first = evenly(active, self.slots) if self.by == "hash" else (Region("", active[0]),)
        shard = Shard(by=self.by, first=first, safeguards=self.safeguards)
        directory = Directory(
            by=self.by, first=first, shards=shards, spares=self.spares, split=self.split,
            join_at=self.join_at, leave_at=self.leave_at, safeguards=self.safeguards,
        )  # fmt: skip
        system.role("shard", shard, count=len(shards))
        system.role("directory", directory)
        system.clients(ShardClient(directory=directory, by=self.by, first=first))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        shards = [f"shard-{i}" for i in range(self.shards + self.spares)]
        directory = x.at("directory-0", Directory)
        version = 0
        while version != (plan := await directory.whole_plan()).map.version or plan.moving is not None:
            version = plan.map.version
            await x.sleep(0.3)
        work = dict(zip(shards, await gather(*(x.at(shard, Shard).work_done() for shard in shards))))
        served = [work[shard].served for shard in plan.active]
        refused = sum(w.refused for w in work.values())
        metrics = {"regions": len(plan.map.regions), "moves": plan.moves, "refused": refused}
        if sum(served):
            metrics["imbalance"] = round(max(served) * len(served) / sum(served), 3)
        astray = [s for s, owner in plan.map.spans() if s.without_all(work[owner].owned)]
        words = f"{len(astray)} of {len(plan.map.regions)} regions are not where the map says"
        return metrics, [Verdict("every key is where the map says", not astray, words)]

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        return "directory-0"

    def invariants(self, nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterable[str]:
        shards = [(a, node) for a, node in nodes.items() if isinstance(node, Shard)]
        owned = sorted((span.low, a, span) for a, node in shards for span in node.holdings.owned)
        for (_, a, one), (_, b, next_) in itertools.pairwise(owned):
            if a != b and one.meets(next_):
                yield f"no key is served by two shards: {a} and {b} own the same keys"
