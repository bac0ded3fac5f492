"""Laws of searches in unstructured overlays: what floods and walks cost, and how far they reach.

A search is one that peers of ``flooding`` and ``random_walk`` do, over the links that they hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from polyarch.architectures.flooding import Flooding
from polyarch.architectures.random_walk import RandomWalk
from polyarch.blocks import graphs
from polyarch.blocks.unstructured import Kind
from polyarch.core import Failure, Random, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, exactly, spread_out, within
from polyarch.jobs.lookup import Holder
from polyarch.laws.unstructured import APART, SIMULATED, Formation, Overlay, even
from polyarch.runtimes.base import Experimenter


async def flood(overlay: Overlay, x: Experimenter, sources: Sequence[int], ttl: int) -> None:
    """Each source searches for what nobody has, one after another."""
    for source in sources:
        peer = x.at(overlay.addresses[source], Flooding, timeout=math.inf)
        await settle(peer.search(0, ttl))


class FloodMessages(Law):
    """What it costs to ask everybody."""

    id = "UN-07"
    architecture = "flooding"
    claim = "A flood of a connected overlay is 2E - N + 1 messages: duplicates dropped, no echo to the sender"
    source = "counting: a peer that is reached sends to all its neighbours but one"
    certainty = "theory (well known), value computed here"
    note = "messages as the network counts them; of a random overlay the largest component"
    seeds = 3
    n: int = parameter(1000, "peers", least=10, most=20_000)
    degree: float = parameter(4.0, "mean degree; even", least=2, most=20)
    graph: Kind = parameter("random", "what the overlay looks like")
    formation: Formation = parameter("converged", "linked directly, or joined one by one")
    listed = (
        {"graph": "random"}, {"graph": "scale-free"}, {"graph": "regular"},
        {"graph": "scale-free", "formation": "joined"},
    )  # fmt: skip

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        even(self.degree, self.graph)
        if self.graph == "regular" and self.degree >= self.n:
            raise ValueError(f"--degree {self.degree:g}: there are {self.n - 1} others to be linked to")

    def expected(self) -> dict[str, Expected]:
        return {"messages beyond 2E - N + 1": exactly(0), "peers not asked": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs = [(self.n, self.graph, self.degree, self.formation, seed) for seed in seeds]
        found = spread_out(_flooded, jobs, tell)
        return {
            "messages beyond 2E - N + 1": sum(beyond for beyond, _ in found),
            "peers not asked": sum(missed for _, missed in found),
        }


def _flooded(job: tuple[int, Kind, float, Formation, int]) -> tuple[int, int]:
    """The messages that one flood takes too many, and the peers that it misses, added up over ten sources;
    too few of either would show as a difference as well."""
    n, graph, degree, formation, seed = job
    overlay = Overlay(n, graph, degree, seed, formation=formation, detailed=True)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        held = await overlay.links(x)
        part = graphs.components(held)[0]
        links = sum(len(held[i]) for i in part) // 2
        beyond = missed = 0
        for source in overlay.random.sample(part, min(10, len(part))):
            before, asked = (await x.control.traffic()).by_method.get("query", 0), await overlay.counts(x)
            await flood(overlay, x, [source], n)
            after, now = (await x.control.traffic()).by_method.get("query", 0), await overlay.counts(x)
            beyond += abs(after - before - (2 * links - len(part) + 1))
            missed += abs(len(part) - 1 - (now.asked - asked.asked - now.repeated + asked.repeated))
        return beyond, missed

    result: tuple[int, int] = overlay.perform(experiment)
    return result


class Coverage(Law):
    """How far a time to live reaches."""

    id = "UN-08"
    architecture = "flooding"
    claim = "A flood with time to live t asks exactly those within t hops; on a random overlay, the table"
    source = "breadth-first search; values from reference simulation"
    certainty = SIMULATED
    note = (
        "All links take the same time.  If they do not, a query may come by a longer way first, and goes "
        "less far from there.  Other sizes are compared with breadth-first searches of other graphs.  Eight "
        "graphs with 100 sources each gave 0.701 at TTL 7, and paths of 6.81: a bit below the table, above "
        "its 6.72.  Tolerances are the stated ones from 400 sources on; below, what fewer scatter on top"
    )
    seeds = 4
    n: int = parameter(10_000, "peers", least=100, most=100_000)
    degree: float = parameter(4.0, "mean degree", least=2, most=20)
    sources: int = parameter(200, "floods for each time to live", least=20, most=10_000)
    listed = ({"sources": 60},)
    long = ({"sources": 400},)
    table: tuple[float, ...] = (0.0004, 0.002, 0.0083, 0.0332, 0.123, 0.372, 0.727, 0.911, 0.949, 0.953)
    path = 6.72

    def expected(self) -> dict[str, Expected]:
        shares, path = self.table, self.path
        if self.n != 10_000 or self.degree != 4:
            shares, path = self.by_search()
        varies = 0.25 * max(1.0, math.sqrt(2000 / self.n))
        wanted = {"asked beyond breadth-first search": exactly(0), "mean path": within(path, varies)}
        few = 1 / math.sqrt(self.sources)
        above = 0.05 + (0.35 * few if self.sources < 400 else 0.0)
        above += 1 / math.sqrt(self.n) if self.n < 10_000 else 0.0  # small graphs differ
        for ttl, share in enumerate(shares, 1):
            slack = max(0.15, 2.1 * few) * share if share < 0.2 else above
            wanted[f"TTL {ttl}"] = within(share, slack)
        return wanted

    def by_search(self) -> tuple[tuple[float, ...], float]:
        """The same on other graphs, without peers."""
        totals, paths = [0] * 10, []
        networks = 4 if self.n > 2000 else 20
        floods = 100 * networks
        for i in range(networks):
            random = Random(APART + i)
            graph = graphs.erdos_renyi(self.n, self.degree, random)
            for _ in range(100):
                balls = graphs.balls(graph, random.below(self.n), 10)
                totals = [total + ball for total, ball in zip(totals, balls)]
            paths.append(graphs.mean_path(graph, random.sample(graphs.components(graph)[0], 20)))
        return tuple(total / floods / self.n for total in totals), fmean(paths)

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.sources // len(seeds))
        jobs = [(self.n, self.degree, share, seed) for seed in seeds]
        found = spread_out(_coverage, jobs, tell)
        figures: dict[str, Figure] = {
            f"TTL {ttl}": fmean(reached[ttl - 1] for reached, _, _ in found) for ttl in range(1, 11)
        }
        figures["asked beyond breadth-first search"] = sum(beyond for _, beyond, _ in found)
        figures["mean path"] = fmean(path for _, _, path in found)
        return figures


def _coverage(job: tuple[int, float, int, int]) -> tuple[list[float], int, float]:
    """Mean shares of all peers asked, by time to live; by how many peers that differs from breadth-first
    search; the mean path in the largest component."""
    n, degree, count, seed = job
    overlay = Overlay(n, "random", degree, seed)

    async def experiment(x: Experimenter) -> tuple[list[float], int, float]:
        held = await overlay.links(x)
        sources = overlay.random.sample(range(n), min(n, count))
        balls = [graphs.balls(held, source, 10) for source in sources]
        reached, beyond = [], 0
        for ttl in range(1, 11):
            before = await overlay.counts(x)
            await flood(overlay, x, sources, ttl)
            after = await overlay.counts(x)
            asked = after.asked - before.asked - (after.repeated - before.repeated)
            beyond += abs(asked - sum(ball[ttl - 1] for ball in balls))
            reached.append(asked / len(sources) / n)
        part = graphs.components(held)[0]
        return reached, beyond, graphs.mean_path(held, overlay.random.sample(part, min(len(part), 50)))

    result: tuple[list[float], int, float] = overlay.perform(experiment)
    return result


class WalkCost(Law):
    """Rare keys take long."""

    id = "UN-B"
    architecture = "random_walk"
    claim = "Random walks find one of r holders among N peers after N/r steps, k at once in a k-th of that"
    source = "Lv, Cao, Cohen, Li, Shenker, ICS 2002, section 4.2; exact: 1 / (1 - (1 - r/N)^k) steps each"
    certainty = "theory (well known), value computed here"
    note = (
        "on a regular overlay, where every peer is met as often; walkers do not turn back.  Those of one "
        "search begin at one peer and meet, so that several take longer than the formula says: expected is "
        "then what walks on a graph take, without peers"
    )
    seeds = 2
    n: int = parameter(1000, "peers", least=100, most=100_000)
    degree: int = parameter(8, "neighbours of each; even", least=4, most=50)
    holders: int = parameter(10, "r: peers that have the key", least=1, most=1000)
    walkers: int = parameter(1, "k: walkers of a search", least=1, most=50)
    searches: int = parameter(1500, "on the overlays of all seeds", least=100, most=1_000_000)
    listed = ({"walkers": 1, "holders": 10}, {"walkers": 1, "holders": 40}, {"walkers": 4, "holders": 10})

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        even(self.degree, "regular")
        if max(self.holders, self.degree) >= self.n:
            raise ValueError(f"--n {self.n}: more than --holders {self.holders} and --degree {self.degree}")

    def expected(self) -> dict[str, Expected]:
        steps = 1 / (1 - (1 - self.holders / self.n) ** self.walkers)
        if self.walkers > 1 or self.holders > self.n / 4:
            steps = steps_on_paper(self.n, self.degree, self.holders, self.walkers)
        slack = 0.06 + 3.5 / math.sqrt(self.searches)  # geometric: as wide as long
        return {"steps": within(steps, slack * steps), "not found": exactly(0)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.searches // len(seeds))
        jobs = [(self.n, self.degree, self.holders, self.walkers, share, seed) for seed in seeds]
        steps = [s for some in spread_out(_walked, jobs, tell) for s in some]
        return {"steps": fmean(s for s in steps if s is not None), "not found": steps.count(None)}


def steps_on_paper(n: int, degree: int, holders: int, walkers: int) -> float:
    """Mean steps of walks on a graph, without peers, until the first of them meets a holder."""
    random, steps, searches = Random(1).fork("walks"), 0, 3000
    for _ in range(3):
        graph = graphs.random_regular(n, degree, random)
        for _ in range(searches // 3):
            having = frozenset(random.sample(range(n), holders))
            while (start := random.below(n)) in having:
                pass
            walks = [(start, -1)] * walkers
            while not any(at in having for at, _ in walks):
                steps += 1
                walks = [(_on(graph[at], before, random), at) for at, before in walks]
    return steps / searches


def _on(neighbours: Sequence[int], before: int, random: Random) -> int:
    while (n := random.choice(neighbours)) == before and len(neighbours) > 1:
        pass
    return n


def _walked(job: tuple[int, int, int, int, int, int]) -> list[int | None]:
    """Steps of the walker that found the key, for searches of peers that do not have it."""
    n, degree, holders, walkers, count, seed = job
    overlay = Overlay(n, "regular", degree, seed, walkers=walkers, copies=holders)

    async def experiment(x: Experimenter) -> list[int | None]:
        steps: list[int | None] = []
        while len(steps) < count:
            page = range(min(50, count - len(steps)))
            asked = [(overlay.random.choice(overlay.addresses), overlay.random.below(1 << 32)) for _ in page]
            found = await settle(*(x.at(a, RandomWalk, timeout=math.inf).search(key) for a, key in asked))
            for holder in found:
                if isinstance(holder, Holder) and holder.hops:  # 0: it has the key itself
                    steps.append(holder.hops)
                elif isinstance(holder, Failure):
                    steps.append(None)
        return steps

    result: list[int | None] = overlay.perform(experiment)
    return result
