"""Comparisons: the same load for all, and what a kill costs, from planted histories and from systems whose
weaknesses are known."""

from __future__ import annotations

import dataclasses

import pytest
from small_systems import Client, Draw, Well

from polyarch.architectures.central_index import CentralIndex
from polyarch.architectures.multicast import Multicast
from polyarch.architectures.single_server import SingleServer
from polyarch.architectures.static_peers import StaticPeers
from polyarch.core import Refused, rpc
from polyarch.core.job import Done
from polyarch.experiment.compare import Outage, Pace, compare
from polyarch.experiment.load import Load
from polyarch.experiment.record import BlastRadius, Comparison
from polyarch.experiment.run import Question, Trial
from polyarch.jobs.broadcast import Broadcast
from polyarch.jobs.kv import Kv
from polyarch.jobs.lookup import Lookup
from polyarch.report.verdict import sentences
from polyarch.runtimes.sim.network import Constant, Network, Regional

PACE = Pace(rounds=2, saturation=0.2, clients=4, steady=0.3, replicas=3)


def done(start: float, outcome: str = "ok", *, took: float = 0.01, name: str = "get", code: str = "") -> Done:
    return Done(0, name, (), start, start, start + took, outcome, None, code)


def outage(*hit: Done, answers: frozenset[str] = frozenset()) -> Outage:
    """A process that is down from 10 s to 11 s."""
    return Outage(10.0, 11.0, sorted(hit, key=lambda d: d.intended), answers, {"get": 0.02, "put": 0.02})


def test_an_outage_in_which_nothing_failed_costs_nothing():
    quiet = outage(done(10.1), done(10.5), done(11.5))
    assert (quiet.bad, quiet.recovery, quiet.dead) == ([], 0.0, [])


def test_recovery_is_the_first_success_after_the_last_operation_that_failed():
    broken = outage(done(10.2, "fail"), done(10.4), done(10.9, "info"), done(11.2), done(11.4))
    assert len(broken.bad) == 2
    assert broken.recovery == pytest.approx(1.21)


def test_what_still_fails_at_the_end_has_not_recovered():
    assert outage(done(10.5, "fail"), done(11.4, "fail")).recovery is None


def test_one_kind_of_operation_without_any_success_makes_a_single_point_of_failure():
    assert outage(done(10.2), done(10.3, "fail", name="put"), done(11.3, name="put")).dead == ["put"]
    assert outage(done(10.2, "fail"), done(10.3), done(10.4, "fail")).dead == []


def test_operations_that_waited_until_the_process_was_back_did_not_succeed_without_it():
    waited = outage(done(10.2, took=0.9), done(10.6, took=0.5), done(11.5))
    assert waited.bad == []
    assert waited.dead == ["get"]
    assert waited.undecided
    assert waited.recovery == pytest.approx(1.51)


def test_an_operation_that_began_just_before_the_restart_shows_nothing():
    assert outage(done(10.99, took=0.03), done(11.5)).dead == []


def test_a_refusal_that_is_a_proper_answer_is_a_success():
    sold_out = outage(done(10.5, "fail", code="out-of-stock"), answers=frozenset({"out-of-stock"}))
    assert (sold_out.bad, sold_out.dead) == ([], [])


def cards(result: Comparison) -> dict[str, BlastRadius]:
    return {card.role: card for card in result.blast_radius}


def test_killing_the_only_server_loses_operations_until_it_is_back_and_an_idle_one_costs_nothing():
    card = cards(compare([Question(Well(), Draw())], PACE))
    assert card["server"].single_point_of_failure
    assert card["server"].lost == pytest.approx(PACE.down * 100, rel=0.5)
    assert card["server"].recovery_s == pytest.approx(PACE.down, abs=0.1)
    assert card["server"].attempted > card["server"].lost
    assert not card["idle"].single_point_of_failure
    assert (card["idle"].lost, card["idle"].unknown, card["idle"].recovery_s) == (0, 0, 0.0)


def test_a_server_that_has_replicas_is_no_single_point_of_failure():
    card = cards(compare([Question(Well(servers=3), Draw())], PACE))["server"]
    assert not card.single_point_of_failure
    assert card.lost == 0


def test_clients_that_wait_for_the_only_server_do_not_hide_that_it_is_one():
    card = cards(compare([Question(Well(patient=True), Draw())], PACE))["server"]
    assert (card.lost, card.unknown) == (0, 0)
    assert card.single_point_of_failure
    assert card.recovery_s == pytest.approx(PACE.down, abs=0.1)


