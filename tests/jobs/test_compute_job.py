"""The job compute: what is asked for, and that wrong answers are seen."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from polyarch.architectures.single_threaded import SingleThreaded, SingleThreadedServer
from polyarch.blocks.servers import ComputeClient
from polyarch.core import Random, System
from polyarch.experiment.run import Question, run
from polyarch.jobs.compute import RIGHT, Compute, ComputeJob


def asked(count: int, **values: Any) -> list[Any]:
    visits = islice(ComputeJob(**values).visits(Random(3)), count)
    return [operation for visit in visits for operation in visit]


def test_operations_come_in_their_shares_with_what_they_take() -> None:
    operations = asked(8000, increments=1, adds=2, sorts=0, blocks=1, work=0.002, customers=4)
    counts = Counter(operation.name for operation in operations)
    assert counts["increment"] / 8000 == pytest.approx(0.25, abs=0.02)
    assert counts["add"] / 8000 == pytest.approx(0.5, abs=0.02)
    assert counts["sort"] == 0
    adds = [o.arguments for o in operations if o.name == "add"]
    assert sum(a[2] for a in adds) / len(adds) == pytest.approx(0.002, rel=0.1)
    assert {a[4] for a in adds} == {0, 1, 2, 3}
    assert {o.arguments[0] for o in operations if o.name == "block"} == {0.010}


def test_the_same_seed_asks_for_the_same_and_skewed_clients_ask_for_most() -> None:
    assert asked(50) == asked(50)
    clients = Counter(o.arguments[-1] for o in asked(4000, skew=1.5, customers=10))
    assert clients[0] > 10 * clients[9] > 0


def test_the_model_answers_each_operation_of_the_port() -> None:
    assert RIGHT["increment"](41, 0.0) == 42
    assert RIGHT["add"](1.5, 2.0, 0.0) == 3.5
    assert RIGHT["sort"]((3.0, 1.0), 0.0) == [1.0, 3.0]
    assert RIGHT["block"](0.5) == 0.5
    assert all(hasattr(Compute, name) for name in RIGHT)


def test_a_wrong_answer_is_seen() -> None:
    job = ComputeJob()
    record = run(Question(SingleThreaded(), job, rate=50.0, duration=1.0))
    assert all(verdict.holds for verdict in record.verdicts)

    class Wrong(SingleThreaded):
        def build(self, system: System) -> None:
            server = WrongServer()
            system.role("server", server)
            system.clients(ComputeClient(front=server))

    record = run(Question(Wrong(), job, rate=50.0, duration=1.0))
    (verdict,) = [v for v in record.verdicts if "right" in v.name]
    assert not verdict.holds
    assert "sort" in verdict.detail


class WrongServer(SingleThreadedServer):
    """Sorts nothing."""

    async def sort(
        self, numbers: tuple[float, ...], work: float = 0.0, blocking: float = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        await self.serve(work, blocking, client)
        return numbers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"increments": 0, "adds": 0, "sorts": 0, "blocks": 0}, "nothing to ask for"),
        ({"work_law": "erlang", "work_shape": 2.5}, "phases"),
        ({"work": -1.0}, "--work takes"),
        ({"work_law": "cauchy"}, "--work-law takes"),
    ],
)
def test_parameters_that_cannot_be_are_refused_with_a_word(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ComputeJob(**values)
