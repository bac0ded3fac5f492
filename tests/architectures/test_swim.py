"""SWIM: crashes are noticed, those who live can defend themselves, news reaches all."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.swim import State, Swim, SwimGroup
from polyarch.core import Failure, Verdict
from polyarch.experiment.laws import check, laws
from polyarch.experiment.record import RunRecord
from polyarch.experiment.run import Question, run
from polyarch.jobs.membership import Membership
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def members_of(session: SimSession) -> list[Swim]:
    nodes = [env.node for a, env in session.kernel.directory.items() if a.startswith("peer-") and env.up]
    return [node for node in nodes if isinstance(node, Swim)]


def group(n: int, seed: int = 1, loss: float = 0.0, **parameters: Any) -> SimSession:
    settings = {"formation": "converged", "period": 1.0, **parameters}
    network = Network(latency=Constant(0.001), loss=loss)
    return SimSession(SwimGroup(nodes=n, **settings), seed=seed, network=network, detailed=False, links=True)


def member(session: SimSession, i: int) -> Swim:
    return session.kernel.directory[f"peer-{i}"].node


def watched(architecture: SwimGroup, *faults: str, seed: int = 1, duration: float = 10.0) -> RunRecord:
    return run(Question(architecture, Membership(), seed=seed, duration=duration, faults=faults))


def verdict(record: RunRecord, name: str) -> Verdict:
    (found,) = [v for v in record.verdicts if v.name == name]
    return found


ACCURATE = "nobody who stayed was declared dead"


def test_crashes_are_noticed_by_all_and_those_who_come_back_are_taken_up() -> None:
    record = watched(SwimGroup(nodes=12, period=0.2), "crash:peer-3@2-7", "crash:peer-7@3")
    assert all(v.holds for v in record.verdicts), record.verdicts
    assert "2 were away" in verdict(record, "who was away was noticed by all who stayed").detail
    assert record.metrics["deaths"] == 2 * 10 + 1  # and of each other: who crashed last had seen the first


def test_joining_one_by_one_ends_in_the_state_that_is_built_at_once() -> None:
    joined = group(30, formation="joined")
    joined.kernel.run(30.0)
    built = group(30)
    for one, other in zip(members_of(joined), members_of(built)):
        assert one.states == other.states
        assert sorted(one.order) == sorted(other.order)
    assert not joined.kernel.bugs


def test_each_member_pings_all_others_once_in_a_round() -> None:
    session = group(10, together=True)
    pinged: dict[str, list[str]] = {}

    def observe(kind: str, time: int, sender: str, target: str, method: Any, *_: Any) -> None:
        if kind == "call" and method.name == "ping":
            pinged.setdefault(sender, []).append(target)

    session.kernel.observer = observe
    session.kernel.run(27.5)
    assert len(pinged) == 10
    for sender, targets in pinged.items():
        assert len(targets) == 27
        for begin in (0, 9, 18):
            assert sorted(targets[begin : begin + 9]) == sorted(m for m in pinged if m != sender)
        assert targets[:9] != targets[9:18]


def test_a_round_goes_on_where_it_was_when_somebody_leaves_the_order() -> None:
    one = member(group(10), 0)
    pinged = [one.next_target() for _ in range(4)]
    gone = pinged[1]
    assert gone is not None
    one.hear(State(gone, "dead", 0))
    pinged += [one.next_target() for _ in range(5)]
    assert sorted(map(str, pinged)) == sorted(f"peer-{i}" for i in range(1, 10))


def test_who_is_suspected_is_told_so_and_defends_itself_at_once() -> None:
    session = group(6, retell=0, suspicion=1000)
    one = member(session, 0)
    one.hear(State("peer-1", "suspect", 0))
    session.kernel.run(12.0)
    assert one.states["peer-1"] == State("peer-1", "alive", 1)


def test_news_of_a_death_reaches_all_within_some_log_n_periods_and_is_then_told_no_more() -> None:
    session = group(60, suspicion=0, together=True)
    session.kernel.run(5.5)
    session.kernel.crash("peer-9")
    session.kernel.run(12.0)
    deaths = [[n.at for n in m.notices if n.subject == "peer-9"] for m in members_of(session)]
    assert all(len(at) == 1 for at in deaths)
    first, last = min(deaths)[0], max(deaths)[0]
    assert last - first < 8  # lambda ln n is 15 tellings; alone, half of them would take 30 periods
    session.kernel.run(60.0)
    assert not any(m.news for m in members_of(session))


def test_without_telling_on_each_must_find_out_itself() -> None:
    session = group(20, suspicion=0, retell=0)
    session.kernel.run(5.5)
    session.kernel.crash("peer-9")
    session.kernel.run(6.0)
    noticed = sum(any(n.subject == "peer-9" for n in m.notices) for m in members_of(session))
    assert 0 < noticed < 15
    session.kernel.run(39.0)
    assert all(any(n.subject == "peer-9" for n in m.notices) for m in members_of(session))


def mistakes(seed: int, periods: float = 30.0, **parameters: Any) -> int:
    """Deaths that members declare or hear of, though all live, when a tenth of all messages is lost."""
    session = group(16, seed=seed, loss=0.1, **parameters)
    session.kernel.run(periods)
    assert not session.kernel.bugs
    return sum(notice.kind == "dead" for m in members_of(session) for notice in m.notices)


def test_suspicion_gives_the_living_time_to_defend_themselves() -> None:
    assert mistakes(1, suspicion=0, proxies=1) > 50
    assert mistakes(1, suspicion=3, proxies=1) == 0


def test_proxies_make_loss_on_one_path_harmless() -> None:
    suspects = []
    for proxies in (0, 4):
        session = group(16, loss=0.1, proxies=proxies)
        session.kernel.run(30.0)
        suspects.append(sum(n.kind == "suspect" for m in members_of(session) for n in m.notices))
    assert suspects[1] < 0.1 * suspects[0]


def test_a_paused_member_is_declared_dead_and_comes_back_with_a_higher_incarnation() -> None:
    record = watched(SwimGroup(nodes=10, period=0.2), "pause:peer-3@1-6")
    assert not verdict(record, ACCURATE).holds
    assert not verdict(record, ACCURATE).broken
    assert verdict(record, "all who live know each other").holds


def test_who_may_not_rejoin_believes_that_it_is_dead() -> None:
    session = group(8, rejoin=False)

    async def experiment(x: Experimenter) -> None:
        await x.sleep(3.0)
        await x.control.pause("peer-2")
        await x.sleep(60.0)
        await x.control.resume("peer-2")
        await x.sleep(10.0)
        with pytest.raises(Failure, match="left"):
            await x.at("peer-2", Swim).view()

    session.perform(experiment)
    assert member(session, 2).left
    assert all("peer-2" not in m.alive() for m in members_of(session) if not m.left)


def test_who_leaves_in_good_order_is_suspected_by_nobody() -> None:
    session = group(20)

    async def experiment(x: Experimenter) -> None:
        await x.sleep(3.0)
        await x.at("peer-4", Swim).leave()
        await x.control.crash("peer-4")
        await x.sleep(12.0)

    session.perform(experiment)
    kinds = [[n.kind for n in m.notices if n.subject == "peer-4"] for m in members_of(session)]
    assert sum("suspect" in some for some in kinds) <= 2  # who pinged it before it had heard
    assert all(some and some[-1] == "dead" for some in kinds)


def test_members_that_come_and_go_are_noticed() -> None:
    architecture = SwimGroup(nodes=12, period=0.1)
    record = run(Question(architecture, Membership(), duration=6.0, churn=("poisson:0.3",)))
    assert all(v.holds for v in record.verdicts if v.promised), record.verdicts


def test_both_sides_of_a_partition_declare_each_other_dead_and_find_each_other_again() -> None:
    halves = "peer-0,peer-1,peer-2|peer-3,peer-4,peer-5,peer-6,peer-7"
    record = watched(SwimGroup(nodes=8, period=0.2), f"partition:{halves}@1-9")
    assert record.metrics["deaths"] >= 2 * 3 * 5
    assert verdict(record, "all who live know each other").holds, record.verdicts


def test_when_all_have_been_away_at_once_they_find_each_other_again() -> None:
    # With this seed they come back as three groups: each joins through another that has just come back.
    session = group(16, seed=6, formation="joined")

    async def experiment(x: Experimenter) -> None:
        await x.client.settled()
        for change in (x.control.crash, x.control.restart):
            for i in range(16):
                await change(f"peer-{i}")
        await x.sleep(60.0)

    session.perform(experiment)
    assert [len(m.alive()) for m in members_of(session)] == [16] * 16


def test_a_restarted_member_overrides_what_was_said_of_its_last_life() -> None:
    session = group(6)

    async def experiment(x: Experimenter) -> None:
        for _ in range(2):
            await x.sleep(3.0)
            await x.control.crash("peer-2")
            await x.sleep(40.0)
            assert not (await x.at("peer-0", Swim).holds_alive("peer-2"))
            await x.control.restart("peer-2")
            await x.sleep(0.1)  # it has joined through somebody, who needs no defence of it
            assert any("peer-2" in m.alive() for m in members_of(session) if m.address != "peer-2")
            await x.sleep(20.0)
            assert await x.at("peer-0", Swim).holds_alive("peer-2")

    session.perform(experiment)
    assert member(session, 2).me.incarnation >= 2


def test_of_two_statements_the_later_incarnation_holds_and_then_the_worse() -> None:
    order = [State("a", s, i) for i in (0, 1) for s in ("alive", "suspect", "dead")]  # type: ignore[arg-type]
    for i, one in enumerate(order):
        for j, other in enumerate(order):
            assert one.overrides(other) == (i > j)


def test_a_message_carries_no_more_news_than_it_may_and_first_what_was_told_least() -> None:
    session = group(12, carried=2, retell=3, together=True)
    one = member(session, 0)
    for i in range(1, 5):
        one.hear(State(f"peer-{i}", "alive", 1))
    told = [[s.address for s in one.tell("peer-9")] for _ in range(40)]
    assert {len(news) for news in told} == {2, 0}
    assert [sorted(news) for news in told[:2]] == [["peer-1", "peer-2"], ["peer-3", "peer-4"]]
    limit = 3 * one.log_n()
    assert all(sum(f"peer-{i}" in news for news in told) == limit for i in range(1, 5))


def test_the_smallest_groups_work() -> None:
    for nodes in (1, 2, 3):
        record = watched(SwimGroup(nodes=nodes, period=0.1), duration=2.0)
        assert all(v.holds for v in record.verdicts), record.verdicts


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="a number from"):
        SwimGroup(patience=0.5)
    with pytest.raises(ValueError, match="one of round-robin, random"):
        SwimGroup(probing="all")


@pytest.mark.local
def test_five_live_members_notice_that_one_is_killed() -> None:
    architecture = SwimGroup(nodes=5, period=0.3)
    record = run(Question(architecture, Membership(), "local", duration=8.0, faults=("crash:peer-1@1",)))
    assert verdict(record, "who was away was noticed by all who stayed").holds, record.verdicts
    assert verdict(record, "all who live know each other").holds, record.verdicts


@pytest.mark.parametrize(
    ("id", "given"),
    [
        ("SW-01", {"n": 30, "crashes": 240}),
        ("SW-02", {"n": 30, "periods": 40}),
        ("SW-03", {"n": 5, "q": 0.8, "k": 10, "member_periods": 10_000}),
        ("SW-04", {"n": 8, "crashes": 12}),
        ("SW-05", {"n": 10, "periods": 40}),
    ],
)
def test_laws_hold_at_other_settings_than_the_listed(id: str, given: dict[str, Any]) -> None:
    record = check(laws()[id], given=given)
    assert record.holds, record.wrong


def test_a_law_of_wrong_accusations_refuses_settings_at_which_there_are_hardly_any() -> None:
    with pytest.raises(ValueError, match=r"a member is accused 0\.078 times, too seldom"):
        laws()["SW-05"](loss=0.01)
