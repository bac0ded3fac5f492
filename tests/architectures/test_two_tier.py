"""Thin and fat clients: what each cut takes, to the nanosecond, and what it saves or risks."""

from __future__ import annotations

import msgspec
import pytest

from polyarch.architectures.two_tier import Desk, Form, Server, Split, TwoTier
from polyarch.core import BadArguments
from polyarch.experiment.performance import perform
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

SPLITS: list[Split] = ["a", "b", "c", "d", "e"]


def lookup(architecture: TwoTier, hop: float, times: int = 1) -> float:
    """Milliseconds of the last one of so many lookups of the same key."""

    async def experiment(x: Experimenter) -> float:
        for _ in range(times):
            begin = x.now
            assert await x.client.get("key-1") is None
        return (x.now - begin) * 1e3

    with SimSession(architecture, network=Network(latency=Constant(hop))) as session:
        return session.perform(experiment) - 2e3 * hop  # the experimenter is a hop away from the client


def formula(a: TwoTier, hop: float) -> float:
    """The same, computed."""
    keys = len(msgspec.json.encode(Form("get", "key-1")))
    typed, logic, data = a.screen * (keys + 1), a.check + a.logic, a.data * a.rows
    if a.split == "a":
        # The keys cross, and come back one after another; then the line.
        return 1e3 * (2 * hop + keys * a.screen + 2 * hop + logic + data + a.screen)
    if a.split == "b":
        return 1e3 * (typed / a.power + 2 * hop + logic + data)
    if a.split == "c":
        return 1e3 * ((typed + a.check) / a.power + 2 * hop + logic + data)
    return 1e3 * ((typed + logic) / a.power + a.rows * 2 * hop + data)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("hop", "power", "rows"), [(0.0005, 1.0, 3), (0.05, 0.02, 3), (0.007, 0.5, 11)])
def test_a_lookup_takes_as_long_as_its_layers_and_its_crossings(
    split: Split, hop: float, power: float, rows: int
) -> None:
    architecture = TwoTier(split=split, power=power, rows=rows, typos=0.0)
    assert lookup(architecture, hop) == pytest.approx(formula(architecture, hop), abs=1e-5)


def test_no_cut_is_the_best_for_all() -> None:
    def best(hop: float, power: float, times: int = 1) -> str:
        took = {s: lookup(TwoTier(split=s, power=power, typos=0.0), hop, times) for s in SPLITS}
        return min(took, key=took.__getitem__)

    assert best(0.0005, 0.02) == "a", "a weak client near its server"
    assert best(0.05, 1.0) == "b", "a link that is slow"
    assert best(0.05, 1.0, times=2) == "e", "what was read before"


def test_checks_on_the_client_save_a_crossing_for_a_form_that_is_wrong() -> None:
    took = {s: lookup(TwoTier(split=s, typos=0.9), 0.05, times=5) for s in ("b", "c")}
    assert took["b"] - took["c"] > 90.0, "a round trip"


@pytest.mark.parametrize("split", ["a", "b", "d"])
def test_what_is_promised_holds_under_random_faults(split: Split) -> None:
    setting = Setting(TwoTier(split=split), Kv(**Kv.small), rate=10.0 if split == "a" else 30.0)
    for seed in range(3):
        result = perform(draw(setting, seed), made=(setting.architecture, setting.job))
        assert result.violations == []
        assert sum(done.outcome == "ok" for done in result.history) > 30


@pytest.mark.parametrize(("keep", "stale"), [(1.0, True), (0.0, False)])
def test_clients_with_data_of_their_own_read_old_values_for_a_while_and_overwrite_nothing(
    keep: float, stale: bool
) -> None:
    async def experiment(x: Experimenter) -> None:
        one, other = (x.at(f"client-{i}", Desk) for i in range(2))
        await one.put("k", 1)
        assert await other.get("k") == 1
        await one.put("k", 2)
        assert await one.get("k") == 2, "its own writes it reads"
        assert await other.get("k") == (1 if stale else 2)
        assert await other.compare_and_set("k", 1, 3) is False, "it is 2 by now"
        assert await other.get("k") == 2
        await x.sleep(1.0)
        assert await one.get("k") == 2

    with SimSession(TwoTier(split="e", keep=keep), clients=2) as session:
        session.perform(experiment)


def test_a_line_that_is_no_form_is_refused() -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        await server.press("1", 0, "?")
        with pytest.raises(BadArguments, match="no form"):
            await server.enter("1")
        with pytest.raises(BadArguments):
            await server.enter("2")

    with SimSession(TwoTier(split="a")) as session:
        session.perform(experiment)


@pytest.mark.local
@pytest.mark.parametrize("split", ["a", "e"])
def test_live_clients_are_served_at_the_thinnest_and_the_fattest_cut(split: Split) -> None:
    question = Question(
        architecture=TwoTier(split=split), job=Kv(keys=10), runtime="local", duration=1.0, rate=40.0
    )  # fmt: skip
    record = run(question)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert record.operations.ok > 10
