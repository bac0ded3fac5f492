"""One server: both jobs, exactly once, and nothing answered that a crash takes back."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.single_server import Server, SingleServer
from polyarch.blocks.once import LifeOver, Ticket
from polyarch.blocks.values import Values
from polyarch.core import Job, Refused, System, Timeout, rpc, settle
from polyarch.experiment.performance import Result, perform
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.bank import BankJob
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


class Other(SingleServer):
    """With another class of server."""

    server: type[Server] = Server

    def build(self, system: System) -> None:
        super().build(system)
        system.roles["server"].nodes[0].__class__ = self.server


def explored(job: Job, seeds: range, server: type[Server] = Server) -> list[Result]:
    architecture = Other()
    architecture.server = server
    setting = Setting(architecture, job, rate=20.0)
    results = []
    for seed in seeds:
        results.append(perform(draw(setting, seed), made=(architecture, job)))
        if results[-1].violations:
            break
    return results


@pytest.mark.parametrize("job", [Kv(**Kv.small), BankJob(**BankJob.small)])
def test_both_jobs_hold_under_random_faults(job: Job) -> None:
    results = explored(job, range(25))
    assert [v for r in results for v in r.violations] == []
    done = [d for r in results for d in r.history]
    assert sum(d.outcome == "ok" for d in done) > 0.8 * len(done) > 3000


class Hasty(Server):
    async def durable(self) -> None:
        pass


class HastyReader(Server):
    @rpc
    async def get(self, key: str) -> Any:
        return self.values.data.get(key)


class Forgetful(Server):
    async def once(self, ticket: Ticket, execute: Any) -> Any:
        return await execute()


@pytest.mark.parametrize("server", [Hasty, Forgetful])
def test_without_a_safeguard_some_seed_shows_why_it_is_there(server: type[Server]) -> None:
    assert explored(BankJob(**BankJob.small), range(30), server)[-1].violations


def test_what_was_read_is_not_taken_back_by_a_crash() -> None:
    def read_twice(server: type[Server]) -> tuple[Any, Any]:
        architecture = Other()
        architecture.server = server
        session = SimSession(architecture, disk_sync=0.05)

        async def experiment(x: Experimenter) -> tuple[Any, Any]:
            await x.client.put("b", 0)
            writing = x.spawn(x.client.put("a", 1))
            await x.sleep(0.02)  # it is in memory, and not on disk
            reading = x.spawn(x.client.get("a"))
            await x.sleep(0.01)
            await x.control.crash("server-0")
            await x.control.restart("server-0")
            first, _ = await settle(reading, writing)
            return first, await x.client.get("a")

        return session.perform(experiment)

    assert read_twice(Server) == (None, None)  # the read was asked again
    assert read_twice(HastyReader) == (1, None)


def test_a_ticket_gives_the_same_answer_again_and_ends_with_the_servers_life() -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        book = await server.enroll()
        ticket = Ticket(book.life, book.client, 0, 0)
        answers = [await server.compare_and_set(ticket, "a", None, i) for i in range(2)]
        assert answers == [True, True], "the second was not executed"
        await server.put(Ticket(book.life, book.client, 1, 1), "a", 7)
        with pytest.raises(Refused, match="old copy"):
            await server.put(ticket, "a", 8)
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        with pytest.raises(LifeOver):
            await server.put(Ticket(book.life, book.client, 2, 2), "a", 9)
        assert await x.client.get("a") == 7

    SimSession(SingleServer()).perform(experiment)


def test_a_request_under_way_in_a_crash_is_unknown_and_one_that_never_left_is_refused() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.put("a", 0)
        asked = x.spawn(x.client.put("a", 1))
        await x.sleep(0.0012)
        await x.control.crash("server-0")
        never = x.spawn(x.client.put("a", 2))
        outcomes = await settle(asked, never)
        assert [type(o).__name__ for o in outcomes] in (["Broken", "Unreachable"], ["Timeout", "Unreachable"])
        assert isinstance(outcomes[0], Timeout)
        assert isinstance(outcomes[1], Refused)

    SimSession(SingleServer(), disk_sync=0.01).perform(experiment)


def test_a_change_of_several_values_survives_a_torn_crash_in_whole_or_not_at_all() -> None:
    for kept in (0.1, 0.3, 0.5, 0.7, 0.9):
        session = SimSession(SingleServer(), disk_sync=0.05)

        async def experiment(x: Experimenter, session: SimSession = session, kept: float = kept) -> int:
            await x.client.open({"a": 10, "b": 0})
            moving = [x.spawn(x.client.transfer("a", "b", 1)) for _ in range(5)]
            await x.sleep(0.02)
            session.kernel.crash("server-0", kept=kept)
            await x.control.restart("server-0")
            await settle(*moving)
            return sum(s.balance for s in await x.client.balances(("a", "b")))

        assert session.perform(experiment) == 10


def test_a_log_that_became_long_begins_anew_with_the_same_values() -> None:
    async def experiment(x: Experimenter) -> None:
        values = Values(x.disk, checkpoint=10)
        for i in range(25):
            values.change({f"k{i % 7}": i, "last": i})
        assert len(x.disk.entries("changes", dict[str, int])) == 5
        assert Values(x.disk).data == values.data == {**values.data, "last": 24}

    SimSession(SingleServer()).perform(experiment)


@pytest.mark.local
def test_a_live_server_survives_its_kill() -> None:
    question = Question(
        # Many keys: on a busy machine many outcomes are unknown, and those of one key are hard to order.
        architecture=SingleServer(), job=Kv(keys=200), runtime="local", duration=1.5, rate=200.0,
        faults=["crash:server@0.5-0.8"],
    )  # fmt: skip
    record = run(question)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert record.operations.ok > 100
