"""Epidemics: gossip, anti-entropy, rumour mongering, averaging."""

from __future__ import annotations

import math
from typing import Any

import pytest

from polyarch.architectures.anti_entropy import AntiEntropy, AntiEntropyBroadcast, checksum
from polyarch.architectures.averaging import Averager, Averaging
from polyarch.architectures.gossip import Gossip, GossipBroadcast
from polyarch.architectures.rumour_mongering import RumourMongering, Rumours
from polyarch.blocks.broadcast import News, Teller
from polyarch.core import Architecture, Verdict
from polyarch.experiment.laws import check, laws
from polyarch.experiment.record import RunRecord
from polyarch.experiment.run import Question, run
from polyarch.jobs.aggregate import Aggregate
from polyarch.jobs.broadcast import Broadcast
from polyarch.laws.averaging import factor_of_constant_waiting
from polyarch.laws.rumours import counted_pull, reached_alone, residue_of
from polyarch.laws.unstructured import giant
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

STYLES = ["push", "pull", "push-pull"]


def nodes_of(session: SimSession) -> list[Any]:
    return [env.node for a, env in session.kernel.directory.items() if a.startswith("peer-") and env.up]


def broadcast(architecture: Architecture, *faults: str, seed: int = 1, **question: Any) -> RunRecord:
    return run(Question(architecture, Broadcast(), seed=seed, duration=2.0, faults=faults, **question))


def verdict(record: RunRecord, name: str) -> Verdict:
    (found,) = [v for v in record.verdicts if v.name == name]
    return found


REACHED = "what was published reached all who stayed"


# -- gossip: infect and die ---------------------------------------------------------------------------------


def reach(nodes: int, fanout: int, crashed: int = 0, seed: int = 1) -> float:
    """The share of those that live who hear a message, mean of five."""
    session = SimSession(GossipBroadcast(nodes=nodes, fanout=fanout), seed=seed, detailed=False)

    async def experiment(x: Experimenter) -> None:
        for i in range(crashed):
            await x.control.crash(f"peer-{i}")
        for message in range(5):
            await x.at(f"peer-{nodes - 1 - message}", Gossip).publish(News(message, ""))
        await x.sleep(1.0)

    session.perform(experiment)
    assert not session.kernel.bugs
    return sum(len(node.log) for node in nodes_of(session)) / 5 / (nodes - crashed)


def test_the_share_that_hears_it_is_that_of_the_formula() -> None:
    assert reach(1000, 3) == pytest.approx(giant(3), abs=0.025)


def test_the_crash_of_a_part_acts_as_a_smaller_fanout() -> None:
    assert reach(1000, 6, crashed=500) == pytest.approx(giant(3), abs=0.035)


def test_a_fanout_of_log_n_and_more_reaches_all() -> None:
    assert reach(300, round(math.log(300)) + 7) == 1.0


def test_gossip_does_not_promise_what_it_misses_and_says_how_much() -> None:
    record = broadcast(GossipBroadcast(nodes=200, fanout=2))
    missed = verdict(record, REACHED)
    assert not missed.holds
    assert not missed.broken
    assert record.metrics["coverage"] == pytest.approx(giant(2), abs=0.08)
    assert record.metrics["messages_per_delivery"] == pytest.approx(2.0, abs=0.05)
    assert all(v.holds for v in record.verdicts if v.promised)


# -- anti-entropy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_anti_entropy_reaches_all_whatever_is_lost_doubled_and_delayed(style: str) -> None:
    faults = "loss:30%@0-2", "duplicate:30%@0-2", "delay:100ms@0-2"
    record = broadcast(AntiEntropyBroadcast(nodes=20, style=style), *faults)
    assert all(v.holds for v in record.verdicts), record.verdicts
    assert record.metrics["coverage"] == 1.0
    # The texts themselves hardly ever travel twice: digests are compared first.
    assert record.metrics["copies_per_delivery"] < 1.5


def test_a_partition_heals() -> None:
    halves = "|".join(",".join(f"peer-{i}" for i in side) for side in (range(5), range(5, 10)))
    record = broadcast(AntiEntropyBroadcast(nodes=10, recent=0.3), f"partition:{halves}@0.2-1.9")
    assert verdict(record, REACHED).holds, verdict(record, REACHED).detail


@pytest.mark.parametrize("style", STYLES)
def test_a_difference_that_is_not_recent_is_found_by_comparing_all(style: str) -> None:
    session = SimSession(AntiEntropyBroadcast(nodes=4, style=style, recent=0.0), seed=1, detailed=False)
    nodes: list[AntiEntropy] = nodes_of(session)

    async def experiment(x: Experimenter) -> None:
        for i, node in enumerate(nodes):
            await x.at(node.address, AntiEntropy).publish(News(i, f"text {i}"))
            await x.sleep(0.7)
        await x.sleep(5.0)

    session.perform(experiment)
    assert {node.checksum for node in nodes} == {checksum(range(4))}
    assert [sorted(node.store) for node in nodes] == [[0, 1, 2, 3]] * 4


