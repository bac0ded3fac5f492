"""A chain of services: what it takes, together and apart, and what one service that is down does."""

from __future__ import annotations

import pytest

from polyarch.architectures.service_chain import ServiceChain
from polyarch.core import Failure
from polyarch.experiment.laws import check
from polyarch.experiment.run import Question, run
from polyarch.jobs.compute import ComputeJob
from polyarch.laws.services import Chain, Splitting
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


@pytest.mark.parametrize("given", [{"n": 3, "work": 0.004, "hop": 0.007}, {"n": 90, "hop": 0.02}])
def test_the_law_of_chains_holds_for_other_chains(given: dict[str, float]) -> None:
    record = check(Chain, given=given)
    assert record.holds, record.wrong


def test_splitting_costs_what_its_messages_cost() -> None:
    record = check(Splitting, given={"on": "sim", "n": 7, "work": 2e-4, "message": 1e-4})
    assert record.holds, record.wrong


def test_nothing_is_answered_while_one_service_is_down_and_the_answer_is_right_when_it_is_back() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("service-3")
        with pytest.raises(Failure):
            await x.client.add(1.0, 2.0, 0.01)
        await x.control.restart("service-3")
        assert await x.client.add(1.0, 2.0, 0.01) == 3.0

    with SimSession(ServiceChain(services=5)) as session:
        session.perform(experiment)


def test_a_monolith_is_one_process() -> None:
    session = SimSession(ServiceChain(services=5, together=True))
    assert [name for name in session.kernel.processes if name.startswith("service")] == ["service-0"]


@pytest.mark.local
def test_a_live_chain_answers() -> None:
    question = Question(
        architecture=ServiceChain(services=3), job=ComputeJob(), runtime="local", duration=1.0, rate=50.0
    )
    record = run(question)
    assert record.holds
    assert record.operations.ok > 20
