"""Laws of coordination: mutual exclusion and two-phase commit by counting messages, and the token ring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from polyarch.architectures.central_mutex import CentralMutex
from polyarch.architectures.ricart_agrawala import RicartAgrawala
from polyarch.architectures.token_ring import TokenRing
from polyarch.architectures.two_phase_commit import Shard, TwoPhaseCommit
from polyarch.blocks.critical_section import Participant
from polyarch.blocks.ring import identifier
from polyarch.core import Architecture, Random, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, exactly, relative
from polyarch.jobs.mutex import Turn
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Endpoint, Network, ns
from polyarch.runtimes.sim.session import SimSession

TANENBAUM = "van Steen and Tanenbaum, Distributed Systems, 4th ed., "


class Between:
    """So many seconds between processes of the algorithm; clients, experimenter and resource are nowhere."""

    def __init__(self, seconds: float) -> None:
        self.seconds_each = seconds

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        away = {source.name, target.name} & {"client", "experimenter", "resource-0"}
        return 0 if away else ns(self.seconds_each)


def session_of(architecture: Architecture, seconds: float, seed: int, **options: Any) -> SimSession:
    """A session in which a message of the algorithm takes so long, and nothing else takes any time."""
    network = Network(latency=Between(seconds))
    return SimSession(
        architecture, seed=seed, network=network, detailed=False, links=True, disk_sync=0.0, **options
    )


class Messages:
    """Counts messages on the network, by name; the answers of calls too."""

    def __init__(self, session: SimSession, *names: str) -> None:
        self.count = 0
        self.names = names
        self.rounds: dict[str, int] = {}
        session.kernel.observer = self.overhear

    def overhear(self, kind: str, _: int, source: str, target: str, method: Any, *__: Any) -> None:
        if method.name in self.names:
            self.count += 1
            self.rounds[f"{kind} {method.name}"] = self.rounds.get(f"{kind} {method.name}", 0) + 1


# -- mutual exclusion -------------------------------------------------------------------------------------

Way = Literal["central", "ricart_agrawala", "token_ring"]


class CostOfEntry(Law):
    """What each algorithm of mutual exclusion costs."""

    id = "RA-12"
    architecture = "mutual exclusion"
    claim = "Messages per entry, delays before it: central 3, 2; Ricart-Agrawala 2(n-1), 2; token 1.., 0..n-1"
    source = TANENBAUM + "section 5.3.5, table 5.1"
    certainty = "from memory"
    note = (
        "in units of one message's delay; requests of Ricart and Agrawala go out at the same time, hence 2 "
        "delays and not 2(n-1); token ring: 1 message if everybody wants to enter; 0 to n-1 delays by where "
        "the token is when somebody asks"
    )
    seeds = 2
    way: Way = parameter("central", "which")
    n: int = parameter(5, "processes", least=2, most=40)
    listed = ({"way": "central"}, {"way": "ricart_agrawala"}, {"way": "token_ring"})

    def expected(self) -> dict[str, Expected]:
        if self.way == "token_ring":
            return {
                "messages, all want to enter": exactly(1),
                "messages in a rotation, nobody does": exactly(self.n),
                "least delay": exactly(0),
                "greatest delay": exactly(self.n - 1),
            }
        messages = 3 if self.way == "central" else 2 * (self.n - 1)
        return {"messages": exactly(messages), "delay": exactly(2)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        measure = self.token if self.way == "token_ring" else self.asking
        found = [measure(seed) for seed in seeds]
        if found.count(found[0]) < len(found):
            raise ValueError(f"the seeds disagree: {found}")
        return found[0]

    def asking(self, seed: int) -> dict[str, Figure]:
        """One entry by itself of every process."""
        kind = CentralMutex if self.way == "central" else RicartAgrawala
        session = session_of(kind(nodes=self.n), 1e-3, seed)
        sniffed = Messages(session, "request", "release")

        async def experiment(x: Experimenter) -> list[Turn]:
            turns = []
            for i in range(self.n):
                turns.append(await x.client.enter(i, 0.0))
                await x.sleep(0.1)
            return turns

        turns = session.perform(experiment)
        delays = {round(turn.waited * 1e3, 6) for turn in turns}
        if len(delays) > 1:
            raise ValueError(f"entries differ in their delays: {sorted(delays)}")
        return {"messages": sniffed.count / len(turns), "delay": delays.pop()}

    def token(self, seed: int) -> dict[str, Figure]:
        session = session_of(TokenRing(nodes=self.n, rest=0.0, lost_after=0.0), 1e-3, seed)
        sniffed = Messages(session, "take")

        def passed() -> int:
            return sniffed.rounds.get("call take", 0)

        async def experiment(x: Experimenter) -> dict[str, Figure]:
            await x.sleep(0.01)
            begin = passed()
            await x.sleep(self.n * 1e-3)
            rotation = passed() - begin
            # The token is on a link; whoever it comes to next waits for less than the delay of one message.
            waits, random = [], x.random.fork("asking")
            for _ in range(40 * self.n):
                waits.append((await x.client.enter(random.below(self.n), 0.0)).waited * 1e3)
                await x.sleep(random.between(1.0, 2.0) * self.n * 1e-3)
            rounds = 20
            asked = [x.spawn(self.again(x, i, rounds)) for i in range(self.n)]
            await x.sleep(0.002 * self.n)
            begin, entered = passed(), await self.entries(x)
            await x.sleep(0.01 * self.n)
            share = (passed() - begin) / (await self.entries(x) - entered)
            for task in asked:
                await task
            return {
                "messages, all want to enter": round(share, 2),
                "messages in a rotation, nobody does": rotation,
                "least delay": math.floor(min(waits)),
                "greatest delay": math.floor(max(waits)),
            }

        return session.perform(experiment)

    async def again(self, x: Experimenter, process: int, rounds: int) -> None:
        for _ in range(rounds):
            await x.client.enter(process, 0.0)

    async def entries(self, x: Experimenter) -> int:
        told = await settle(*(x.at(f"station-{i}", Participant).waits() for i in range(self.n)))
        return sum(getattr(waits, "entries", 0) for waits in told)


# -- two-phase commit -------------------------------------------------------------------------------------


class TwoPhases(Law):
    """What agreeing on a transaction costs, and what it risks."""

    id = "RA-13"
    architecture = "two_phase_commit"
    claim = "4n messages for n participants; a crash of the coordinator after the votes blocks all of them"
    source = "Gray, Notes on data base operating systems, 1978"
    certainty = "theory (well known), value computed here"
    note = "3n until all participants know the decision, and n acknowledgements; executing is not counted"
    seeds = 2
    n: int = parameter(3, "participants", least=2, most=32)
    listed = ({"n": 2}, {"n": 3}, {"n": 7})

    def expected(self) -> dict[str, Expected]:
        return {
            "messages": exactly(4 * self.n),
            "until all know": exactly(3 * self.n),
            "blocked while the coordinator is dead": exactly(self.n),
            "blocked when it is back": exactly(0),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = [self.one(seed) for seed in seeds]
        if found.count(found[0]) < len(found):
            raise ValueError(f"the seeds disagree: {found}")
        return found[0]

    def one(self, seed: int) -> dict[str, Figure]:
        bank = TwoPhaseCommit(shards=self.n)
        session = session_of(bank, 1e-3, seed)
        sniffed = Messages(session, "prepare", "commit")
        accounts: dict[int, str] = {}  # one at each shard
        for i in range(10_000):
            accounts.setdefault(identifier(f"a{i}", 32) % self.n, f"a{i}")

        async def experiment(x: Experimenter) -> dict[str, Figure]:
            await bank.ready(x)
            await x.client.open(dict.fromkeys(accounts.values(), 100))  # a transaction of all shards
            await x.sleep(0.5)
            whole, acks = sniffed.count, sniffed.rounds["answer commit"]
            sniffed.rounds.clear()
            x.spawn(x.client.open(dict.fromkeys((f"{a} " for a in self.others(accounts)), 100)))
            while sniffed.rounds.get("answer prepare", 0) < self.n:
                await x.sleep(1e-4)
            await x.control.crash("coordinator-0")  # the votes are on their way
            await x.sleep(10.0)
            blocked = await self.in_doubt(x)
            await x.control.restart("coordinator-0")
            await x.sleep(5.0)
            return {
                "messages": whole,
                "until all know": whole - acks,
                "blocked while the coordinator is dead": blocked,
                "blocked when it is back": await self.in_doubt(x),
            }

        return session.perform(experiment)

    def others(self, accounts: dict[int, str]) -> list[str]:
        """Names that, with a blank behind them, are at different shards, as these accounts are."""
        found: dict[int, str] = {}
        for i in range(10_000):
            found.setdefault(identifier(f"b{i} ", 32) % self.n, f"b{i}")
        return list(found.values())

    async def in_doubt(self, x: Experimenter) -> int:
        asked: list[Any] = [x.at(f"shard-{i}", Shard).doubt() for i in range(self.n)]
        return sum(bool(getattr(doubt, "now", 0)) for doubt in await settle(*asked))


# -- the token ring as a network ----------------------------------------------------------------------------


class Utilisation(Law):
    """Of a token ring whose stations always have frames to send."""

    id = "TR-02"
    architecture = "token_ring"
    claim = "Maximum utilisation 1/(1 + a/N) for a < 1, and 1/(a (1 + 1/N)) for a > 1"
    source = "Stallings, Data and Computer Communications"
    certainty = "theory (well known), value computed here"
    note = (
        "a: propagation round the ring in frame times.  Each station keeps the token until its frame has "
        "been sent and has begun to come back, max(1, a) frame times, and passes it on in a/N"
    )
    seeds = 1
    n: int = parameter(10, "stations", least=2, most=100)
    a: float = parameter(0.5, "propagation time of the whole ring, in frame times", least=0.001, most=100)
    rotations: int = parameter(50, "of the token", least=5, most=10_000)
    listed = ({"n": 10, "a": 0.5}, {"n": 10, "a": 2.0})

    def expected(self) -> dict[str, Expected]:
        n, a = self.n, self.a
        return {"utilisation": relative(1 / (1 + a / n) if a < 1 else 1 / (a * (1 + 1 / n)), 0.01)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        frame = 1e-3
        found = []
        for seed in seeds:
            ring = TokenRing(nodes=self.n, rest=0.0, lost_after=0.0)
            session = session_of(ring, self.a / self.n * frame, seed)

            async def experiment(x: Experimenter) -> float:
                async def station(i: int) -> None:
                    for _ in range(self.rotations):
                        await x.client.enter(i, max(1.0, self.a) * frame)

                await x.sleep(0.01)
                begin = x.now
                await settle(*map(station, range(self.n)))
                return self.rotations * self.n * frame / (x.now - begin)

            found.append(session.perform(experiment))
        return {"utilisation": fmean(found)}


class WaitForToken(Law):
    """How long one waits for the token."""

    id = "TR-03"
    architecture = "token_ring"
    claim = "Idle ring: one waits for half a rotation on average; busy: each is served once in a rotation"
    source = "standard"
    certainty = "theory (well known), value computed here"
    seeds = 3
    n: int = parameter(10, "stations", least=2, most=100)
    waits: int = parameter(10_000, "waits on the idle ring, of all seeds", least=100, most=1_000_000)

    def expected(self) -> dict[str, Expected]:
        noise = 3.3 / math.sqrt(12 * self.waits) / 0.5
        return {
            "idle: mean wait / rotation": relative(0.5, max(0.02, noise)),
            "busy: most turns waited": exactly(self.n - 1),
            "busy: fewest turns waited": exactly(self.n - 1),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        waits: list[float] = []
        turns: list[int] = []
        for done, seed in enumerate(seeds, 1):
            session = session_of(TokenRing(nodes=self.n, rest=0.0, lost_after=0.0), 1e-3, seed)
            waits += session.perform(self.idle)
            session = session_of(TokenRing(nodes=self.n, rest=0.0, lost_after=0.0), 1e-3, seed)
            turns += session.perform(self.busy)
            tell(done / len(seeds))
        return {
            "idle: mean wait / rotation": fmean(waits) / (self.n * 1e-3),
            "busy: most turns waited": max(turns),
            "busy: fewest turns waited": min(turns),
        }

    async def idle(self, x: Experimenter) -> list[float]:
        """One asks at a time, at random times and places."""
        random, waits = x.random.fork("idle"), []
        for _ in range(-(-self.waits // self.seeds)):
            await x.sleep(random.between(1.0, 2.0) * self.n * 1e-3)
            waits.append((await x.client.enter(random.below(self.n), 0.0)).waited)
        return waits

    async def busy(self, x: Experimenter) -> list[int]:
        """All ask again and again: how many others were let in between two turns of each."""
        numbers: list[list[int]] = [[] for _ in range(self.n)]

        async def station(i: int) -> None:
            for _ in range(20):
                numbers[i].append((await x.client.enter(i, 0.001)).number)

        await settle(*map(station, range(self.n)))
        # The first rotation begins where the token happens to be.
        return [b - a - 1 for turns in numbers for a, b in pairwise(turns[1:-1])]
