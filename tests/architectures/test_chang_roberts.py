"""Chang and Roberts' election: who leads, how many messages it takes, and what a crash does."""

from __future__ import annotations

import itertools

import pytest

from polyarch.architectures.chang_roberts import ChangRoberts, ChangRobertsElection
from polyarch.blocks.electorate import ElectionClient, agreed
from polyarch.core import System
from polyarch.experiment.run import Question, run
from polyarch.jobs.election import Election
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def messages(numbers: tuple[int, ...]) -> tuple[int, int]:
    """Candidacies and news that are sent when all processes of such a ring begin at once."""
    system = System()
    ring = system.addresses("process", len(numbers))
    process = ChangRoberts(participants=ring, numbers=numbers, watch_every=1000.0)
    system.role("process", process, count=len(numbers))
    system.clients(ElectionClient(participants=ring))
    session = SimSession(system, network=Network(latency=Constant(0.001)))
    # The processes begin as they start: what they sent then is already on its way, one each.
    sent = {"candidate": len(numbers), "elected": 0}

    def overhear(kind: str, _: int, source: str, target: str, method: object, *__: object) -> None:
        name = getattr(method, "name", "")
        if kind == "call" and name in sent:
            sent[name] += 1

    session.kernel.observer = overhear

    async def experiment(x: Experimenter) -> str:
        await agreed(x)
        await x.sleep(1.0)
        return (await x.client.views()).of["process-0"]

    leader = session.perform(experiment)
    assert numbers[int(leader.partition("-")[2])] == max(numbers)
    return sent["candidate"], sent["elected"]


def test_the_average_over_all_orders_is_n_times_the_harmonic_number() -> None:
    n = 5
    counts = [messages((n, *rest))[0] for rest in itertools.permutations(range(1, n))]
    harmonic = sum(1 / k for k in range(1, n + 1))
    assert sum(counts) / len(counts) == pytest.approx(n * harmonic)
    assert (min(counts), max(counts)) == (2 * n - 1, n * (n + 1) // 2)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_best_and_worst_order(n: int) -> None:
    assert messages(tuple(range(1, n + 1))) == (2 * n - 1, n)
    assert messages(tuple(range(n, 0, -1))) == (n * (n + 1) // 2, n)


def test_a_process_alone_leads() -> None:
    assert messages((7,))[1] <= 1


def test_who_dies_is_passed_by_and_when_it_led_another_is_elected() -> None:
    architecture = ChangRobertsElection(nodes=6, order=3)
    session = SimSession(architecture, seed=2)

    async def experiment(x: Experimenter) -> tuple[str, set[str], set[str]]:
        await architecture.ready(x)
        first = (await x.client.views()).of["process-0"]
        await x.control.crash(first)
        await x.sleep(3.0)
        second = set((await x.client.views()).of.values())
        await x.control.restart(first)
        await x.sleep(3.0)
        return first, second, set((await x.client.views()).of.values())

    first, second, third = session.perform(experiment)
    assert len(second) == 1
    assert first not in second
    assert third == {first}  # it comes back with the highest number, and wants to lead


def test_a_run_with_crashes_and_losses_ends_in_agreement() -> None:
    record = run(
        Question(
            ChangRobertsElection(nodes=7),
            Election(),
            duration=6.0,
            faults=["crash:process-2@1-3", "crash:process-3@1.2-2", "loss:10%@4-5"],
        )
    )
    assert record.holds, record.verdicts
    assert record.metrics["messages_per_change"] > 0


@pytest.mark.local
def test_live_another_is_elected_when_one_is_killed() -> None:
    faults = [f"crash:process-{i}@{0.5 + i}-{1.3 + i}" for i in range(2)]
    record = run(Question(ChangRobertsElection(nodes=3), Election(), "local", duration=3.0, faults=faults))
    assert record.holds, record.verdicts
