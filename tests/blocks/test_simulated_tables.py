"""The simulated database means what PostgreSQL means: the same guarantees, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from polyarch.blocks.simulated_tables import Database, SimTables
from polyarch.blocks.tables import Row, Tables
from polyarch.components.declared import PostgreSQL, SQLite
from polyarch.core import Conflict, Failure, Node, Refused, System, Timeout, gather, rpc, settle
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


class Stock(Row):
    product: int
    left: int
    shelf: str | None = None
    indexed = ("left",)


class Note(Row):
    id: str


class User(Node):
    """Whoever uses the tables."""

    tables: Tables

    @rpc
    async def hold(self, product: int, seconds: float) -> None:
        """Keep a lock for long."""
        async with self.tables.transaction() as t:
            await t.put(Stock(product, -1))
            await self.sleep(seconds)


def run(
    test: Callable[[Experimenter, Tables], Coroutine[Any, Any, Any]], *, embedded: bool = False, **more: Any
) -> None:
    """Run a test with the tables of ``user-0``, whose tasks it borrows."""
    system = System()
    store: Any = SQLite((Stock, Note), **more)
    if not embedded:
        store = system.component("data", PostgreSQL((Stock, Note), **more))
    user = User(tables=store)
    system.role("user", user)
    system.clients(user)
    with SimSession(system, seed=1) as session:

        async def experiment(x: Experimenter) -> None:
            env = session.kernel.directory["user-0"]
            task = env.spawn(test(x, env.node.tables))
            # A task of another node: asked for, because nodes cannot await each other.
            while not task.done:
                await x.sleep(0.01)
            if task.error is not None:
                raise task.error

        session.perform(experiment)
        assert not session.kernel.bugs or isinstance(session.kernel.bugs[0][2], ZeroDivisionError)


both = pytest.mark.parametrize("embedded", [False, True], ids=["server", "embedded"])


@both
def test_rows_are_found_by_key_by_value_and_in_order(embedded: bool) -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        async with tables.transaction() as t:
            await t.put(*(Stock(n, n % 3) for n in range(30, 0, -1)), Note("b"), Note("a"))
        async with tables.transaction() as t:
            assert await t.get(Stock, 4) == Stock(4, 1)
            assert await t.get(Stock, 99) is None
            assert list(await t.get_many(Stock, [7, 99, 3, 3])) == [3, 7]
            assert [row.product for row in await t.select(Stock, left=1)] == list(range(1, 31, 3))
            assert [row.product for row in await t.select(Stock, limit=2, after=4, left=1)] == [7, 10]
            assert [row.id for row in await t.select(Note)] == ["a", "b"]
            assert await t.count(Stock, left=2, shelf=None) == 10
            with pytest.raises(TypeError, match="no field 'colour'"):
                await t.count(Stock, colour="red")
            await t.put(Stock(1, 5))
            assert await t.delete(Stock, 4)
            assert not await t.delete(Stock, 4)
            assert await t.insert(Stock(40, 1))
            assert not await t.insert(Stock(40, 2))
            # It sees its own writes, and nobody else does.
            assert [row.product for row in await t.select(Stock, left=1)][:2] == [7, 10]
            async with tables.transaction() as other:
                assert await other.get(Stock, 1, lock=False) == Stock(1, 1)
                assert await other.count(Stock, left=1) == 10
        async with tables.transaction() as t:
            assert await t.count(Stock, left=1) == 9

    run(test, embedded=embedded)


@both
def test_an_exception_rolls_everything_back(embedded: bool) -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        with pytest.raises(ZeroDivisionError):
            async with tables.transaction() as t:
                await t.put(Stock(1, 1))
                raise ZeroDivisionError
        async with tables.transaction() as t:
            assert await t.insert(Stock(1, 2)), "neither the row nor its lock is there"

    run(test, embedded=embedded)


@both
def test_concurrent_changes_of_locked_rows_are_never_lost(embedded: bool) -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        async with tables.transaction() as t:
            await t.put(Stock(1, 0), Stock(2, 0))

        async def add() -> None:
            async with tables.transaction() as t:
                rows = await t.get_many(Stock, [2, 1])
                await t.put(*(Stock(row.product, row.left + 1) for row in rows.values()))

        await gather(*(add() for _ in range(40)))
        async with tables.transaction() as t:
            assert await t.get_many(Stock, [1, 2]) == {1: Stock(1, 40), 2: Stock(2, 40)}

    run(test, embedded=embedded)


def test_of_two_that_wait_for_each_other_one_gives_way_at_once() -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        async with tables.transaction() as t:
            await t.put(Stock(1, 0), Stock(2, 0))

        async def both_rows(one: int, other: int) -> None:
            async with tables.transaction() as t:
                await t.get(Stock, one)
                await x_sleep(0.01)
                await t.get(Stock, other)

        x_sleep = tables._env.sleep  # type: ignore[attr-defined]
        begin = tables._env.now()  # type: ignore[attr-defined]
        outcomes = await settle(both_rows(1, 2), both_rows(2, 1))
        assert sum(isinstance(o, Conflict) and "deadlock" in o.detail for o in outcomes) == 1
        assert sum(o is None for o in outcomes) == 1
        assert tables._env.now() - begin < 0.1  # type: ignore[attr-defined]

    run(test)


@both
def test_waiting_too_long_for_a_lock_is_a_conflict_and_holding_one_too_long_ends(embedded: bool) -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        env = tables._env  # type: ignore[attr-defined]
        holder = env.spawn(env.node.hold(1, 10.0))
        await env.sleep(0.1)
        with pytest.raises(Conflict, match="waited 1 s"):
            async with tables.transaction() as t:
                await t.put(Stock(1, 1))
        await env.sleep(2.0)
        async with tables.transaction() as t:
            assert await t.insert(Stock(1, 1))
        with pytest.raises(Refused, match="rolled back"):
            await holder

    run(test, embedded=embedded)


def test_what_a_dead_client_held_is_free_at_once() -> None:
    async def experiment(x: Experimenter) -> None:
        held = x.spawn(x.at("user-0", User).hold(1, 5.0))
        await x.sleep(0.1)
        await x.control.crash("user-0")
        with pytest.raises(Timeout):
            await held
        begin = x.now
        await x.at("user-1", User).hold(1, 0.0)
        assert x.now - begin < 0.1

    system = System()
    user = User(tables=system.component("data", PostgreSQL((Stock,))))
    system.role("user", user, count=2)
    system.clients(Node())
    with SimSession(system, seed=1) as session:
        session.perform(experiment)


@pytest.mark.parametrize("embedded", [False, True], ids=["server", "embedded"])
def test_a_crash_keeps_what_was_committed_and_nothing_else(embedded: bool) -> None:
    async def experiment(x: Experimenter) -> list[Failure | None]:
        user = x.at("user-0", User)
        await user.hold(1, 0.0)
        pending = x.spawn(user.hold(2, 0.5))
        await x.sleep(0.1)
        await x.control.crash("user-0" if embedded else "data-0")
        outcome = (await settle(pending))[0]
        with pytest.raises(Refused, match="down"):
            await user.hold(3, 0.0)
        await x.control.restart("user-0" if embedded else "data-0")
        await user.hold(4, 0.0)
        return [outcome]

    system = System()
    store: Any = SQLite((Stock,)) if embedded else system.component("data", PostgreSQL((Stock,)))
    user = User(tables=store)
    system.role("user", user)
    system.clients(Node())
    with SimSession(system, seed=1) as session:
        outcome = session.perform(experiment)[0]
        # A server that forgot an uncommitted transaction says so: nothing of it happened.
        assert isinstance(outcome, Timeout if embedded else Refused)
        tables = session.kernel.directory["user-0"].node.tables
        assert isinstance(tables, SimTables)
        database = tables._database if embedded else session.kernel.directory["data-0"].node
        assert isinstance(database, Database)
        assert sorted(database.tables["stock"].rows) == [1, 4]
        assert not database.locks


def test_a_statement_costs_what_it_says() -> None:
    async def test(x: Experimenter, tables: Tables) -> None:
        env = tables._env  # type: ignore[attr-defined]
        begin = env.now()
        async with tables.transaction() as t:
            await t.get(Stock, 1, lock=False)
        # There and back at 0.5 ms, and one statement at 75 µs.
        assert env.now() - begin == pytest.approx(0.001 + 75e-6, abs=1e-9)
        begin = env.now()
        async with tables.transaction() as t:
            await t.put(Stock(1, 1))
        # Three exchanges (begin, put, commit), two statements' worth of work, and a sync.
        assert env.now() - begin == pytest.approx(0.003 + 150e-6 + 0.001, abs=1e-9)

    run(test)
