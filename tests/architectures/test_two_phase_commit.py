"""Two-phase commit: atomic whatever crashes, blocked when the coordinator dies; what safeguards are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from polyarch.architectures.two_phase_commit import Coordinator, Shard, Step, TwoPhaseCommit
from polyarch.blocks.accounts import UNOPENED, Aborted
from polyarch.blocks.commit_safeguards import Safeguards
from polyarch.blocks.locks import Died, Locks
from polyarch.core import Refused, System, Timeout, settle
from polyarch.experiment.performance import Result, perform
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.faults.spec import Fault
from polyarch.jobs.bank import BankJob, Receipt, Statement
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

EVERYBODY = (
    "coordinator-0", *(f"shard-{i}" for i in range(3)), "client", *(f"client-{i}" for i in range(1, 5))
)  # fmt: skip
ECHOES = [
    Fault("duplicate", EVERYBODY, EVERYBODY, False, 0.8, 0.0, 4.0, ""),
    Fault("reorder", EVERYBODY, EVERYBODY, False, 0.6, 0.0, 4.0, ""),
]
"""Copies of all messages, late and in any order."""


def explored(without: str, seeds: Sequence[int], **setting: Any) -> list[Result]:
    """The runs of these seeds, to the first that violates something."""
    made = Setting(TwoPhaseCommit(without=without), BankJob(**BankJob.small), rate=50.0, **setting)
    results: list[Result] = []
    for seed in seeds:
        results.append(perform(draw(made, seed), made=(made.architecture, made.job)))
        if results[-1].violations:
            break
    return results


def test_every_transfer_is_atomic_under_random_faults() -> None:
    results = explored("", range(15))
    assert [v for r in results for v in r.violations] == []
    assert not any(r.undecided for r in results)
    done = [d for r in results for d in r.history]
    assert sum(d.outcome == "ok" for d in done) > 0.8 * len(done) > 4000
    assert any(d.outcome == "info" for d in done)


def test_late_copies_of_messages_change_nothing() -> None:
    results = explored("", range(12), faults=ECHOES, kinds=("crash", "delay"), duration=4.0)
    assert [v for r in results for v in r.violations] == []


@pytest.mark.parametrize(
    ("without", "kinds", "faults"),
    [
        ("forced_prepare", ("crash",), []),
        ("forced_decision", ("crash",), []),
        ("locks_until_decision", (), []),
        ("wait_when_in_doubt", ("crash", "loss", "delay"), []),
        ("remember_outcomes", ("delay",), ECHOES),
    ],
)
def test_without_a_safeguard_some_seed_shows_why_it_is_there(
    without: str, kinds: tuple[str, ...], faults: list[Fault]
) -> None:
    duration = 4.0 if faults else 10.0
    assert explored(without, range(150), kinds=kinds, faults=faults, duration=duration)[-1].violations


def test_every_safeguard_is_removed_by_some_test() -> None:
    (mark,) = test_without_a_safeguard_some_seed_shows_why_it_is_there.pytestmark
    assert [row[0] for row in mark.args[1]] == list(Safeguards.__struct_fields__)
    with pytest.raises(ValueError, match="there is no safeguard 'luck'; there are: forced_prepare"):
        TwoPhaseCommit(without="luck")


def session_of(seed: int = 0) -> SimSession:
    return SimSession(TwoPhaseCommit(shards=2), seed=seed)


async def prepared(x: Experimenter) -> tuple[int, Any]:
    """A transaction of one shard, in doubt; its coordinator knows nothing of it yet."""
    transaction, shard = (1 << 32) + 1000, x.at("shard-0", Shard)
    done = await shard.execute(transaction, transaction, (Step("a", 5),))
    assert done.enough
    assert await shard.prepare(transaction) == "yes"
    return transaction, shard


def test_who_is_in_doubt_waits_for_the_coordinator_as_long_as_it_takes() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("coordinator-0")
        transaction, shard = await prepared(x)
        await x.sleep(30.0)
        with pytest.raises(Died):  # a younger transaction: the account is locked
            await shard.execute(transaction + 1, transaction + 1, (Step("a"),))
        await x.control.crash("shard-0")
        await x.control.restart("shard-0")
        with pytest.raises(Died):  # a crash does not unlock it
            await shard.execute(transaction + 2, transaction + 2, (Step("a"),))
        await x.control.restart("coordinator-0")
        await x.sleep(1.5)
        told = await shard.doubt()
        assert told.now == 0
        assert told.longest < 2.0, "of this life of the shard"
        after = await shard.execute(transaction + 3, transaction + 3, (Step("a"),))
        assert after.before == (UNOPENED,), "presumed abort: nobody knows of it"

    session_of().perform(experiment)


def test_who_has_not_voted_aborts_alone() -> None:
    async def experiment(x: Experimenter) -> None:
        shard = x.at("shard-0", Shard)
        await shard.execute(7, 7, (Step("a", 5),))
        await x.sleep(2.0)
        assert await shard.prepare(7) == "no"
        assert (await shard.execute(8, 8, (Step("a"),))).before == (UNOPENED,)

    session_of().perform(experiment)


def test_a_decision_on_disk_is_carried_out_after_a_crash_of_the_coordinator() -> None:
    """The shards are cut off when they have voted; the coordinator decides, answers, and crashes."""
    session = session_of()

    async def experiment(x: Experimenter) -> list[int]:
        names = [f"account-{i}" for i in range(8)]
        await x.client.open(dict.fromkeys(names, 10))
        shards: Any = [session.kernel.directory[f"shard-{i}"].node for i in range(2)]
        a, b = (next(n for n in names if n in shard.accounts) for shard in shards)

        async def cut() -> None:
            while not all(shard.prepared for shard in shards):
                await x.sleep(0.0001)
            await x.control.disturb(["coordinator-0"], ["shard-0", "shard-1"], loss=1.0)

        cutting = x.spawn(cut())
        assert (await x.client.transfer(a, b, 3)).moved
        await cutting
        assert [shard.accounts[n].balance for shard, n in zip(shards, (a, b))] == [10, 10]
        await x.control.crash("coordinator-0")
        await x.control.heal()
        await x.control.restart("coordinator-0")
        return [s.balance for s in await x.client.balances((a, b))]

    assert session.perform(experiment) == [7, 13]


def test_a_dead_coordinator_blocks_accounts_for_as_long_as_it_is_dead() -> None:
    question = Question(
        architecture=TwoPhaseCommit(),
        job=BankJob(),
        duration=4.0,
        rate=300.0,
        faults=["crash:coordinator@1-3"],
        options={"disk_sync": 0.01},
    )
    record = run(question)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert 1.9 < record.metrics["in_doubt_longest_s"] < 2.3
    assert record.metrics["in_doubt_account_s"] > 2.0
    quiet = run(Question(architecture=TwoPhaseCommit(), job=BankJob(), duration=4.0, rate=300.0))
    assert quiet.metrics["in_doubt_longest_s"] < 0.05


def test_money_that_is_not_there_is_not_moved() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.open({"a": 5, "b": 0})
        assert await x.client.transfer("a", "b", 6) == Receipt(False, Statement(0, 5))
        assert await x.client.transfer("a", "b", 5) == Receipt(True, Statement(1, 0), Statement(1, 5))
        assert [s.balance for s in await x.client.balances(("a", "b", "nobody"))] == [0, 5, 0]
        for wrong in (("a", "b", -1), ("b", "b", 1)):
            with pytest.raises(Refused):
                await x.client.transfer(*wrong)

    session_of().perform(experiment)


def test_without_a_shard_nothing_happens_to_its_accounts_and_that_is_certain() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.open({f"account-{i}": 10 for i in range(8)})
        await x.control.crash("shard-1")
        names = [f"account-{i}" for i in range(8)]
        pairs = [(a, b) for a in names for b in names if a < b]
        outcomes = await settle(*(x.client.transfer(a, b, 1) for a, b in pairs))
        assert {type(outcome) for outcome in outcomes} == {Receipt, Aborted}

    session_of().perform(experiment)


def test_without_the_coordinator_nothing_is_said_to_be_certain_that_is_not() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.open({"a": 10, "b": 10})
        asked = x.spawn(x.client.transfer("a", "b", 1))
        await x.sleep(0.003)
        await x.control.crash("coordinator-0")
        (outcome,) = await settle(asked)
        assert isinstance(outcome, Timeout), "it was asked to, and may have"
        (later,) = await settle(x.client.transfer("a", "b", 1))
        assert isinstance(later, Refused), "nobody was there to ask"

    session_of().perform(experiment)


# -- locks -------------------------------------------------------------------------------------------------


def test_the_older_waits_and_the_younger_dies() -> None:
    async def experiment(x: Experimenter) -> list[int]:
        locks, order = Locks(x), []

        async def take(transaction: int, exclusive: bool = True) -> None:
            await locks.acquire(transaction, transaction, "a", exclusive=exclusive)
            order.append(transaction)

        await settle(take(5, exclusive=False), take(7, exclusive=False))
        assert order == [5, 7], "readers share"
        with pytest.raises(Died):
            await take(6)
        older = x.spawn(take(3))
        with pytest.raises(Died):
            await take(4, exclusive=False)  # may not overtake an older writer that waits
        locks.release(5)
        assert not older.done
        locks.release(7)
        await older
        waiting = x.spawn(take(2))
        locks.release(2)
        (outcome,) = await settle(waiting)
        assert isinstance(outcome, Died), "ended while it waited"
        locks.release(3)
        assert len(locks) == 0
        return order

    assert session_of().perform(experiment) == [5, 7, 3]


def test_transfers_in_circles_all_come_to_an_end() -> None:
    async def experiment(x: Experimenter) -> None:
        names = [f"account-{i}" for i in range(4)]
        await x.client.open(dict.fromkeys(names, 100))
        circle = [x.client.transfer(names[i % 4], names[(i + 1) % 4], 1) for i in range(60)]
        assert all(isinstance(r, Receipt) and r.moved for r in await settle(*circle))
        assert sum(s.balance for s in await x.client.balances(tuple(names))) == 400

    session_of().perform(experiment)


@pytest.mark.local
def test_live_shards_and_a_live_coordinator_survive_their_kills() -> None:
    job = BankJob(accounts=10)
    faults = ["crash:coordinator@0.6-1.0", "crash:shard-1@1.6-2.0"]
    record = run(
        Question(
            architecture=TwoPhaseCommit(), job=job, runtime="local", duration=2.6, rate=150.0, faults=faults
        )
    )
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert record.operations.ok > 200
    assert record.metrics["in_doubt_longest_s"] > 0


def test_the_coordinator_is_in_one_process_and_the_shards_in_their_own() -> None:
    system = System()
    TwoPhaseCommit(shards=4).build(system)
    assert [(p.name, type(p.nodes[0][1])) for p in system.processes()][:2] == [
        ("coordinator-0", Coordinator),
        ("shard-0", Shard),
    ]
