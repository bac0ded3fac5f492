"""The law of Scamp: how long views become.  And how it grows on paper, for laws that compare it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from polyarch.architectures.scamp import Scamp
from polyarch.blocks.partial_views import views_of
from polyarch.core import Random, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, spread_out, within
from polyarch.laws.partial_views import Overlay
from polyarch.runtimes.base import Experimenter

ALONE: dict[str, Any] = {"cycle": 0.0, "indirection": 0.0, "arrival": 0.5}
"""Its peers as the paper analyses them first: subscriptions only, one after another, at random contacts."""


class Growth(Law):
    """Without knowing how many there are."""

    id = "SC-A"
    architecture = "scamp"
    claim = "The mean length of views grows with the number of peers n as (c+1) ln n"
    source = "Ganesh, Kermarrec, Massoulié, IEEE ToC 52(2), 2003: E[M(n+1)] = (1 + 1/n) E[M(n)] + c + 1"
    certainty = "remembered from the paper (the recurrence); its solution computed"
    note = (
        "Measured is how much longer views are when n peers have joined than when a quarter had: by the "
        "recurrence (c+1) (H(n) - H(n/4)).  The lengths themselves are below (c+1) ln n: the recurrence's "
        "solution is (c+1) (H(n) - 1), and while peers are few there are more copies than peers to keep "
        "them.  What that comes to is found by growing views on paper, by the same rules, without messages"
    )
    seeds = 6
    n: int = parameter(500, "peers", least=100, most=100_000)
    c: int = parameter(1, "additional copies of a subscription", least=0, most=10)
    listed = ({"c": 0}, {"c": 1}, {"c": 4})
    long = ({"n": 10_000, "c": 1}, {"n": 2000, "c": 4})

    def expected(self) -> dict[str, Expected]:
        growth = (self.c + 1) * sum(1 / i for i in range(self.n // 4 + 1, self.n + 1))
        if (self.c + 1) * math.log(self.n) > self.n / 10:  # so few cannot have views that grow like that
            growth = length_on_paper(self.n, self.c) - length_on_paper(self.n // 4, self.c)
        noise = 3.5 * (self.c + 1) / math.sqrt(self.n * self.seeds)
        length = length_on_paper(self.n, self.c)
        return {
            "growth": within(growth, max(0.25 * growth, noise + 0.2 * growth)),
            "mean length": within(length, max(0.15 * length, noise + 0.1 * length)),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        lengths = spread_out(_lengths, [(self.n, self.c, seed) for seed in seeds], tell)
        return {
            "growth": fmean(late - early for early, late in lengths),
            "mean length": fmean(late for _, late in lengths),
        }


def length_on_paper(n: int, c: int) -> float:
    """The mean length of n peers' views, over a few ``grown``."""
    return fmean(sum(map(len, grown(n, c, Random(seed)))) / n for seed in range(6 if n <= 2000 else 2))


def grown(n: int, c: int, random: Random) -> list[list[int]]:
    """Everybody's partial view, by number, as the paper's rules have them grow: no peers, no messages."""
    views: list[list[int]] = [[]]
    for newcomer in range(1, n):
        contact = random.below(newcomer)
        targets = list(views[contact]) or [contact]
        targets += [random.choice(targets) for _ in range(c if newcomer > 1 else 0)]
        views.append([contact])
        for at in targets:
            chances = 10.0
            while chances > 0:
                view = views[at]
                probability = 1 / (1 + len(view))
                if at != newcomer and newcomer not in view and random.chance(probability):
                    view.append(newcomer)
                    break
                chances -= probability
                at = random.choice(view or [at])
    return views


def reach_on_paper(n: int, c: int, fanout: int, failed: float) -> float:
    """The mean share of living peers that messages reach over grown views, of whose peers a fraction has
    failed, if each passes a message on, once, to so many of its view."""
    shares = []
    for seed in range(10 if n <= 2000 else 1):
        random = Random(seed).fork("reach")
        views = grown(n, c, random)
        dead = frozenset(random.sample(range(n), round(failed * n)))
        living = [i for i in range(n) if i not in dead]
        for _ in range(50):
            reached = [random.choice(living)]
            met = {reached[0]}
            for i in reached:  # it grows meanwhile
                for j in random.sample(views[i], min(fanout, len(views[i]))):
                    if j not in met and j not in dead:
                        met.add(j)
                        reached.append(j)
            shares.append(len(reached) / len(living))
    return fmean(shares)


def _lengths(job: tuple[int, int, int]) -> tuple[float, float]:
    """The mean length when a quarter have joined, and when all have."""
    n, c, seed = job
    overlay = Overlay(Scamp, n, seed, additional=c, **ALONE)

    async def experiment(x: Experimenter) -> tuple[float, float]:
        await x.sleep(overlay.arrival * (n // 4 - 0.2))
        early = await views_of(x, overlay.addresses[: n // 4])
        await overlay.form(x, 0)
        late = await overlay.views(x)
        return fmean(map(len, early.values())), fmean(map(len, late.values()))

    result: tuple[float, float] = overlay.perform(experiment)
    return result
