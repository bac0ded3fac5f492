"""Laws of SWIM: how soon a crash is noticed, what watching costs, how often it errs; on ``swim``'s members.

Members know each other from the beginning (``converged``).  Where periods are counted all begin at the same
moments (``together``), and messages take a thousandth of a period.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from statistics import fmean
from typing import Any

from polyarch.architectures.swim import State, Swim, SwimGroup
from polyarch.core import Random, parameter
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    at_least,
    between,
    relative,
    spread_out,
    within,
)
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

PAPER = "Das, Gupta, Motivala, SWIM, DSN 2002, "
PERIOD = 1.0


class Group:
    """Members in a simulation."""

    def __init__(self, seed: int, *, loss: float = 0.0, detailed: bool = False, **parameters: Any) -> None:
        """``loss``: probability that a message is lost; ``parameters``: of ``swim``."""
        architecture = SwimGroup(period=PERIOD, formation="converged", **parameters)
        network = Network(latency=Constant(PERIOD / 1000), loss=loss)
        self.session = SimSession(
            architecture, seed=seed, network=network, detailed=detailed, links=bool(loss)
        )
        self.random = Random(seed).fork("law")
        self.addresses = tuple(f"peer-{i}" for i in range(architecture.nodes))

    @property
    def members(self) -> list[Swim]:
        """The running nodes of those that live."""
        directory = self.session.kernel.directory
        return [directory[a].node for a in self.addresses if directory[a].up]

    @property
    def period(self) -> int:
        """The number of this period."""
        return math.floor(self.session.kernel.now * 1e-9 / PERIOD)

    def run(self, periods: float) -> None:
        """Let so many periods pass."""
        self.session.kernel.run(periods * PERIOD)
        self.no_bugs()

    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, None]]) -> None:
        """Run an experiment."""
        self.session.perform(experiment)
        self.no_bugs()

    def no_bugs(self) -> None:
        """No member has raised an exception."""
        assert not self.session.kernel.bugs, self.session.kernel.bugs[0]


# -- detection ----------------------------------------------------------------------------------------------


def _first_detections(job: tuple[int, int, int]) -> list[int]:
    """For each of some crashes: periods until somebody has pinged the one that crashed."""
    n, crashes, seed = job
    found: list[int] = []
    # Who notices keeps it for itself, and suspects for ever: the group stays as it is for the next crash.
    lonely: dict[str, Any] = {"retell": 0, "proxies": 0, "suspicion": 1_000_000}
    while len(found) < crashes:
        group = Group(seed * 1_000_003 + len(found), nodes=n, probing="random", together=True, **lonely)

        async def experiment(x: Experimenter, group: Group = group) -> None:
            await x.sleep(0.5 * PERIOD)
            for victim in group.random.sample(group.addresses, n):
                await x.control.crash(victim)
                begin = group.period
                while not noticed(group, victim):
                    await x.sleep(PERIOD)
                found.append(group.period - begin)
                await x.control.restart(victim)
                await x.sleep(PERIOD)  # it joins again

        group.perform(experiment)
    return found[:crashes]


def noticed(group: Group, victim: str) -> bool:
    """Whether anybody has just begun to suspect it."""
    return any(n.subject == victim and n.kind == "suspect" for m in group.members for n in m.notices[-8:])


class FirstDetection(Law):
    """When somebody notices."""

    id = "SW-01"
    architecture = "swim"
    claim = "A crash is first noticed after 1/(1-(1-1/(n-1))^(n-1)) periods on average, about e/(e-1)"
    source = PAPER + "section 3.1 and figure 3a"
    certainty = "quoted from the paper + equals theory computed here"
    note = "targets at random, no loss; the period of the first ping counts as 1"
    seeds = 4
    n: int = parameter(50, "members", least=2, most=2000)
    crashes: int = parameter(9200, "one after another", least=100, most=1_000_000)
    listed = ({"n": 10}, {"n": 50}, {"n": 100})

    def expected(self) -> dict[str, Expected]:
        others = self.n - 1
        p = 1 - (1 - 1 / others) ** others  # one of those that live pings it: there are n-1 of them
        noise = 3.0 * math.sqrt(1 - p) / p / math.sqrt(self.crashes)
        return {"periods": within(1 / p, max(0.03, noise))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.crashes // len(seeds))
        runs = spread_out(_first_detections, [(self.n, share, seed) for seed in seeds], tell)
        return {"periods": fmean(periods for run in runs for periods in run)}


def _own_detections(job: tuple[int, int, int]) -> list[int]:
    """For each of some crashes and each other member: periods until it has noticed that itself."""
    n, crashes, seed = job
    found = []
    for crash in range(crashes):
        parameters: dict[str, Any] = {"suspicion": 0, "retell": 0, "proxies": 0, "together": True}
        group = Group(seed * 1_000_003 + crash, nodes=n, **parameters)
        group.run(group.random.below(2 * n) + 0.5)
        victim = group.random.choice(group.addresses)
        group.session.kernel.crash(victim)
        begin = group.period
        group.run(2 * n + 1)
        for member in group.members:
            # Who has not noticed by now counts as later than the bound.
            at = [notice.at for notice in member.notices if notice.subject == victim]
            found.append(math.floor(at[0] / PERIOD) - begin if at else 2 * n + 1)
    return found


class WorstDetection(Law):
    """Round robin bounds it."""

    id = "SW-04"
    architecture = "swim"
    claim = "With round-robin probing every member notices a crash itself within 2n-1 periods"
    source = PAPER + "section 4.3"
    certainty = "quoted mechanism; bound 2n-1 from memory"
    note = (
        "news is not told on, so that each must notice it itself.  A member has n-1 others in its order: the "
        "first of one round and the last of the next are 2n-3 periods apart: more cannot be seen"
    )
    seeds = 4
    n: int = parameter(20, "members", least=3, most=500)
    crashes: int = parameter(160, "each of a group of its own", least=10, most=100_000)

    def expected(self) -> dict[str, Expected]:
        # Its places i in one round and j in the next are uniform: from one ping to the next it is m - i + j
        # periods, and a crash falls into such gaps in proportion to their length.
        m = self.n - 1
        mean = (m * m + (m * m - 1) / 6) / (2 * m) + 0.5
        return {
            "most periods": between(1, 2 * self.n - 1, 2 * self.n - 1),
            "mean periods": relative(mean, max(0.05, 3.5 / math.sqrt(self.crashes))),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.crashes // len(seeds))
        runs = spread_out(_own_detections, [(self.n, share, seed) for seed in seeds], tell)
        found = [periods for run in runs for periods in run]
        return {"most periods": max(found), "mean periods": fmean(found)}


# -- what it costs ------------------------------------------------------------------------------------------


def _messages(job: tuple[int, int, int]) -> float:
    """Messages that a member sends in a period, as the simulated network counts them."""
    n, periods, seed = job
    group = Group(seed, nodes=n, detailed=True)
    group.run(1.5)
    before = group.session.kernel.messages
    group.run(periods)
    return (group.session.kernel.messages - before) / n / periods


class Load(Law):
    """It does not grow."""

    id = "SW-02"
    architecture = "swim"
    claim = "Without failures each member sends two messages in a period (its ping, and an ack), whatever n"
    source = PAPER + "section 5.1 (stays around 2.0)"
    certainty = "quoted from the paper"
    note = "counted by the simulated network; periods begin where they like and vary by a tenth, as in a run"
    seeds = 2
    n: int = parameter(50, "members", least=2, most=2000)
    periods: int = parameter(100, "of each group", least=10, most=100_000)
    listed = ({"n": 16}, {"n": 64}, {"n": 256})

    def expected(self) -> dict[str, Expected]:
        return {"messages": relative(2.0, 0.01 + 2 / self.periods / self.n)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        return {"messages": fmean(spread_out(_messages, [(self.n, self.periods, s) for s in seeds], tell))}


# -- how often it errs --------------------------------------------------------------------------------------


def _accusations(job: tuple[float, int, int, int, int]) -> tuple[int, int, int]:
    """Attempts, those that failed, and pairs of a member and a period in which somebody accused it."""
    q, k, n, periods, seed = job
    group = Group(seed, loss=1 - q, nodes=n, proxies=k, probing="random", together=True)
    failed = 0
    accused: dict[tuple[str, int], None] = {}

    def count(state: State) -> None:
        nonlocal failed
        failed += 1
        accused[state.address, group.period] = None

    for member in group.members:
        member.accuse = count  # type: ignore[method-assign]
    group.run(periods + 0.99)
    return sum(member.periods for member in group.members), failed, len(accused)


class FalseAccusation(Law):
    """Loss looks like a crash."""

    id = "SW-03"
    architecture = "swim"
    claim = (
        "With delivery q, a ping attempt fails wrongly with P = (1-q^2)(1-q^4)^k; "
        "a member is accused by some of n-1 others in a period with 1-(1-P/(n-1))^(n-1)"
    )
    source = PAPER + "section 3.1"
    certainty = "theory (well known), value computed here"
    note = (
        "q_f = 1.  Accusations are counted where a member makes them, and not acted upon: the group stays "
        "whole.  The paper multiplies by e/(e-1), for an expected time of detection; a count does not"
    )
    seeds = 8
    n: int = parameter(50, "members", least=5, most=1000)
    k: int = parameter(3, "proxies", least=0, most=10)
    q: float = parameter(0.9, "probability that a message arrives", least=0.5, most=0.999)
    member_periods: int = parameter(1_000_000, "in the simulations of all seeds", least=10_000, most=10**9)
    listed = ({"q": 0.9, "k": 3}, {"q": 0.8, "k": 3})
    long = ({"q": 0.95, "k": 1}, {"q": 0.95, "k": 3})

    def expected(self) -> dict[str, Expected]:
        p = (1 - self.q**2) * (1 - self.q**4) ** min(self.k, self.n - 2)  # nobody else can be a proxy
        accused = 1 - (1 - p / (self.n - 1)) ** (self.n - 1)
        return {
            name: within(value, max(0.1 * value, 3.5 * math.sqrt(value / self.member_periods)))
            for name, value in (("attempt fails", p), ("accused in a period", accused))
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        periods = -(-self.member_periods // (self.n * len(seeds)))
        jobs = [(self.q, self.k, self.n, periods, seed) for seed in seeds]
        attempts, failed, accused = map(sum, zip(*spread_out(_accusations, jobs, tell)))
        return {
            "attempt fails": failed / attempts,
            "accused in a period": accused / (periods * self.n * len(seeds)),
        }


VARIANTS: dict[str, dict[str, Any]] = {
    "basic": {"suspicion": 0, "multicast": True},
    "infection": {"suspicion": 0, "multicast": False},
    "infection and suspicion": {"suspicion": 3, "multicast": False},
}
"""What the paper compares: news sent to all at once; on pings and acks; and suspicion before a death."""


def _survivors(job: tuple[str, int, float, int, int, int]) -> int:
    """How many are left in a group that loses messages, when who is declared dead stays away."""
    variant, n, loss, k, periods, seed = job
    group = Group(seed, loss=loss, nodes=n, proxies=k, rejoin=False, **VARIANTS[variant])
    group.run(periods)
    lists = [[member.address, *member.order] for member in group.members if not member.left]
    return max((len(members) for members in lists), default=0)


class Suspicion(Law):
    """Who is suspected may answer."""

    id = "SW-05"
    architecture = "swim"
    claim = "10 % loss, 17 members: with suspicion a group of 12 is stable, without it 2 and 4 are left"
    source = PAPER + "section 5.3, figure 4"
    certainty = "quoted from the paper"
    note = (
        "who is declared dead stays away, as in the paper's experiment; only the order is compared, since "
        "the paper's processes were real.  Figures: members in the largest list of any, mean of the groups"
    )
    seeds = 8
    n: int = parameter(17, "members", least=5, most=200)
    loss: float = parameter(0.1, "of messages", least=0.01, most=0.3)
    k: int = parameter(1, "proxies", least=0, most=10)
    periods: int = parameter(100, "after which the lists are counted", least=10, most=10_000)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        q = 1 - self.loss
        each = self.periods * (1 - q**2) * (1 - q**4) ** min(self.k, self.n - 2)
        if each < 1.5:
            raise ValueError(
                f"--loss {self.loss:g} --periods {self.periods}: a member is accused {each:.2g} times, "
                "too seldom for a difference (1.5)"
            )

    def expected(self) -> dict[str, Expected]:
        return {"with suspicion / the larger of the others": at_least(2.0, 3.0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(v, self.n, self.loss, self.k, self.periods, seed) for v in VARIANTS for seed in seeds]
        sizes = spread_out(_survivors, jobs, tell)
        count = len(seeds)
        means = {v: fmean(sizes[i * count : (i + 1) * count]) for i, v in enumerate(VARIANTS)}
        with_suspicion = means["infection and suspicion"]
        ratio = with_suspicion / max(means["basic"], means["infection"])
        return {"with suspicion / the larger of the others": ratio, **means}
