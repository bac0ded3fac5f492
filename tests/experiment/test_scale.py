"""How scalable is this?  Systems of which it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_systems import Draw, Tap

from polyarch.architectures.chord import ChordRing
from polyarch.architectures.sharded import Sharded
from polyarch.core import Architecture, System, parameter, rpc
from polyarch.experiment.record import Spread
from polyarch.experiment.run import Question
from polyarch.experiment.scale import Effort, Scale, ScalePoint, fitted, scale, size_parameter
from polyarch.measure.scalability import usl
from polyarch.report.scale import scale_plots, scale_sentence, write_scale
from polyarch.runtimes.base import SessionError

SERVICE = 0.001


class Worker(Tap):
    """Works for a millisecond on its own core, and then perhaps on one that all share."""

    shared: float = 0.0

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        await self.work(SERVICE)
        return await self.at("till-0", Till).draw(number, salt) if self.shared else number

    @rpc
    async def spill(self, number: int) -> None:
        """Nothing."""


class Till(Tap):
    takes: float = 0.0

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        await self.work(self.takes)
        return number

    @rpc
    async def spill(self, number: int) -> None:
        """Nothing."""


class Dispatcher(Tap):
    """Asks the workers in turn."""

    workers: tuple[str, ...]
    patience: float

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        worker = self.at(self.workers[number % len(self.workers)], Tap, timeout=self.patience)
        return await worker.draw(number, salt)

    @rpc
    async def spill(self, number: int) -> None:
        """Nothing."""


class Pool(Architecture):
    """Workers side by side, and a till that all need, or not."""

    name = "pool"
    family = "client-server"
    source = "none"
    jobs = (Draw,)
    servers: int = parameter(1, "workers", least=1)
    shared: float = parameter(0.0, "seconds at the till", least=0)
    patience: float = parameter(10.0, "of the clients", least=0)

    def build(self, system: System) -> None:
        system.role("worker", Worker(shared=self.shared), count=self.servers)
        system.role("till", Till(takes=self.shared))
        system.clients(Dispatcher(workers=system.addresses("worker", self.servers), patience=self.patience))


def scaled(sizes: list[int], **values: Any) -> Scale:
    return scale(
        lambda n: Question(Pool(servers=n, **values), Draw(), seed=7),
        sizes,
        Effort(rounds=2, operations=600),
        parameter="servers",
    )


@pytest.fixture(scope="module")
def side_by_side() -> Scale:
    return scaled([1, 2, 4, 8])


@pytest.fixture(scope="module")
def at_the_till() -> Scale:
    return scaled([1, 2, 4, 8, 16], shared=0.0005)


def test_servers_side_by_side_scale_linearly(side_by_side):
    assert side_by_side.law.one_per_s.value == pytest.approx(1 / SERVICE, rel=0.05)
    assert side_by_side.bottleneck is None
    assert side_by_side.law.contention.value < 0.01
    assert side_by_side.law.coherence.value < 0.001
    for point in side_by_side.points:
        assert point.throughput_per_s.median == pytest.approx(point.size / SERVICE, rel=0.06)
        assert point.saturated
        assert point.unsuccessful == 0
    sentence = scale_sentence(side_by_side)
    assert sentence.startswith("pool does draw on sim: linear as far as it was measured (8 servers), ")
    assert "limited by neither contention nor coherence" in sentence


def test_what_all_need_limits_by_contention(at_the_till):
    found = [round(p.throughput_per_s.median, -2) for p in at_the_till.points]
    assert found == [1000, 2000, 2000, 2000, 2000]
    # Two servers keep the till busy; from then on each further one does nothing: a knee that no law of
    # waiting for each other has.
    level = at_the_till.bottleneck
    assert level.one_per_s == pytest.approx(1 / SERVICE, rel=0.03)
    assert level.cap_per_s == pytest.approx(1 / 0.0005, rel=0.03)
    assert level.error < 0.03 < at_the_till.law.error
    sentence = scale_sentence(at_the_till)
    assert "linear to 2" in sentence
    assert "limited by contention: by one bottleneck that all need" in sentence


def test_each_round_has_a_seed_of_its_own_and_the_same_question_the_same_answer(side_by_side):
    again = scaled([1, 2, 4, 8])
    assert again.points == side_by_side.points
    assert again.law == side_by_side.law
    assert again.seed == 7
    assert all(len(p.throughput_per_s.runs) == 2 for p in again.points)


def test_it_says_when_the_clients_did_not_saturate_it():
    few = Effort(rounds=1, operations=200, most_clients=4)
    result = scale(lambda n: Question(Pool(servers=n), Draw()), [4, 8, 16], few, parameter="servers")
    assert not any(point.saturated for point in result.points)
    sentence = scale_sentence(result)
    assert sentence.startswith("pool does draw on sim: with 4 clients it was not saturated at 4, 8, 16")
    assert ", so not known; as if it were, " in sentence


def test_what_never_succeeds_has_no_scalability_and_is_not_waited_for():
    with pytest.raises(SessionError, match=r"pool: no operation succeeded \(\d+ x timeout\)"):
        scaled([1, 2, 4], patience=1e-5)


@pytest.mark.parametrize(
    ("says", "curve", "noise"),
    [
        ("linear as far as it was measured (16 servers), no peak, limited by neither", lambda n: n, 0.0),
        ("linear as far as it was measured (16 servers), no peak up to 16 (if", lambda n: n, 0.03),
        ("linear to 4 servers (90% of so many times what one does), no peak up to 16 (if there is one, at",
         lambda n: usl(n, 0.03, 0.0), 0.02),
        ("not linear beyond 1 server, no peak up to 16", lambda n: usl(n, 0.3, 0.0), 0.02),
        ("linear to 2 servers (90% of so many times what one does), peak of 5,",
         lambda n: usl(n, 0.05, 0.005), 0.02),
        ("not linear beyond 1 server, peak of 1,0", lambda n: 1 / n, 0.02),
        ("more than linear: of 16 servers each does 2.3 times what it does of 1", lambda n: n**1.3, 0.02),
        ("linear to 4.40 servers, then level at 4,", lambda n: min(n, 4.5), 0.05),
    ],
)  # fmt: skip
def test_the_sentence_is_true_of_what_is_known(says, curve, noise):
    sizes, draws = (1, 2, 4, 8, 16), np.random.default_rng(1)
    points = [
        ScalePoint(size=n, nodes={}, clients=8, throughput_per_s=Spread.of(
            1000 * curve(n) * (1 + noise * draws.standard_normal()) for _ in range(3)
        ), unsuccessful=0.0) for n in sizes
    ]  # fmt: skip
    result = fitted(
        points, architecture="a", job="j", runtime="sim", parameter="servers", seed=0, rounds=3, parameters={}
    )
    assert scale_sentence(result).startswith(f"a does j on sim: {says}")


def test_the_size_is_the_main_count_unless_the_architecture_says_another():
    class Named(Pool):
        scales = "shared"

    class Nothing(Pool):
        scales = "nothing of the kind"

    assert size_parameter(Pool) == "servers"
    assert size_parameter(ChordRing) == "nodes"
    assert size_parameter(Sharded) == "shards"
    assert size_parameter(Named) == "shared"
    assert size_parameter(Nothing) is None


def test_the_report_draws_the_measurements_the_law_and_the_ideal(at_the_till, tmp_path):
    throughput, share = scale_plots(at_the_till)
    assert [trace["name"] for trace in throughput.figure["data"]] == [
        "pool",
        "the law",
        "ideal",
        "a bottleneck",
    ]
    assert share.figure["data"][0]["y"][0] == pytest.approx(1.0, abs=0.25)
    text = write_scale(at_the_till, tmp_path).read_text(encoding="utf-8")
    assert "How scalable is pool?" in text
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "scale.json", "plotly.min.js"}
