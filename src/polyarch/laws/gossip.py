"""Laws of epidemics: how many cycles they take, whom they miss, what they cost.

The papers' model is synchronous: all act at the same moments, and what is learnt in a cycle is passed on in
the next one.  That is measured here with ``together`` on: the nodes' timers fire at the multiples of their
period, and messages take a constant thousandth of it.  Rumours that spread at the same time do not affect
each other (what is hot changes nothing about who calls whom), so one simulation may carry many, published one
after another; the first cycle of a rumour is the first that begins after its publication.  One in about a
thousand dies at once, as its first few tellers meet only each other: it is left out of means (EP-06, EP-08).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any, Literal

import numpy as np

from polyarch.architectures.anti_entropy import AntiEntropyBroadcast
from polyarch.architectures.averaging import Averaging, Waiting
from polyarch.architectures.gossip import GossipBroadcast
from polyarch.architectures.rumour_mongering import RumourMongering
from polyarch.blocks.broadcast import News, Teller
from polyarch.core import Architecture, Random, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, between, relative, spread_out, within
from polyarch.laws.unstructured import giant
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

DEMERS = "Demers et al., Epidemic algorithms for replicated database maintenance, PODC 1987, "
PERIOD = 1.0
TOGETHER = "all nodes act at the same moments, messages take a thousandth of a cycle"


def members(session: SimSession) -> list[Teller]:
    """The running nodes of all peers."""
    nodes = (env.node for address, env in session.kernel.directory.items() if address.startswith("peer-"))
    return list(nodes)


def spread(
    architecture: Architecture,
    seed: int,
    rumours: int,
    *,
    limit: int,
    over: Callable[[Teller], bool] = lambda peer: False,
    at_once: int = 1,
) -> tuple[list[list[int]], float]:
    """Publish so many rumours, some (``at_once``) in each cycle, each through a random peer; then go on until
    it is over for all peers, or for so many cycles.  In which cycle each delivery of each rumour was; and how
    many texts were carried for each rumour and member."""
    network = Network(latency=Constant(PERIOD / 1000))
    session = SimSession(architecture, seed=seed, network=network, detailed=False)
    with session:
        peers = members(session)
        random = Random(seed).fork("law")

        async def experiment(x: Experimenter) -> None:
            await x.sleep(0.5 * PERIOD)
            for rumour in range(rumours):
                await x.at(random.choice(peers), Teller).publish(News(rumour, ""))
                if (rumour + 1) % at_once == 0:
                    await x.sleep(PERIOD - (x.now - 0.5 * PERIOD) % PERIOD)
            for _ in range(limit):
                if all(map(over, peers)):
                    break
                await x.sleep(PERIOD)

        session.perform(experiment)
        assert not session.kernel.bugs, session.kernel.bugs[0]
        times: list[list[float]] = [[] for _ in range(rumours)]
        for peer in peers:
            for delivery in peer.log:
                times[delivery.message].append(delivery.at)
        copies = sum(peer.copies for peer in peers)
    found = []
    for at in times:
        begin = math.floor(min(at) / PERIOD)
        found.append([math.floor(t / PERIOD) - begin for t in at])
    return found, copies / rumours / len(peers)


# -- anti-entropy: how many cycles --------------------------------------------------------------------------


Style = Literal["push", "pull", "push-pull"]


def _cycles(job: tuple[str, int, int]) -> int:
    """Cycles until a message that one peer has published has reached all."""
    style, n, seed = job
    architecture = AntiEntropyBroadcast(nodes=n, style=style, period=PERIOD, together=True)
    limit = round(4 * math.log2(n)) + 20
    (deliveries,), _ = spread(architecture, seed, 1, limit=limit, over=lambda peer: bool(peer.log))
    if len(deliveries) < n:
        raise RuntimeError(f"{len(deliveries)} of {n} peers after {limit} cycles")
    return max(deliveries)


@cache
def counted_cycles(style: str, n: int, runs: int = 400) -> float:
    """Mean cycles of the same process when members are only counted: an oracle that knows no nodes."""
    random = np.random.default_rng(n)
    total = 0
    for _ in range(runs):
        heard = np.zeros(n, bool)
        heard[0] = True
        known = 1
        while known < n:
            total += 1
            new = np.zeros(n, bool)
            if "push" in style:
                callers = np.flatnonzero(heard)
                new[_others(random, callers, n)] = True
            if "pull" in style:
                callers = np.flatnonzero(~heard)
                new[callers[heard[_others(random, callers, n)]]] = True
            heard |= new
            known = int(heard.sum())
    return total / runs


def _others(random: np.random.Generator, callers: Any, n: int) -> Any:
    """A random other member for each caller."""
    drawn = random.integers(0, n - 1, len(callers))
    return drawn + (drawn >= callers)


class _Cycles(Law):
    architecture = "anti_entropy"
    style: Style = "push"
    n: int = parameter(1000, "peers", least=2, most=100_000)
    runs: int = parameter(60, "messages, each in a simulation of its own", least=2, most=10_000)
    deviation = 1.1
    """Of the number of cycles, about."""

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        # Each run has a seed of its own.
        begin = seeds[0] * 1_000_003
        jobs = [(self.style, self.n, begin + run) for run in range(self.runs)]
        return {"cycles": fmean(spread_out(_cycles, jobs, tell))}

    def tolerance(self, least: float) -> float:
        """Of a mean of so many runs."""
        return max(least, 3.5 * self.deviation / math.sqrt(self.runs))


class PushCycles(_Cycles):
    """Push alone."""

    id = "EP-01"
    claim = "Push: log2 N + ln N + O(1) cycles until all have heard"
    source = "Pittel, On spreading a rumor, SIAM J. Appl. Math. 47(1), 1987; the constant by simulation"
    certainty = "theory, value computed and confirmed by reference simulation"
    note = (
        f"{TOGETHER}.  18.0 for 10^3 and 23.5 for 10^4 by simulation; the formula alone gives 16.9 and 22.5; "
        "for other N: the same process counted without nodes"
    )
    style: Style = "push"
    seeds = 1
    listed = ({"n": 1000},)
    long = ({"n": 10_000},)

    def expected(self) -> dict[str, Expected]:
        known = {1000: 18.0, 10_000: 23.5}
        mean = known.get(self.n) or counted_cycles("push", self.n)
        return {"cycles": within(mean, self.tolerance(0.5))}


class PullCycles(_Cycles):
    """Pull alone."""

    id = "EP-A"
    claim = "Pull: log2 N + log2 ln N + O(1) cycles; at the end the share that lacks it is squared in each"
    source = DEMERS + "section 1.3 (the recurrence); the mean by counting the same process without nodes"
    certainty = "theory, value computed here"
    note = f"{TOGETHER}.  For some cycles, nobody may ask the only one who knows: it varies more than push"
    style: Style = "pull"
    seeds = 1
    deviation = 2.0

    def expected(self) -> dict[str, Expected]:
        return {"cycles": within(counted_cycles("pull", self.n), self.tolerance(0.5))}


class PushPullCycles(_Cycles):
    """Both."""

    id = "EP-B"
    claim = "Push-pull: log3 N + O(log log N) cycles"
    source = "Karp, Schindelhauer, Shenker, Vöcking, Randomized rumor spreading, FOCS 2000"
    certainty = "theory; the mean by counting the same process without nodes"
    note = f"{TOGETHER}.  Larger than log3 N by no more than 2 log2 ln N"
    style: Style = "push-pull"
    seeds = 1

    def expected(self) -> dict[str, Expected]:
        mean = counted_cycles("push-pull", self.n)
        above = 2 * math.log2(max(2.0, math.log(self.n)))
        return {
            "cycles": within(mean, self.tolerance(0.5)),
            "cycles - log3 N": between(-0.5, above + 0.5, mean - math.log(self.n, 3)),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        cycles = super().measure(seeds, tell)["cycles"]
        return {"cycles": cycles, "cycles - log3 N": cycles - math.log(self.n, 3)}


# -- averaging ----------------------------------------------------------------------------------------------


def _variances(job: tuple[Waiting, int, int, int]) -> list[float]:
    """The variance of all estimates at the end of each cycle."""
    waiting, n, cycles, seed = job
    architecture = Averaging(nodes=n, period=PERIOD, waiting=waiting, epoch=10 * cycles)
    network = Network(latency=Constant(PERIOD / 1000))
    session = SimSession(architecture, seed=seed, network=network, detailed=False)
    with session:
        directory = session.kernel.directory
        peers = [env.node for address, env in directory.items() if address.startswith("peer-")]
        found = []
        for cycle in range(cycles + 1):
            session.kernel.run(PERIOD if cycle else 1.5 * PERIOD)
            found.append(float(np.var([peer.estimate for peer in peers])))
        assert not session.kernel.bugs, session.kernel.bugs[0]
    return found


def factor_of_constant_waiting() -> float:
    """What the variance falls to in a period, if each begins an exchange exactly once in it, always at the
    same phase.  Let v(a) be the variance of members that began one a periods ago, falling as e^(-ct) v(a).
    Others call at rate 1, so v' = (c - 3/4) v + v(1)/4; to begin one makes it v(0) = (v(1) + mean v)/4."""

    def gap(c: float) -> float:
        d = c - 0.75
        rest = 1 / (4 * d)  # with v(1) = 1
        begun = (1 + rest) * math.exp(-d) - rest
        return 4 * begun - 1 - ((1 + rest) * (1 - math.exp(-d)) / d - rest)

    low, high = 1.0, 1.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return math.exp(-low)