def test_what_was_published_survives_a_crash_of_the_only_one_who_has_it() -> None:
    session = SimSession(AntiEntropyBroadcast(nodes=5, period=1.0), seed=1, detailed=False)

    async def experiment(x: Experimenter) -> None:
        await x.at("peer-2", Teller).publish(News(9, "text"))
        await x.control.crash("peer-2")
        await x.sleep(5.0)
        assert not any(node.log for node in nodes_of(session))
        await x.control.restart("peer-2")
        await x.sleep(10.0)

    session.perform(experiment)
    assert all([d.message for d in node.log] == [9] for node in nodes_of(session))


def test_nothing_new_costs_two_messages_a_cycle_and_no_text() -> None:
    session = SimSession(AntiEntropyBroadcast(nodes=10, period=1.0), seed=1, detailed=False)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await x.at("peer-2", Teller).publish(News(9, "text"))
        await x.sleep(20.0)
        sent = sum(node.sent for node in nodes_of(session))
        await x.sleep(100.0)
        return sum(node.sent for node in nodes_of(session)) - sent, sum(n.copies for n in nodes_of(session))

    sent, copies = session.perform(experiment)
    assert sent == pytest.approx(2 * 10 * 100, rel=0.02)
    assert 9 <= copies <= 12


@pytest.mark.local
def test_six_live_peers_tell_each_other_while_one_is_killed() -> None:
    question = Question(
        AntiEntropyBroadcast(nodes=6),
        Broadcast(),
        runtime="local",
        duration=2.0,
        faults=("crash:peer-1@0.5-1",),
    )
    record = run(question)
    assert all(v.holds for v in record.verdicts), record.verdicts
    assert record.operations.ok > 0


# -- rumour mongering ---------------------------------------------------------------------------------------


def mongers(seed: int = 1, n: int = 1000, **parameters: Any) -> tuple[list[Rumours], SimSession]:
    architecture = RumourMongering(nodes=n, period=1.0, **parameters)
    network = Network(latency=Constant(0.001))
    session = SimSession(architecture, seed=seed, network=network, detailed=False)
    return nodes_of(session), session


def rumours(peers: list[Rumours], session: SimSession, count: int) -> tuple[float, float]:
    """Residue and traffic of several rumours that are published at once; till all have lost interest."""

    async def experiment(x: Experimenter) -> None:
        for message in range(count):
            await x.at(peers[message].address, Rumours).publish(News(message, ""))
        while any(peer.hot for peer in peers):
            await x.sleep(1.0)

    session.perform(experiment)
    assert not session.kernel.bugs
    heard = sum(len(peer.log) for peer in peers)
    return 1 - heard / count / len(peers), sum(peer.copies for peer in peers) / count / len(peers)


@pytest.mark.parametrize(("feedback", "loss"), [(True, "coin"), (True, "counter"), (False, "counter")])
def test_a_push_rumour_misses_a_share_of_e_to_minus_its_traffic(feedback: bool, loss: str) -> None:
    # Not in cycles: when they call changes nothing about whom.
    residue, traffic = rumours(*mongers(feedback=feedback, loss=loss, k=2), 8)
    assert math.log(residue) == pytest.approx(-traffic, abs=0.1)
    if feedback and loss == "coin":
        assert residue == pytest.approx(residue_of(3), rel=0.15)


def test_push_rumours_end_and_then_nobody_says_anything() -> None:
    peers, session = mongers(k=1, n=50)
    rumours(peers, session, 1)
    sent = sum(peer.sent for peer in peers)
    session.kernel.run(50.0)
    assert sum(peer.sent for peer in peers) == sent


def test_pull_misses_fewer_than_push_for_the_same_k() -> None:
    push, _ = rumours(*mongers(style="push", n=500, k=1, together=True), 5)
    pull, _ = rumours(*mongers(style="pull", n=500, k=1, together=True), 5)
    both, _ = rumours(*mongers(style="push-pull", n=500, k=1, together=True), 5)
    assert pull < 0.3 * push
    assert both < push


# -- averaging ----------------------------------------------------------------------------------------------


def test_the_sum_of_all_estimates_never_changes_though_exchanges_cross() -> None:
    # Messages take most of a cycle: nearly every exchange crosses others.
    network = Network(latency=Constant(0.04))
    session = SimSession(Averaging(nodes=50, epoch=1000), seed=1, network=network, detailed=False)
    nodes: list[Averager] = nodes_of(session)
    values = [node.value for node in nodes]

    async def experiment(x: Experimenter) -> float:
        await x.sleep(6.0)
        for node in nodes:
            node.addresses = (node.address,)  # no more exchanges: what is on its way arrives
        await x.sleep(1.0)
        return sum(node.estimate for node in nodes)

    assert session.perform(experiment) == pytest.approx(sum(values), rel=1e-12)
    assert max(n.estimate for n in nodes) - min(n.estimate for n in nodes) < 1e-3


