"""Laws of Raft: elections, replication, availability; measured from the messages of ``raft``'s own servers.

Elections are watched on the wire: a candidate's first RequestVote RPC is its timeout, a leader's first
AppendEntries RPC is its election.  Sections are those of Ongaro's thesis unless a law says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import fmean, median
from typing import Any, NamedTuple

from polyarch.architectures.raft import RaftStore
from polyarch.blocks.replicas import Command, Replica
from polyarch.core import Failure, Random, Timeout, parameter
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    at_least,
    between,
    exactly,
    relative,
    spread_out,
    within,
)
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Endpoint, Network, ns
from polyarch.runtimes.sim.session import SimSession

THESIS = "Ongaro, Consensus: bridging theory and practice, 2014, "


# -- elections --------------------------------------------------------------------------------------------


class Election(NamedTuple):
    """One, after a crash of the leader."""

    first: float
    """Seconds from the arrival of the last heartbeat to the first timeout."""
    took: float
    """Seconds from the crash to a new leader."""
    split: bool
    """Whether the first term elected nobody."""


class Elections:
    """A cluster whose leader is crashed again and again, each time when all followers have just heard of it
    at the same moment."""

    def __init__(
        self,
        n: int,
        latency: float,
        timeout: float,
        spread: float,
        *,
        s: int | None = None,
        sync: float = 0.0,
        pre_vote: bool = False,
        patience: float = 60.0,
        seed: int = 0,
    ) -> None:
        """``n`` servers of which, with the leader crashed, ``s`` live; timeouts from ``timeout`` to
        ``timeout * (1 + spread)`` seconds; ``sync``: seconds that a flush takes."""
        self.alive = n - 1 if s is None else s
        # A crash comes up to half a timeout after the last heartbeat, and none is on its way then.
        self.interval = min(0.5 * timeout + latency + 1e-6, 0.8 * timeout)
        self.timeout, self.latency, self.patience = timeout, latency, patience
        self.raft = RaftStore(
            servers=n, election_timeout=timeout, election_spread=spread, heartbeat=self.interval,
            pre_vote=pre_vote,
        )  # fmt: skip
        network = Network(latency=Constant(latency))
        self.session = SimSession(
            self.raft, seed=seed, network=network, detailed=False, links=True, disk_sync=sync
        )
        self.random = Random(seed).fork("crashes")
        self.leader, self.term = "", 0
        self.beat = 0.0  # when the latest AppendEntries RPC was sent,
        self.sent = 0  # and how many others were sent at the same time
        self.requested: float | None = None  # when the first RequestVote RPC was sent
        self.woken: Any = None
        self.session.kernel.observer = self.overhear

    def overhear(
        self, kind: str, time: int, source: str, target: str, method: Any, arguments: Any, _: Any
    ) -> None:
        """What a listener on the network learns."""
        if kind != "call":
            return
        if method.name == "append_entries":
            if arguments[0] > self.term:
                self.term, self.leader = arguments[0], source
                if self.woken is not None:
                    self.woken.set(time * 1e-9)
            self.sent = self.sent + 1 if time * 1e-9 == self.beat else 1
            self.beat = time * 1e-9
        elif method.name == "request_vote" and self.requested is None:
            self.requested = time * 1e-9

    def run(self, count: int) -> list[Election]:
        """So many elections; fewer if one takes longer than ``patience``."""

        async def experiment(x: Experimenter) -> list[Election]:
            names = [f"server-{i}" for i in range(self.raft.servers)]
            for name in names[1:]:  # without a spread, those that start together never elect anybody
                await x.control.crash(name)
            for name in names[1:]:
                await x.sleep(4 * self.latency)
                await x.control.restart(name)
            await self.raft.ready(x)
            for name in [n for n in names if n != self.leader][self.alive :]:
                await x.control.crash(name)  # for good
            elections: list[Election] = []
            while len(elections) < count and not (elections and elections[-1].took >= self.patience):
                elections.append(await self.elect(x))
            return elections

        return self.session.perform(experiment)

    async def elect(self, x: Experimenter) -> Election:
        heard = await self.quiet(x)
        await x.sleep(heard - x.now + self.random.between(0.0, 0.5 * self.timeout))
        term, dead, crashed = self.term, self.leader, x.now
        self.requested, self.woken = None, x.future()
        await x.control.crash(dead)
        try:
            elected = await self.woken.within(self.patience)
        except Timeout:
            return Election(math.nan, self.patience, True)
        assert self.requested is not None
        election = Election(self.requested - heard, elected - crashed, self.term > term + 1)
        await x.control.restart(dead)
        return election

    async def quiet(self, x: Experimenter) -> float:
        """Wait until the leader sends nothing but heartbeats, to all at the same time; when the next one
        arrives."""
        last = self.beat
        while True:
            await x.sleep(self.beat + self.interval + 1e-9 - x.now)
            alone = abs(self.beat - last - self.interval) < 1e-7 and self.sent == self.raft.servers - 1
            last = self.beat
            if alone and x.now - last < 1e-6:
                return last + self.latency


def split_votes(n: int, s: int, latency: float) -> float:
    """The probability that an election elects nobody: ``c`` candidates are too many, and they are those
    whose timeouts are within one latency of the first (section 9.2)."""
    c = s - n // 2 + 1
    return sum(math.comb(s, k) * latency**k * (1 - latency) ** (s - k) for k in range(c - 1, s + 1))


def _elect(job: tuple[dict[str, Any], int]) -> list[Election]:
    values, count = job
    return Elections(**values).run(count)


def elections(values: dict[str, Any], count: int, seeds: Sequence[int], tell: Tell) -> list[Election]:
    """So many elections with these parameters, divided among the seeds, on all cores."""
    # A cluster of its own for some hundred: a restart reads the log, and that has an entry for each.
    pieces = max(1, round(count / len(seeds) / 500))
    share = -(-count // (pieces * len(seeds)))
    jobs = [({**values, "seed": 10_000 * seed + piece}, share) for seed in seeds for piece in range(pieces)]
    return [election for some in spread_out(_elect, jobs, tell) for election in some]


class SplitVotes(Law):
    """Ongaro's estimate of split votes."""

    id = "RA-01"
    architecture = "raft"
    claim = "Split votes: P = sum over k >= c-1 of C(s,k) l^k (1-l)^(s-k), c = s - floor(n/2) + 1"
    source = THESIS + "section 9.2 (0.06 %, 5.2 %, 18.1 % quoted)"
    certainty = "quoted from the paper + reproduced by reference simulation"
    note = (
        "without pre-votes and with instant disks, as in the analysis; each election is a crash of the "
        "leader when all others have just heard of it, and is split if the next term has no leader"
    )
    seeds = 2
    n: int = parameter(5, "servers of the cluster", least=2, most=25)
    s: int = parameter(0, "servers that live when the leader has crashed; 0: all others", least=0, most=24)
    latency: float = parameter(
        0.1, "one-way latency, as a part of the range of timeouts", least=0.001, most=0.45
    )
    elections: int = parameter(0, "elections; 0: as many as the tolerance needs", least=0, most=1_000_000)
    listed = ({"n": 5, "s": 4, "latency": 0.1}, {"n": 7, "s": 6, "latency": 0.1})
    long = (
        {"n": 3, "s": 2, "latency": 0.1},
        {"n": 9, "s": 8, "latency": 0.1},
        {"n": 5, "s": 4, "latency": 0.01},
        {"n": 5, "s": 4, "latency": 0.2},
        {"n": 5, "s": 3, "latency": 0.1},
        {"n": 5, "s": 3, "latency": 0.2},
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.s = self.s or self.n - 1
        if not self.n // 2 < self.s < self.n:
            raise ValueError(
                f"--s takes an integer from {self.n // 2 + 1} to {self.n - 1} with --n {self.n}: "
                "a majority without the leader"
            )

    @property
    def count(self) -> tuple[int, float]:
        """How many elections, and the tolerance: ±0.006, or a quarter of what is rare; 3.3 standard
        deviations of the count at least."""
        p = split_votes(self.n, self.s, self.latency)
        wanted = 0.006 if p > 0.0025 else max(0.25 * p, 1e-4)
        count = self.elections or max(20_000, round(p * (1 - p) * (3.3 / wanted) ** 2))
        return count, max(wanted, 3.3 * math.sqrt(p * (1 - p) / count))

    def expected(self) -> dict[str, Expected]:
        return {"split votes": within(split_votes(self.n, self.s, self.latency), self.count[1])}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        # The range of timeouts is half of the shortest one: an answer comes long before the next election.
        values = {"n": self.n, "s": self.s, "timeout": 0.3, "spread": 0.5, "latency": self.latency * 0.15}
        seen = elections(values, self.count[0], seeds, tell)
        return {"split votes": sum(e.split for e in seen) / len(seen)}


class ElectionTime(Law):
    """Ongaro's estimate of the time without a leader."""

    id = "RA-03"
    architecture = "raft"
    claim = "First timeout E[M_s] = 1/(s+1); election E = (1 + 1/(s+1) + L) / (1 - split) + L + W - 1/4"
    source = THESIS + "sections 9.1 to 9.3"
    certainty = "quoted from the paper + equals theory computed here"
    note = (
        "timeouts from T to 2T, W = 0; the leader crashes at a uniform time in the half T that follows the "
        "arrival of its last heartbeat, as the formula has it"
    )
    seeds = 2
    n: int = parameter(5, "servers", least=3, most=25)
    timeout: float = parameter(150.0, "shortest timeout", least=10, most=10_000, unit="ms")
    latency: float = parameter(15.0, "one-way latency", least=0.01, most=2000, unit="ms")
    elections: int = parameter(10_000, "elections", least=100, most=1_000_000)
    listed = (
        {"timeout": 150.0, "latency": 15.0},
        {"timeout": 150.0, "latency": 1.0},
        {"timeout": 300.0, "latency": 35.0},
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.latency > 0.2 * self.timeout:
            raise ValueError(f"--latency takes at most a fifth of the timeout, {0.2 * self.timeout:g} ms")

    def expected(self) -> dict[str, Expected]:
        s, latency = self.n - 1, self.latency / self.timeout
        split = split_votes(self.n, s, latency)
        whole = (1 + 1 / (s + 1) + latency) / (1 - split) + latency - 0.25
        early = 1 - (1 - 1 / 4) ** s
        noise = 3.3 * math.sqrt(early * (1 - early) / self.elections)
        return {
            "E[M]": relative(1 / (s + 1), max(0.03, 3.3 / math.sqrt(self.elections))),
            "P(M <= 1/4)": within(early, max(0.03 * early, noise)),
            "election (ms)": relative(whole * self.timeout, max(0.03, 1.5 / math.sqrt(self.elections))),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        timeout = self.timeout * 1e-3
        values = {"n": self.n, "timeout": timeout, "spread": 1.0, "latency": self.latency * 1e-3}
        seen = elections(values, self.elections, seeds, tell)
        waits = [e.first / timeout - 1 for e in seen]
        return {
            "E[M]": fmean(waits),
            "P(M <= 1/4)": sum(m <= 0.25 for m in waits) / len(waits),
            "election (ms)": fmean(e.took for e in seen) * 1e3,
        }


class Figure16(Law):
    """The time without a leader, by the range of timeouts."""

    id = "RA-04"
    architecture = "raft"
    claim = "Figure 16: without randomness no election; with more of it, or shorter timeouts, faster ones"
    source = "Ongaro and Ousterhout, USENIX ATC 2014, figure 16 and section 9.3"
    certainty = "quoted from the paper"
    note = (
        "bound to hardware: checked are the order, that 150-150 ms does not elect within 10 s, and the mean "
        "of 12-24 ms; the paper's broadcast time is 15 ms, here it is 8 ms (1 ms one way, flushes of 3 ms): "
        "these servers give an AppendEntries RPC half of an election timeout for its round trip; after 60 s "
        "it is given up.  "
        "The paper: 150-155 median 287 ms, 150-200 worst 513 ms, 12-24 mean 35 and worst 152 ms"
    )
    seeds = 2
    n: int = parameter(5, "servers", least=3, most=25)
    latency: float = parameter(1.0, "one-way latency", least=0.01, most=1.5, unit="ms")
    flush: float = parameter(3.0, "time of a flush", least=0, most=3, unit="ms")
    trials: int = parameter(1000, "crashes for each range", least=20, most=100_000)

    def expected(self) -> dict[str, Expected]:
        return {
            "150-150: best (ms)": at_least(10_000),
            "150-155: median over that of 150-200": at_least(1.0, 287 / 183),
            "150-200: median over that of 12-24": at_least(1.0),
            "12-24: mean (ms)": between(15, 60, 35),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        seen: dict[str, list[float]] = {}
        for i, (low, high) in enumerate(((150, 150), (150, 155), (150, 200), (12, 24))):
            values = {
                "n": self.n, "timeout": low * 1e-3, "spread": high / low - 1, "patience": 60.0,
                "latency": self.latency * 1e-3, "sync": self.flush * 1e-3,
            }  # fmt: skip
            count = self.trials if high > low else len(seeds)

            def told(done: float, i: int = i) -> None:
                tell((i + done) / 4)

            done = elections(values, count, seeds, told)
            seen[f"{low}-{high}"] = [e.took * 1e3 for e in done]
        middle = {name: median(values) for name, values in seen.items()}
        return {
            "150-150: best (ms)": min(seen["150-150"]),
            "150-155: median over that of 150-200": middle["150-155"] / middle["150-200"],
            "150-200: median over that of 12-24": middle["150-200"] / middle["12-24"],
            "12-24: mean (ms)": fmean(seen["12-24"]),
            "150-155: median (ms)": middle["150-155"],
            "150-200: worst (ms)": max(seen["150-200"]),
            "12-24: worst (ms)": max(seen["12-24"]),
        }


class SmallestDowntime(Law):
    """The best case of a crash."""

    id = "RA-05"
    architecture = "raft"
    claim = "The smallest downtime is about half the shortest timeout, if heartbeats come every half of it"
    source = "Ongaro and Ousterhout, USENIX ATC 2014, section 9.3"
    certainty = "quoted from the paper"
    seeds = 2
    n: int = parameter(5, "servers", least=3, most=25)
    timeout: float = parameter(150.0, "shortest timeout; the longest is twice that", least=1, unit="ms")
    latency: float = parameter(1.0, "one-way latency", least=0.001, unit="ms")
    elections: int = parameter(5000, "elections", least=100, most=1_000_000)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.latency > 0.2 * self.timeout:
            raise ValueError(f"--latency takes at most a fifth of the timeout, {0.2 * self.timeout:g} ms")

    def expected(self) -> dict[str, Expected]:
        return {"smallest downtime / timeout": between(0.5, 0.6 + 2 * self.latency / self.timeout, 0.5)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        timeout = self.timeout * 1e-3
        values = {"n": self.n, "timeout": timeout, "spread": 1.0, "latency": self.latency * 1e-3}
        seen = elections(values, self.elections, seeds, tell)
        return {"smallest downtime / timeout": min(e.took for e in seen) / timeout}


# -- replication ------------------------------------------------------------------------------------------


class RoundTrips:
    """Each server's round trip with the leader; nothing takes time elsewhere."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return ns((self.times.get(source.name, 0.0) + self.times.get(target.name, 0.0)) / 2)


class OneRoundTrip(Law):
    """What an entry costs when nothing goes wrong."""

    id = "RA-06"
    architecture = "raft"
    claim = "An entry is committed after one round trip to a majority, with 2(n-1) messages"
    source = 'Ongaro and Ousterhout, USENIX ATC 2014, section 9.3 ("single round-trip to half the cluster")'
    certainty = "quoted from the paper + equals theory computed here"
    note = "follower number i is i steps away, there and back; the disk is instant"
    n: int = parameter(5, "servers", least=2, most=25)
    step: float = parameter(10.0, "difference of the followers' round trips", least=0.001, most=40, unit="ms")

    def expected(self) -> dict[str, Expected]:
        return {"commit (ms)": exactly(self.n // 2 * self.step), "messages": exactly(2 * (self.n - 1))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = sorted({self.one(seed) for seed in seeds})
        if len(found) > 1:
            raise ValueError(f"the seeds disagree: {found}")
        return {"commit (ms)": found[0][0], "messages": found[0][1]}

    def one(self, seed: int) -> tuple[float, int]:
        """The commit time (ms) and the messages of one entry."""
        longest = self.n * self.step * 1e-3
        times = RoundTrips()
        raft = RaftStore(servers=self.n, election_timeout=20 * longest, heartbeat=8 * longest)
        session = SimSession(
            raft, seed=seed, network=Network(latency=times), detailed=False, links=True, disk_sync=0.0
        )
        sent: list[bool] = []  # AppendEntries RPCs and answers: whether with entries

        def overhear(kind: str, _: int, source: str, target: str, method: Any, given: Any, __: Any) -> None:
            if method.name == "append_entries":
                sent.append(kind == "call" and bool(given[4]))

        async def experiment(x: Experimenter) -> tuple[float, int]:
            await raft.ready(x)
            client, leader = await self.lead(x)
            others = [f"server-{i}" for i in range(self.n) if f"server-{i}" != leader]
            times.times = {name: (i + 1) * self.step * 1e-3 for i, name in enumerate(others)}
            session.kernel.observer = overhear
            while sent != [False] * 2 * (self.n - 1):  # a heartbeat, and the answers: no other one for long
                sent.clear()
                await x.sleep(2.3 * longest)  # no whole part of the time between heartbeats
            sent.clear()
            begin = x.now
            await x.at(leader, Replica).submit(Command(client, 0, 0, "put", "key", 1))
            took = round((x.now - begin) * 1e3, 6)
            await x.sleep(2 * longest)
            return took, len(sent)

        return session.perform(experiment)

    async def lead(self, x: Experimenter) -> tuple[int, str]:
        """A client's session, and who has opened it: the leader."""
        while True:
            for i in range(self.n):
                try:
                    opened = await x.at(f"server-{i}", Replica).submit(Command(0, 0, 0, "register"))
                except Failure:
                    continue
                await x.sleep(0.1)
                return int(opened or 0), f"server-{i}"


# -- availability -----------------------------------------------------------------------------------------


class MajorityAvailability(Law):
    """How often a majority lives."""

    id = "RA-09"
    architecture = "raft"
    claim = "A majority lives, and writes are answered, with probability sum of C(n,i) p^i (1-p)^(n-i)"
    source = "standard"
    certainty = "theory (well known), value computed here"
    note = (
        "no sampling: each of the 2^n sets of servers is crashed in a run of its own, a write is tried, and "
        "those that are answered are weighted with their probabilities"
    )
    seeds = 1
    n: int = parameter(3, "servers", least=1, most=9)
    p: float = parameter(0.9, "probability that a server lives", least=0, most=1)
    listed = tuple({"n": n, "p": p} for n, p in product((3, 5, 7), (0.9, 0.99)))
    answered: dict[tuple[int, int], dict[tuple[bool, ...], bool]] = {}

    def expected(self) -> dict[str, Expected]:
        n, p = self.n, self.p
        majority = range(n // 2 + 1, n + 1)
        return {"available": within(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in majority), 1e-9)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        total = 0.0
        for seed in seeds:
            if (self.n, seed) not in self.answered:
                sets = list(product((True, False), repeat=self.n))
                answers = spread_out(_is_answered, [(self.n, seed, alive) for alive in sets], tell)
                self.answered[self.n, seed] = dict(zip(sets, answers))
            for alive, yes in self.answered[self.n, seed].items():
                total += yes * math.prod(self.p if lives else 1 - self.p for lives in alive)
        return {"available": total / len(seeds)}


def _is_answered(job: tuple[int, int, tuple[bool, ...]]) -> bool:
    n, seed, alive = job
    raft = RaftStore(servers=n)
    session = SimSession(raft, seed=seed)

    async def experiment(x: Experimenter) -> bool:
        await raft.ready(x)
        for i, lives in enumerate(alive):
            if not lives:
                await x.control.crash(f"server-{i}")
        try:
            await x.client.put("key", 1)
        except Failure:
            return False
        return True

    return session.perform(experiment)