class VarianceFalls(Law):
    """Each cycle takes the same part of the variance away."""

    id = "EP-C"
    architecture = "averaging"
    claim = "Push-pull averaging: the variance of the estimates falls to 1/(2 sqrt(e)) of it in each cycle"
    source = "Jelasity, Montresor, Babaoglu, ACM TOCS 23(3), 2005, section 3 (getPair_seq; getPair_rand: 1/e)"
    certainty = "theory (well known), value computed here"
    note = (
        "geometric mean of the cycles.  With a constant time between two exchanges of a member it falls a "
        "little faster than the paper says, since members take turns: expected there is the solution of a "
        "linear equation for the variance by the time since the last exchange"
    )
    seeds = 4
    n: int = parameter(2000, "peers", least=50, most=100_000)
    cycles: int = parameter(15, "measured", least=3, most=20)
    waiting: Waiting = parameter("cycle", "once in each cycle, or after a constant or exponential time")
    listed = ({"waiting": "cycle"}, {"waiting": "constant"}, {"waiting": "exponential"})

    def expected(self) -> dict[str, Expected]:
        factors = {"cycle": 0.5 / math.sqrt(math.e), "exponential": 1 / math.e}
        factor = factors.get(self.waiting) or factor_of_constant_waiting()
        return {"factor": within(factor, 0.01 * max(1.0, math.sqrt(2000 / self.n)))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.waiting, self.n, self.cycles, seed) for seed in seeds]
        runs = spread_out(_variances, jobs, tell)
        return {"factor": fmean((run[-1] / run[0]) ** (1 / self.cycles) for run in runs)}