def test_an_answer_from_the_last_epoch_changes_nothing_in_this_one() -> None:
    session = SimSession(Averaging(nodes=2, period=1000.0), seed=1, detailed=False)
    one: Averager = nodes_of(session)[0]

    async def experiment(x: Experimenter) -> None:
        await x.sleep(0.1)
        one.spawn(one.call())
        one.begin(1)
        await x.sleep(0.1)

    session.perform(experiment)
    assert one.estimate == one.value
    assert nodes_of(session)[1].estimate != nodes_of(session)[1].value


def test_all_know_the_mean_of_values_that_have_changed_while_one_was_away() -> None:
    question = Question(
        Averaging(nodes=20, period=0.05, epoch=20),
        Aggregate(),
        duration=3.0,
        faults=("crash:peer-4@0.5-1.5",),
    )
    record = run(question)
    assert all(v.holds for v in record.verdicts), record.verdicts


def test_when_all_have_been_away_they_begin_again() -> None:
    session = SimSession(Averaging(nodes=5, period=0.05, epoch=10), seed=1)

    async def experiment(x: Experimenter) -> list[float]:
        await x.client.change(0, 77.0)
        for crash_or_restart in (x.control.crash, x.control.restart):
            for i in range(5):
                await crash_or_restart(f"peer-{i}")
        await x.sleep(4.0)
        readings = (await x.client.readings()).of
        mean = sum(r.value for r in readings) / 5
        assert 77.0 in [r.value for r in readings]
        return [r.estimate - mean for r in readings]

    differences = session.perform(experiment)
    assert len(differences) == 5
    assert max(map(abs, differences)) < 0.1


# -- small and bad settings, laws at other settings ---------------------------------------------------------


@pytest.mark.parametrize("architecture", [GossipBroadcast, AntiEntropyBroadcast, RumourMongering])
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_smallest_groups_work(architecture: type[Architecture], nodes: int) -> None:
    record = broadcast(architecture(nodes=nodes))
    assert all(v.holds for v in record.verdicts if v.promised), record.verdicts
    assert record.metrics["coverage"] >= (0.9 if architecture is RumourMongering else 1.0)


def test_parameters_out_of_range_are_refused() -> None:
    for bad in ({"nodes": 0}, {"fanout": 0}, {"fanout": "many"}):
        with pytest.raises(ValueError, match="takes an integer of at least 1"):
            GossipBroadcast(**bad)
    with pytest.raises(ValueError, match="one of push, pull, push-pull"):
        AntiEntropyBroadcast(style="shove")
    with pytest.raises(ValueError, match="a number of at least"):
        RumourMongering(period=0)


@pytest.mark.parametrize(
    ("id", "given"),
    [
        ("EP-01", {"n": 64, "runs": 10}),
        ("EP-A", {"n": 30, "runs": 10}),
        ("EP-03", {"n": 500, "f": 5, "messages": 8}),
        ("EP-C", {"n": 200, "cycles": 5}),
        ("EP-06", {"n": 50, "k": 10, "rumours": 20}),
        ("EP-06", {"n": 50, "k": 1, "rumours": 20}),
        ("EP-07", {"n": 50, "k": 5, "rumours": 20}),
        ("EP-D", {"n": 100, "k": 2, "rumours": 60}),
        ("EP-08", {"n": 100, "k": 1, "rumours": 60}),
    ],
)
def test_laws_hold_at_other_settings_than_the_listed(id: str, given: dict[str, Any]) -> None:
    record = check(laws()[id], given=given)
    assert record.holds, record.wrong


def test_a_law_of_who_is_missed_refuses_settings_at_which_nobody_is() -> None:
    with pytest.raises(ValueError, match="--k 10: hardly anybody is missed among 200 peers"):
        laws()["EP-08"](n=200, k=10)


def test_what_laws_expect_agrees_with_the_published_values() -> None:
    assert [giant(f) for f in (2, 3, 4, 6)] == pytest.approx([0.7968, 0.9405, 0.9802, 0.9975], abs=5e-5)
    ode = [0.2032, 0.0595, 0.01983, 0.00698, 0.00252]
    assert [residue_of(k + 1) for k in range(1, 6)] == pytest.approx(ode, abs=5e-5)
    assert reached_alone(1000) / 1000 == pytest.approx(0.04, abs=0.002)
    s, m, t_last, _ = counted_pull(1000, 1)  # table 3: .031, 2.7, 17.6
    assert (s, m, t_last) == (
        pytest.approx(0.031, rel=0.06),
        pytest.approx(2.7, abs=0.05),
        pytest.approx(17.6, abs=0.3),
    )
    assert factor_of_constant_waiting() == pytest.approx(0.2933, abs=1e-3)
