"""A law of replication in unstructured overlays: how many peers come to know a key, by how often it is asked
for; on the peers of ``random_walk``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from polyarch.architectures.random_walk import RandomWalk, RandomWalks
from polyarch.blocks.popularity import Popularity
from polyarch.core import Random, parameter, settle
from polyarch.experiment.laws import Expected, Figure, Law, Tell, spread_out, within
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


class SquareRoot(Law):
    """What is asked for often is known to many, but not to too many."""

    id = "UN-C"
    architecture = "random_walk"
    claim = (
        "Notes of a key grow as its popularity if askers keep them, as its square root if all on the path do"
    )
    source = "Cohen and Shenker, SIGCOMM 2002, section 5; Lv et al., ICS 2002, section 5.2"
    certainty = "theory (well known), value computed here"
    note = (
        "Exponents, fitted over keys of Zipf popularity after many searches.  The theory wants as many notes "
        "as the walker took steps; the way back has no loops, which takes more from rare keys: the larger "
        "the overlay, the more above a half.  Peers that know a key do not ask others for it"
    )
    seeds = 3
    n: int = parameter(1000, "peers", least=200, most=10_000)
    keys: int = parameter(32, "different keys", least=8, most=200)
    rounds: int = parameter(40, "of 100 searches each; the first third is not counted", least=15, most=1000)

    def expected(self) -> dict[str, Expected]:
        return {"owner": within(1.0, 0.15), "path": within(0.5, 0.15)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        jobs: list[Job] = [
            (self.n, self.keys, self.rounds, replication, room, seed)
            for replication, room in _ROOMS
            for seed in seeds
        ]
        slopes = spread_out(_exponent, jobs, tell)
        return {"owner": fmean(slopes[: len(seeds)]), "path": fmean(slopes[len(seeds) :])}


Job = tuple[int, int, int, Literal["owner", "path"], int, int]
_ROOMS: tuple[tuple[Literal["owner", "path"], int], ...] = (("owner", 1), ("path", 2))
"""Little room, so that the notes come to a steady state soon."""


def _exponent(job: Job) -> float:
    """The slope of log notes over log popularity."""
    n, keys, rounds, replication, room, seed = job
    session = SimSession(
        RandomWalks(
            nodes=n, graph="regular", degree=8, formation="converged", wiring=seed, repair=0, walkers=1,
            check=0, ttl=10**6, wait=1e6, replication=replication, room=room,
        ),
        seed=seed,
        detailed=False,
    )  # fmt: skip
    peers = [env.node for env in session.kernel.directory.values() if isinstance(env.node, RandomWalk)]
    random = Random(seed).fork("law")
    popularity = Popularity(keys, 1.0)
    notes: Counter[int] = Counter()

    async def experiment(x: Experimenter) -> None:
        for done in range(rounds):
            for _ in range(10):
                asked = [(random.choice(peers).address, popularity.draw(random)) for _ in range(10)]
                await settle(*(x.at(peer, RandomWalk, timeout=math.inf).search(key) for peer, key in asked))
            if done >= rounds // 3:
                for peer in peers:
                    notes.update(peer.notes.keys())

    session.perform(experiment)
    points = [(-math.log(key + 1), math.log(count)) for key, count in sorted(notes.items())]
    middle, mean = fmean(x for x, _ in points), fmean(y for _, y in points)
    return sum((x - middle) * (y - mean) for x, y in points) / sum((x - middle) ** 2 for x, _ in points)
