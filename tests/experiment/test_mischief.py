"""Random faults: what a seed draws, what an architecture is spared, and that what waited can be replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyarch.architectures.raft import Raft, RaftStore
from polyarch.architectures.single_server import SingleServer
from polyarch.core import Random, Refused
from polyarch.experiment.explore import check, load, replay
from polyarch.experiment.mischief import ONCE_LED, RANDOM_FAULTS, Mischief
from polyarch.experiment.performance import perform
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

NAMES = [f"server-{i}" for i in range(3)]


def faults(seed: int, kinds: Any = RANDOM_FAULTS) -> list[Any]:
    return Mischief(Random(seed), kinds, NAMES, 5, 10.0).faults()


def test_a_seed_draws_the_same_faults_again_and_another_one_others() -> None:
    assert [faults(seed) for seed in range(20)] == [faults(seed) for seed in range(20)]
    assert len({str(faults(seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize("kind", RANDOM_FAULTS)
def test_only_kinds_that_are_wanted_are_drawn(kind: str) -> None:
    drawn = {fault.kind for seed in range(30) for fault in faults(seed, (kind,))}
    assert drawn == {"crash" if kind == "torn" else kind}  # torn is a crash that leaves a part of a write


def test_a_schedule_has_not_all_kinds_and_all_schedules_together_have() -> None:
    kinds = [{fault.kind for fault in faults(seed)} for seed in range(200)]
    assert set().union(*kinds) == set(RANDOM_FAULTS) - {"torn"}
    assert max(map(len, kinds)) < len(RANDOM_FAULTS) - 2


def test_a_store_that_trusts_clocks_is_spared_wrong_ones_and_one_without_operator_his_work() -> None:
    assert not {"skew", "drift"} & set(Setting(RaftStore(read_by="lease"), Kv()).kinds)
    assert {"skew", "drift", "operate"} <= set(Setting(RaftStore(), Kv()).kinds)
    assert "operate" not in Setting(SingleServer(), Kv()).kinds


def test_an_operator_changes_who_is_a_member_and_the_seed_of_his_work_decides_how() -> None:
    def members(number: int) -> tuple[str, ...]:
        store = RaftStore(servers=3, spares=2)

        async def experiment(x: Experimenter) -> tuple[str, ...]:
            await store.ready(x)
            await store.operate(x, Random(number))
            leader = await x.at("server-0", Raft).status()
            return leader.members

        with_clients = SimSession(store, seed=1)
        try:
            return with_clients.perform(experiment)
        finally:
            with_clients.close()

    found = [members(number) for number in range(6)]
    assert found == [members(number) for number in range(6)]
    assert len(set(found)) > 2


def test_a_fault_that_waited_for_a_leader_is_saved_as_done_and_replayed_exactly(tmp_path: Path) -> None:
    store = RaftStore(servers=3, election_timeout=0.1, heartbeat=0.03, without="majority_elects")
    setting = Setting(store, Kv(**Kv.small), kinds=("crash", "partition"))
    waits = [s for s in range(60) if any(f.text.startswith(ONCE_LED) for f in draw(setting, s).faults)]
    failing = next(s for s in waits if perform(draw(setting, s)).violations)
    record, smallest = check(setting, 1, first=failing, workers=1, folder=tmp_path, budget=40)
    assert record.violation is not None
    assert record.violation.file is not None
    assert smallest is not None
    example = load(Path(record.violation.file))
    again = replay(example)
    assert again.trace_hash == example.trace_hash
    assert again.violations[0] == example.violation


class Closed(SingleServer):
    """Does not let anybody look at it when all is over."""

    name = "closed"

    async def observe(self, x: Any) -> Any:
        raise Refused("closed")


def test_a_system_that_cannot_be_looked_at_in_the_end_is_a_violation_and_no_crash() -> None:
    setting = Setting(Closed(), Kv(**Kv.small), duration=1.0, kinds=())
    result = perform(draw(setting, 0), made=(setting.architecture, setting.job))
    assert [v.kind for v in result.violations] == ["can be looked at when all is healed"]
    assert "closed" in result.violations[0].detail
