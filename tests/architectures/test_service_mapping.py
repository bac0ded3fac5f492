"""One service on several servers: what each mapping carries, keeps and loses."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.service_mapping import Cache, Mapping, Replica, Server, ServiceMapping
from polyarch.core import Failure, System, gather
from polyarch.experiment.laws import check
from polyarch.experiment.performance import perform
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.kv import LINEARIZABLE, Kv, Value
from polyarch.laws.services import Capacity, Found
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


@pytest.mark.parametrize(
    "given", [{"n": 3, "reads": 0.7}, {"n": 3, "reads": 0.0}, {"n": 6, "mapping": "partition"}]
)
def test_they_carry_what_the_law_says_at_other_sizes(given: dict[str, Any]) -> None:
    record = check(Capacity, given=given)
    assert record.holds, record.wrong


def test_caches_find_what_the_law_says() -> None:
    record = check(Found, given={"keys": 30, "caches": 3, "rate": 400.0, "reads": 0.8, "operations": 3000})
    assert record.holds, record.wrong


@pytest.mark.parametrize("mapping", ["one", "partition", "replicate", "cache"])
def test_what_is_promised_holds_under_random_faults(mapping: Mapping) -> None:
    setting = Setting(ServiceMapping(mapping=mapping, servers=3, work=1e-4), Kv(**Kv.small), rate=20.0)
    results = [perform(draw(setting, seed), made=(setting.architecture, setting.job)) for seed in range(4)]
    assert [v for result in results for v in result.violations] == []
    assert sum(done.outcome == "ok" for result in results for done in result.history) > 250


class Hasty(Replica):
    """Does not wait for the others."""

    async def see_to(self, other: str, key: str, entry: Any) -> None:
        self.after(0.1, super().see_to, other, key, entry)


class HastyMapping(ServiceMapping):
    name = "hasty"

    def build(self, system: System) -> None:
        super().build(system)
        system.roles["server"].nodes[0].__class__ = Hasty


@pytest.mark.parametrize(("kind", "read"), [(ServiceMapping, {1}), (HastyMapping, {None, 1})])
def test_a_write_is_answered_when_all_have_it(kind: type[ServiceMapping], read: set[Value]) -> None:
    async def experiment(x: Experimenter) -> set[Value]:
        await x.client.put("k", 1)
        return set(await gather(*(x.at(f"server-{i}", Server).get("k") for i in range(5))))

    with SimSession(kind(mapping="replicate", servers=5)) as session:
        assert session.perform(experiment) == read


def test_writes_wait_for_a_replica_that_is_down_and_reads_of_others_do_not() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.put("k", 1)
        await x.control.crash("server-2")
        writing = x.spawn(x.client.put("k", 2))
        await x.sleep(1.0)
        assert not writing.done
        assert await x.at("server-1", Server).get("k") == 2
        await x.control.restart("server-2")
        await writing
        assert await x.at("server-2", Server).get("k") == 2

    with SimSession(ServiceMapping(mapping="replicate", servers=3)) as session:
        session.perform(experiment)


def test_a_cache_answers_what_it_has_while_the_first_server_is_down_and_for_no_longer() -> None:
    async def experiment(x: Experimenter) -> None:
        cache = x.at("cache-0", Cache)
        await x.client.put("k", 1)
        assert await cache.get("k") == 1
        await x.control.crash("server-0")
        assert await cache.get("k") == 1
        await x.sleep(1.0)
        with pytest.raises(Failure):
            await cache.get("k")

    with SimSession(ServiceMapping(mapping="cache", servers=2, keep=1.0)) as session:
        session.perform(experiment)


def test_caches_are_stale_and_say_so() -> None:
    question = Question(
        architecture=ServiceMapping(mapping="cache", work=1e-4), job=Kv(keys=5), rate=200.0, duration=3.0
    )
    record = run(question)
    (order,) = [v for v in record.verdicts if v.name == LINEARIZABLE]
    assert not order.holds
    assert record.holds


@pytest.mark.parametrize(("mapping", "servers"), [("partition", 8), ("one", 1)])
def test_up_is_faster_than_out(mapping: Mapping, servers: int) -> None:
    kind = ServiceMapping(mapping=mapping, servers=servers, cores=8 // servers)
    record = run(Question(architecture=kind, job=Kv(keys=2000, reads=1.0), rate=6400.0, duration=1.0))
    assert record.latency_ms is not None
    assert (record.latency_ms.p99 > 8.0) == (mapping == "partition")


def test_a_cache_without_a_server_behind_it_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cache"):
        SimSession(ServiceMapping(mapping="cache", servers=1))


@pytest.mark.local
def test_live_replicas_survive_the_kill_of_one() -> None:
    question = Question(
        architecture=ServiceMapping(mapping="replicate", servers=3), job=Kv(keys=10, reads=0.8),
        runtime="local", duration=1.5, rate=100.0, faults=["crash:server-2@0.4-0.8"],
    )  # fmt: skip
    record = run(question)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert record.operations.ok > 50