class Sulking(Client):
    async def start(self) -> None:
        self.hurt = False

    @rpc
    async def draw(self, number: int, salt: int) -> int:
        if self.hurt:
            raise Refused("never again")
        try:
            return await super().draw(number, salt)
        except Refused:
            self.hurt = True
            raise


def test_a_server_that_does_not_recover_within_the_window_says_so():
    class Amnesiac(Well):
        """Its clients never speak to a server again that has failed them once."""

        def build(self, system):
            super().build(system)
            system.clients(Sulking(servers=system.addresses("server", 1)))

    card = cards(compare([Question(Amnesiac(), Draw())], PACE))["server"]
    assert card.recovery_s is None
    assert card.single_point_of_failure


def test_latencies_come_from_the_same_visits_at_the_same_times_whatever_saturation_took():
    asked: list[list] = []
    for service in (0.0, 0.05):
        trial = Trial(Question(Well(service=service), Draw()))
        trial.plan([Load(duration=0.5, rate=200.0, name="round 1")])
        trial.load(Load(duration=0.5, clients=4))
        first = trial.load(Load(duration=0.5, rate=200.0, name="round 1")).first
        history = sorted(trial.history(first), key=lambda d: d.client)
        begin = min(d.intended for d in history)
        asked.append([(d.arguments, round(d.intended - begin, 6)) for d in history])
        trial.close()
    assert asked[0] == asked[1]


def test_a_comparison_holds_only_if_every_verdict_of_every_run_does():
    pace = Pace(rounds=1, saturation=0.1, steady=0.1, kills=False)
    result = compare([Question(Well(), Draw()), Question(Well(lie=True), Draw())], pace)
    assert [run.holds for run in result.runs] == [True, False]
    assert not result.holds
    assert result.blast_radius == ()


def test_a_slow_system_is_down_for_longer_than_its_operations_wait():
    assert PACE.for_slow(0.1) == PACE
    slow = PACE.for_slow(2.0)
    assert slow.down == 4.0
    assert slow.window > slow.down + 2.0
    assert slow.replicas <= PACE.replicas


def test_a_jobs_own_figures_are_from_before_anything_was_killed():
    regions = {"network": Network(latency=Regional())}
    kinds = (CentralIndex, StaticPeers)
    questions = [Question(kind(), Lookup(keys=200), options=dict(regions)) for kind in kinds]
    result = compare(questions, PACE)
    index, static = result.runs
    assert index.operations.failed > 0  # in the time without the index
    assert index.metrics["success"] == static.metrics["success"] == 1.0
    # A kill is felt by its operations, which take a quarter of a second here: longer than the usual pace.
    assert cards(result)["index"].single_point_of_failure
    names = [m.name for m in result.measures]
    assert names == ["success", "hops", "timeouts", "links", "upkeep", "imbalance", "neighbours"]
    assert (index.metrics["upkeep"] > 0, static.metrics["upkeep"]) == (True, 0.0)


@pytest.mark.parametrize(
    ("latency", "work", "rate", "saturates"),
    [(0.05, 0, 100, False), (0.0001, 0, 100, False), (0.0001, 0.002, 100, True), (0.0001, 0.002, 900, True)],
)
def test_clients_that_are_answered_as_fast_as_ever_do_not_show_what_a_system_can_carry(
    latency, work, rate, saturates
):
    """A server that can do 500 messages/s if one takes two milliseconds."""
    simulated = {"network": Network(latency=Constant(latency)), "handler_cost": work, "disk_sync": 0.0}
    questions = [Question(SingleServer(), Kv(), rate=rate, options=simulated)]
    pace = dataclasses.replace(PACE, steady=0.5, clients=8, kills=False)
    (run,) = compare(questions, pace).runs
    assert (run.saturation_throughput_per_s is not None) == saturates


def test_where_answers_come_before_the_work_is_done_nobody_tries_to_saturate():
    questions = [Question(Multicast(nodes=12, spread=spread), Broadcast()) for spread in ("tree", "flood")]
    pace = dataclasses.replace(PACE, steady=1.0, kills=False)
    result = compare(questions, pace)
    tree, flood = result.runs
    assert tree.saturation_throughput_per_s is None
    assert tree.metrics["coverage"] == flood.metrics["coverage"] == 1
    assert flood.metrics["copies_per_delivery"] > 3 * tree.metrics["copies_per_delivery"]
    words = sentences(result)
    assert "saturation" not in "".join(words)
    assert "100 % of the deliveries" in words[0]