# -- infect and die -----------------------------------------------------------------------------------------


def _reach(job: tuple[int, int, int, int]) -> list[float]:
    """The share of all peers that each of several messages reaches."""
    n, fanout, messages, seed = job
    found, _ = spread(GossipBroadcast(nodes=n, fanout=fanout), seed, messages, limit=1)
    return [len(deliveries) / n for deliveries in found]


class InfectAndDie(Law):
    """Whom a few copies miss."""

    id = "EP-03"
    architecture = "gossip"
    claim = "Infect and die with fanout f reaches r = 1 - e^(-f r) of all, if it takes off"
    source = "Kermarrec, Massoulié, Ganesh, IEEE TPDS 14(3), 2003; the limit of large random graphs"
    certainty = "theory, value computed and confirmed by reference simulation"
    note = "f different targets are drawn once by each peer; taken off: heard by more than a tenth of r"
    seeds = 4
    n: int = parameter(10_000, "peers", least=100, most=100_000)
    f: int = parameter(3, "fanout", least=2, most=50)
    messages: int = parameter(24, "in the simulations of all seeds", least=4, most=10_000)
    listed = ({"f": 2}, {"f": 3}, {"f": 4}, {"f": 6})

    def expected(self) -> dict[str, Expected]:
        r = giant(self.f)
        # The number reached varies by about sqrt(n r (1-r)) / (1 - f (1-r)) from message to message.
        deviation = math.sqrt(r * (1 - r) / self.n) / (1 - self.f * (1 - r))
        noise = 3.5 * deviation / math.sqrt(self.messages)
        return {"reach": within(r, max(0.01 if self.f == 2 else 0.003, noise))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.messages // len(seeds))
        runs = spread_out(_reach, [(self.n, self.f, share, seed) for seed in seeds], tell)
        return {"reach": fmean(r for run in runs for r in run if r > 0.1 * giant(self.f))}


# -- rumour mongering ---------------------------------------------------------------------------------------


Rule = tuple[Style, bool, str, int]
"""Style, feedback, coin or counter, k."""


AT_ONCE = 4
"""Rumours that are published in the same cycle: they share its calls, so they vary together a little."""


def _nothing_hot(peer: Any) -> bool:
    return not peer.hot


def _rumours(job: tuple[Rule, int, int, int]) -> tuple[float, float, float, float]:
    """Residue, traffic, mean time and time of the last, each the mean of several rumours: of those that took
    off, unless each is told once and none does."""
    (style, feedback, loss, k), n, rumours, seed = job
    architecture = RumourMongering(
        nodes=n, style=style, feedback=feedback, loss=loss, k=k, period=PERIOD, together=True
    )
    found, traffic = spread(architecture, seed, rumours, limit=10_000, over=_nothing_hot, at_once=AT_ONCE)
    if k > 1 or feedback:
        found = [deliveries for deliveries in found if len(deliveries) > 0.1 * n] or found
    residue = 1 - fmean(map(len, found)) / n
    average = fmean(fmean(deliveries) for deliveries in found)
    return residue, traffic, average, fmean(map(max, found))


def measured_rumours(rule: Rule, n: int, rumours: int, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
    """s, m, t_ave, t_last of the paper's tables."""
    share = -(-rumours // len(seeds))
    runs = spread_out(_rumours, [(rule, n, share, seed) for seed in seeds], tell)
    names = ("s", "m", "t_ave", "t_last")
    return {name: fmean(run[i] for run in runs) for i, name in enumerate(names)}


def residue_of(contacts: float) -> float:
    """The solution below 1 of s = e^(-c (1-s))."""
    s = 0.0
    for _ in range(100_000):
        s = math.exp(-contacts * (1 - s))
    return s


def reached_alone(n: int) -> float:
    """How many hear a rumour that each tells once, to one other: until somebody is told who knew.  Exact."""
    reached, still = 1.0, 1.0
    for known in range(1, n):
        still *= 1 - (known - 1) / (n - 1)
        reached += still
    return reached


class _Rumours(Law):
    architecture = "rumour_mongering"
    certainty = "quoted from the paper + reproduced by reference simulation"
    seeds = 4
    n: int = parameter(1000, "peers", least=50, most=100_000)
    rumours: int = parameter(200, "in the simulations of all seeds", least=20, most=100_000)
    k: int = parameter(1, "contacts until interest is lost", least=1, most=10)


class BlindCoin(_Rumours):
    """Push, blind, coin."""

    id = "EP-06"
    claim = "Table 2: push, blind and coin: residue s = e^(-k (1-s)), traffic m = k (1-s)"
    source = DEMERS + "table 2"
    note = (
        f"{TOGETHER}.  The paper: s = .96 .20 .060 .021 .008, m = .04 1.6 2.8 3.9 4.9, t_last = 38 33 32 "
        "32 32 for k = 1 to 5.  Its s for k = 5 is 15 % above the formula's .00698, and expected here is the "
        "formula's; for k = 1, where each tells one other, the exact mean of a chain that ends at the first "
        "who knew"
    )
    listed = tuple({"k": k} for k in range(1, 6))

    def expected(self) -> dict[str, Expected]:
        if self.k == 1:
            reached = reached_alone(self.n) / self.n
            noise = 3.5 * 0.53 * reached / math.sqrt(self.rumours)  # their lengths vary by half of the mean
            return {"s": within(1 - reached, max(0.01, noise)), "m": within(reached, max(0.07, noise))}
        s = residue_of(self.k)
        # Residues of single rumours: about Poisson, and wider for small k.  Each tells k on average.
        members = self.n * self.rumours
        few = 0.0 if self.n >= 1000 else 2 * self.k / self.n
        told = 3.5 * math.sqrt((self.k * (self.k - 1) + 2 * self.k**2 * s) / members)
        found = {
            "s": relative(s, max(0.1, 3.5 * math.sqrt(2 / (s * members)) + few)),
            "m": within(self.k * (1 - s), max(0.07, told + few)),
        }
        last = {2: 33, 3: 32, 4: 32, 5: 32}.get(self.k)
        if self.n == 1000 and last is not None:
            found["t_last"] = within(last, 2)
        return found

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        return measured_rumours(("push", False, "coin", self.k), self.n, self.rumours, seeds, tell)


class PullCounter(_Rumours):
    """Pull, feedback, counter."""

    id = "EP-07"
    claim = "Table 3: pull, feedback and counter (reset by a cycle in which somebody needed it)"
    source = DEMERS + "table 3"
    note = f"{TOGETHER}.  Other n and k than the table's: the same process counted without nodes"
    listed = ({"k": 1}, {"k": 2}, {"k": 3})
    long = tuple({"k": k, "rumours": 1000} for k in (1, 2, 3))
    table = {1: (0.031, 2.7, 17.6), 2: (0.00058, 4.5, 15.4), 3: (0.000004, 6.1, 14.0)}

    def expected(self) -> dict[str, Expected]:
        known = self.n == 1000 and self.k in self.table
        s, m, t_last = self.table[self.k] if known else counted_pull(self.n, self.k)[:3]
        varies = 0.15 if known else counted_pull(self.n, self.k)[3]  # m of single rumours
        left = s * self.n * self.rumours
        noise = 3.5 * math.sqrt(2 * max(left, 1.0)) / (self.n * self.rumours)
        return {
            "s": within(s, max(s * {1: 0.06, 2: 0.25}.get(self.k, 0.25), noise)),
            "m": within(m, max(0.05, 3.5 * varies / math.sqrt(self.rumours / AT_ONCE))),
            "t_last": within(t_last, max(0.3, 7 / math.sqrt(self.rumours))),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        return measured_rumours(("pull", True, "counter", self.k), self.n, self.rumours, seeds, tell)


@cache
def counted_pull(n: int, k: int) -> tuple[float, float, float, float]:
    """s, m, t_last, and how m deviates from rumour to rumour, of pull with feedback and counter, when members
    are only counted: an oracle that knows no nodes."""
    runs = max(40, 400_000 // n)
    random = np.random.default_rng(n)
    rows = np.arange(runs)[:, None]
    known, hot = np.zeros((runs, n), bool), np.zeros((runs, n), bool)
    known[:, 0] = hot[:, 0] = True
    vain = np.zeros((runs, n), int)
    texts, last, cycle = np.zeros(runs), np.zeros(runs), 0
    while hot.any():
        cycle += 1
        partner = random.integers(0, n - 1, (runs, n))
        partner += partner >= np.arange(n)
        asked = hot[rows, partner]
        needed = asked & ~known
        texts += asked.sum(axis=1)
        was_asked, was_needed = np.zeros((runs, n), bool), np.zeros((runs, n), bool)
        at = np.nonzero(asked)
        was_asked[at[0], partner[at]] = True
        at = np.nonzero(needed)
        was_needed[at[0], partner[at]] = True
        vain[was_needed] = 0
        vain[was_asked & ~was_needed] += 1
        hot &= vain < k
        known |= needed
        hot |= needed
        last[needed.any(axis=1)] = cycle
    m = texts / n
    return 1 - float(known.mean()), float(m.mean()), float(last.mean()), float(m.std())


class Residue(_Rumours):
    """Whom push misses."""

    id = "EP-08"
    claim = "Push: feedback and coin leave s = e^-(k+1)(1-s); whatever the rule, s = e^-m"
    source = DEMERS + "section 1.4 (20 % for k = 1, 6 % for k = 2)"
    certainty = "theory, value computed and confirmed by reference simulation"
    note = (
        f"{TOGETHER}.  Of two that tell a third in one cycle, the second is told that it was known.  With "
        "counter and k = 1, which is the same as coin, the paper's table 1 has s = .18 and m = 1.7, below "
        "its own formula: there both seem to have been told that it was new"
    )
    rumours: int = parameter(
        600, "of feedback and coin; a third of it of each other rule", least=60, most=100_000
    )
    listed = ({"k": 1}, {"k": 2}, {"k": 3})
    long = ({"k": 4}, {"k": 5})
    rules: tuple[tuple[bool, str], ...] = (
        (True, "coin"),
        (True, "counter"),
        (False, "coin"),
        (False, "counter"),
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.missed < 10:
            raise ValueError(f"--k {self.k}: hardly anybody is missed among {self.n} peers: more --rumours")

    @property
    def missed(self) -> float:
        """About how many peers a third of the rumours miss by the rule that misses fewest."""
        return 0.3 * residue_of(self.k + 1) * self.n * self.rumours / 3

    def expected(self) -> dict[str, Expected]:
        s = residue_of(self.k + 1)
        noise = 3.5 * math.sqrt(2 / (s * self.n * self.rumours))
        found = {"s": relative(s, max(0.05, noise))}
        for feedback, loss in self.rules:
            # ln of a mean s, of which so many were counted.
            left = self.missed / (0.3 if feedback and loss == "coin" else 1.0)
            slack = max(0.05, 3.5 * math.sqrt(2 / left))
            found[f"ln s + m, {rule_name(feedback, loss)}"] = within(0.0, slack)
        return found

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for i, (feedback, loss) in enumerate(self.rules):
            rumours = self.rumours if i == 0 else self.rumours // 3

            def told(done: float, i: int = i) -> None:
                tell((i + done) / len(self.rules))

            rule: Rule = ("push", feedback, loss, self.k)
            found = measured_rumours(rule, self.n, rumours, seeds, told)
            if i == 0:
                figures["s"] = found["s"]
            figures[f"ln s + m, {rule_name(feedback, loss)}"] = math.log(found["s"]) + found["m"]
        return figures


def rule_name(feedback: bool, loss: str) -> str:
    """``feedback and coin``"""
    return f"{'feedback' if feedback else 'blind'} and {loss}"
