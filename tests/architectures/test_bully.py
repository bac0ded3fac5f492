"""The bully algorithm: who leads, what it costs, and what happens when somebody dies or cannot be heard."""

from __future__ import annotations

import pytest

from polyarch.architectures.bully import BullyElection
from polyarch.blocks.electorate import Participant, agreed
from polyarch.experiment.run import Question, run
from polyarch.jobs.election import Election, Views
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def session_of(nodes: int = 5, **parameters: float) -> tuple[BullyElection, SimSession]:
    architecture = BullyElection(nodes=nodes, **parameters)
    return architecture, SimSession(architecture, seed=1, network=Network(latency=Constant(0.001)))


@pytest.mark.parametrize("nodes", [1, 2, 5, 9])
def test_the_highest_leads_and_all_know_it(nodes: int) -> None:
    architecture, session = session_of(nodes)

    async def experiment(x: Experimenter) -> Views:
        await architecture.ready(x)
        return await x.client.views()

    views = session.perform(experiment).of
    assert views == {f"participant-{i}": f"participant-{nodes - 1}" for i in range(nodes)}


def test_when_the_leader_dies_the_next_one_takes_over_and_it_comes_back_as_the_leader() -> None:
    architecture, session = session_of()

    async def experiment(x: Experimenter) -> list[set[str]]:
        await architecture.ready(x)
        seen = []
        await x.control.crash("participant-4")
        await x.control.crash("participant-2")
        await x.sleep(2.0)
        seen.append(set((await x.client.views()).of.values()))
        await x.control.restart("participant-4")
        await x.sleep(2.0)
        seen.append(set((await x.client.views()).of.values()))
        return seen

    assert session.perform(experiment) == [{"participant-3"}, {"participant-4"}]


@pytest.mark.parametrize(("first", "elections", "news"), [(3, 1, 3), (0, 6, 3)])
def test_messages_of_an_election(first: int, elections: int, news: int) -> None:
    """Of five the highest has died.  Best case: the second highest notices (one ELECTION, to the dead one;
    n-2 COORDINATOR).  The lowest: everybody asks everybody above, 3 + 2 + 1 that live and 4 to the dead."""
    architecture, session = session_of(watch_every=1000.0)
    sent: list[str] = []

    async def experiment(x: Experimenter) -> None:
        await architecture.ready(x)
        await x.control.crash("participant-4")
        session.kernel.observer = lambda kind, _, source, target, method, *__: sent.append(
            f"{kind} {method.name} {'dead' if target == 'participant-4' else ''}".strip()
        )
        session.kernel.directory[f"participant-{first}"].node.call_election()
        await agreed(x)
        assert set((await x.client.views()).of.values()) == {"participant-3"}

    session.perform(experiment)
    assert sent.count("call election") == (elections if first == 0 else 0)
    assert sent.count("send coordinator") == news
    assert sent.count("call election dead") == (4 if first == 0 else 1)


def test_each_side_of_a_partition_has_a_leader_until_it_heals() -> None:
    architecture, session = session_of()
    low, high = ["participant-0", "participant-1"], ["participant-2", "participant-3", "participant-4"]

    async def experiment(x: Experimenter) -> list[dict[str, str]]:
        await architecture.ready(x)
        await x.control.disturb(low, high, loss=1.0)
        await x.control.disturb(high, low, loss=1.0)
        await x.sleep(3.0)
        parted = (await x.client.views()).of
        await x.control.heal()
        await x.sleep(3.0)
        # The low side's leader is alive and thinks that it leads: somebody above must be heard again.
        await x.control.crash("participant-1")
        await x.control.restart("participant-1")
        await x.sleep(2.0)
        return [parted, (await x.client.views()).of]

    parted, healed = session.perform(experiment)
    assert {parted[p] for p in low} == {"participant-1"}
    assert {parted[p] for p in high} == {"participant-4"}
    assert set(healed.values()) == {"participant-4"}


def test_a_run_with_a_crash_holds_and_says_how_long_there_was_no_leader() -> None:
    faults = ["crash:participant-4@1-3", "loss:10%@4-5"]
    record = run(Question(BullyElection(), Election(), duration=6.0, faults=faults))
    assert record.holds, record.verdicts
    assert record.metrics["changes"] >= 4
    assert record.metrics["longest_time_without_s"] > 0


def test_who_is_bullied_by_nobody_leads_itself_only_while_it_hears_nobody_above() -> None:
    architecture, session = session_of(3)

    async def experiment(x: Experimenter) -> bool:
        await architecture.ready(x)
        # A lower one says that it leads: whoever is above answers with an election.
        session.kernel.directory["participant-1"].node.follow("participant-1")
        session.kernel.directory["participant-0"].node.follow("participant-1")
        x.at("participant-2", type(session.kernel.directory["participant-2"].node)).coordinator(1)
        await x.sleep(1.0)
        return await x.at("participant-2", Participant).leads()

    assert session.perform(experiment)


@pytest.mark.local
def test_live_the_second_takes_over_when_the_first_is_killed() -> None:
    faults = ["crash:participant-2@0.5-2"]
    record = run(Question(BullyElection(nodes=3), Election(), "local", duration=3.0, faults=faults))
    assert record.holds, record.verdicts
    assert record.metrics["changes"] >= 2
