"""Runs of Raft in which seeds decide what goes wrong, and the search for one that breaks a promise.

Each scenario is a kind of mischief; together they find every safeguard of Raft that is left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from polyarch.architectures.raft import LEADER, Raft, RaftStore
from polyarch.core import Done, Failure, Random, settle
from polyarch.jobs.kv import KeyValue, Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Exponential, Network
from polyarch.runtimes.sim.session import SimSession


class World:
    """A running store, and what a scenario may do to it."""

    def __init__(self, seed: int, *, clients: int = 3, disk_sync: float = 0.001, **parameters: Any) -> None:
        self.store = RaftStore(**{"servers": 3, "election_timeout": 0.1, "heartbeat": 0.03, **parameters})
        self.random = Random(seed).fork("mischief")
        self.clients = ["client", *(f"client-{i}" for i in range(1, clients))]
        self.session = SimSession(
            self.store,
            seed=seed,
            clients=clients,
            detailed=False,
            links=True,
            disk_sync=disk_sync,
            network=Network(latency=Exponential(0.002, 0.0005)),
        )
        self.names = [f"server-{i}" for i in range(self.store.servers + self.store.spares)]
        self.violations: list[str] = []
        self.seen: dict[Any, Any] = {}
        self.history: list[Done] = []
        self.x: Experimenter
        self.until = 0.0

    # -- looking ------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[str, Raft]:
        directory = self.session.kernel.directory
        return {a: directory[a].node for a in self.names if directory[a].up and directory[a].node is not None}

    def look(self) -> None:
        self.violations += self.store.invariants(self.nodes, self.seen)

    @property
    def over(self) -> bool:
        return bool(self.violations) or self.x.now >= self.until

    def leaders(self) -> list[str]:
        return [a for a, node in self.nodes.items() if node.role == LEADER]

    async def wait_for(self, condition: Callable[[], Any], step: float = 0.002) -> Any:
        while not (found := condition()) and not self.over:
            await self.x.sleep(step)
        return found

    # -- acting -------------------------------------------------------------------------------------------

    async def pause(self, least: float, most: float) -> None:
        await self.x.sleep(self.random.between(least, most))

    async def crash(self, *names: str) -> None:
        self.look()
        for name in names:
            await self.x.control.crash(name)

    async def restart(self, *names: str) -> None:
        for name in names:
            await self.x.control.restart(name)

    async def cut(self, some: Sequence[str], others: Sequence[str], *, both_ways: bool = True) -> None:
        await self.x.control.disturb(some, others, loss=1.0)
        if both_ways:
            await self.x.control.disturb(others, some, loss=1.0)

    async def drift(self, name: str, drift: float) -> None:
        """Let a clock run faster or slower from now on, without a jump."""
        process = self.session.kernel.processes[name]
        now = self.session.kernel.now * 1e-9
        offset = now * (process.drift - drift) + process.offset
        await self.x.control.skew(name, offset=offset, drift=drift)

    def others(self, *names: str) -> list[str]:
        return [n for n in self.names if n not in names]

    # -- the run ------------------------------------------------------------------------------------------

    def run(self, scenario: Scenario, seconds: float, *, keys: int = 2, think: float = 0.02) -> list[str]:
        """What was violated."""
        job = Kv(keys=keys, reads=0.5, swaps=0.2)

        async def experiment(x: Experimenter) -> None:
            self.x, self.until = x, x.now + seconds
            watching = x.spawn(self.watch())
            mischief = x.spawn(scenario(self))
            await settle(*(self.client(i, job, think) for i in range(len(self.clients))))
            await mischief
            watching.cancel()
            self.look()

        self.session.perform(experiment)
        if not self.violations:
            self.violations += [v.detail for v in job.check(self.history, None) if not v.holds]
        self.violations += [f"bug: {bug}" for bug in self.session.kernel.bugs]
        self.session.close()
        return self.violations

    async def watch(self) -> None:
        while True:
            self.look()
            await self.x.sleep(0.01)

    async def client(self, number: int, job: Kv, think: float) -> None:
        client, x = self.x.at(f"client-{number}", KeyValue), self.x
        # All clients draw from one stream: no two writes write the same value.
        if number == 0:
            self.visits = job.visits(self.random.fork("load"))
        while not self.over:
            (operation,), start = next(self.visits), x.now
            while number == 0 and operation.name != "get":  # one that reads only, as it is never kept waiting
                (operation,) = next(self.visits)
            value, outcome = None, "ok"
            try:
                value = await getattr(client, operation.name)(*operation.arguments)
            except Failure as failure:
                outcome = "fail" if failure.definite else "info"
            done = Done(number, operation.name, operation.arguments, start, start, x.now, outcome, value)  # type: ignore[arg-type]
            self.history.append(done)
            await x.sleep(self.random.exponential(think))


Scenario = Callable[[World], Awaitable[None]]


def search(scenario: Scenario, seeds: range, *, seconds: float = 3.0, keys: int = 2, think: float = 0.02,
           **parameters: Any) -> tuple[int, list[str]] | None:  # fmt: skip
    """The first seed with which something is violated, and what."""
    for seed in seeds:
        violations = World(seed, **parameters).run(scenario, seconds, keys=keys, think=think)
        if violations:
            return seed, violations
    return None


# -- scenarios --------------------------------------------------------------------------------------------


async def wreck(w: World) -> None:
    """A bit of everything: crashes, partitions, bad links, pauses, a minority or a majority at a time."""
    random = w.random
    while not w.over:
        await w.pause(0.02, 0.3)
        victims = random.sample(w.names, 1 + random.below(len(w.names)))
        if random.chance(0.5):
            victims = list(dict.fromkeys([*w.leaders(), *victims]))[: len(victims)]
        kind = random.below(5)
        if kind == 0:
            await w.crash(*victims)
            await w.pause(0.0, 0.3)
            await w.restart(*victims)
        elif kind == 1:
            await w.cut(victims, w.others(*victims), both_ways=random.chance(0.7))
            await w.pause(0.1, 0.6)
        elif kind == 2:
            await w.x.control.disturb(None, None, loss=0.1, duplicate=0.2, reorder=0.3)
            await w.pause(0.1, 0.6)
        elif kind == 3:
            await w.x.control.disturb(victims, None, delay=random.between(0.01, 0.1))
            await w.pause(0.1, 0.4)
        else:
            await w.x.control.pause(victims[0])
            await w.pause(0.05, 0.4)
            await w.x.control.resume(victims[0])
        await w.x.control.heal()


async def revote(w: World) -> None:
    """Rivals in one term, and voters that crash when their vote is on its way."""
    while not w.over:
        await w.crash(*w.names)
        await w.restart(*w.names)
        again = w.x.now + 0.5
        while w.x.now < again and not w.over:
            await w.x.sleep(0.0005)
            for name, node in w.nodes.items():
                if node.role == "follower" and node.voted_for and node.synced == node.written:
                    await w.crash(name)
                    await w.restart(name)
            if w.leaders():
                break


async def power(w: World) -> None:
    """All servers lose power at once."""
    while not w.over:
        await w.pause(0.02, 0.5)
        await w.crash(*w.names)
        await w.restart(*w.names)


async def deposed(w: World) -> None:
    """A leader is cut off from the other servers, and some clients from the others, and do not notice."""
    while not w.over:
        await w.pause(0.05, 0.4)
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        await w.cut(leader[:1], w.others(leader[0]))
        await w.pause(0.1, 1.0)
        await w.x.control.heal()


async def late_snapshots(w: World) -> None:
    """Somebody falls behind; what it is sent then comes late, and again even later.  Leaders die."""
    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        behind = w.random.choice(w.others(leader[0]))
        await w.cut([behind], w.others(behind))
        await w.pause(0.05, 0.2)
        await w.x.control.heal()
        await w.x.control.disturb(None, [behind], duplicate=1.0, delay=0.06)
        await w.pause(0.02, 0.06)
        await w.x.control.heal()
        await w.pause(0.02, 0.06)
        other = w.others(behind, leader[0])
        await w.cut(other, w.others(*other))
        await w.pause(0.02, 0.1)
        await w.crash(*w.leaders())
        await w.x.control.heal()
        await w.pause(0.2, 0.4)
        await w.restart(*w.names)


async def slow_clock(w: World) -> None:
    """A leader whose clock nearly stands still is cut off, and does not notice."""
    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        await w.drift(leader[0], 0.1)
        await w.cut(leader[:1], w.others(leader[0]))
        await w.pause(0.2, 0.8)
        await w.x.control.heal()
        await w.drift(leader[0], 1.0)
        await w.pause(0.0, 0.3)


async def usurper(w: World) -> None:
    """A follower hears no leader, though others do; and then the leader is cut off from all of them."""
    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        rival = w.random.choice(w.others(leader[0]))
        await w.cut(leader[:1], [rival, *w.clients[1:]])
        for _ in range(1000):
            await w.x.sleep(0.001)
            if rival in w.leaders():
                break
        await w.cut(leader[:1], w.others(leader[0]))
        await w.pause(0.0, 0.5)
        await w.x.control.heal()
        await w.pause(0.0, 0.3)


async def lagging(w: World) -> None:
    """Somebody does not hear of what happens, and is back when the leader dies."""
    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        behind = w.random.choice(w.others(leader[0]))
        await w.cut([behind], w.others(behind))
        await w.pause(0.05, 0.4)
        await w.crash(*w.leaders())
        await w.x.control.heal()
        await w.pause(0.0, 0.4)
        await w.restart(*w.names)


async def brief_leaders(w: World) -> None:
    """Leaders that reach one follower or none, and crash soon: figure 8."""
    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        some = w.random.sample(w.others(leader[0]), w.random.below(2) + len(w.names) // 2)
        await w.cut(leader[:1], some)
        await w.pause(0.0, 0.03)
        await w.crash(leader[0])
        await w.x.control.heal()
        await w.pause(0.0, 0.25)
        await w.restart(*w.names)


async def reconfigure(w: World) -> None:
    """Servers are added and removed, two at once too, by leaders that reach some of the others and lose
    their office soon."""

    async def change(leader: str, server: str, *, add: bool) -> None:
        at = w.x.at(leader, Raft, timeout=0.5)
        await (at.add_server(server) if add else at.remove_server(server))

    while not w.over:
        leader = await w.wait_for(w.leaders)
        if not leader:
            return
        name = leader[0]
        await w.cut([name], w.random.sample(w.others(name), w.random.below(len(w.names))))
        for server in w.random.sample(w.names, 1 + w.random.below(2)):
            node = w.nodes.get(name)
            if node is not None and (server not in node.log.members or len(node.log.members) > 2):
                w.x.spawn(change(name, server, add=server not in node.log.members))
        await w.pause(0.0, 0.15)
        if w.random.chance(0.5):
            await w.cut([name], w.others(name))
        else:
            await w.crash(name)
        await w.pause(0.0, 0.3)
        await w.x.control.heal()
        await w.restart(*w.names)


async def two_changes(w: World) -> None:
    """A leader adds a server, and nobody but that one hears of it; another leader removes the first, and only
    a part of those who elected it hears of that; then the first is back (Ongaro, raft-dev, July 2015)."""
    leader = await w.wait_for(w.leaders)
    if not leader:
        return
    old = leader[0]
    (spare,) = [n for n in w.names if n not in w.nodes[old].log.members]
    rest = w.others(old, spare)
    term = w.nodes[old].current_term
    await w.pause(0.02, 0.1)
    await w.cut([old, spare], rest)
    w.x.spawn(w.x.at(old, Raft, timeout=0.5).add_server(spare))

    def voters() -> list[tuple[str, str]]:
        """Who has voted for another one, since."""
        nodes = [(name, w.nodes[name]) for name in rest]
        later = [(name, n.voted_for) for name, n in nodes if n.current_term > term]
        return [(name, candidate) for name, candidate in later if candidate not in (None, name)]

    voted = await w.wait_for(voters, 0.0003)
    if not voted:
        return
    voter, new = w.random.choice(voted)
    await w.cut([new], [voter], both_ways=False)
    await w.wait_for(lambda: new in w.leaders(), 0.001)
    for _ in range(5):
        w.x.spawn(w.x.at(new, Raft, timeout=0.1).remove_server(old))
        await w.pause(0.01, 0.03)
    await w.x.control.heal()
    third = [n for n in rest if n not in (voter, new)]
    await w.cut([new, *third], [old, spare, voter])
    await w.pause(0.5, 1.0)
    await w.x.control.heal()
