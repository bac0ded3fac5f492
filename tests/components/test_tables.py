"""The tables port means the same on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
from trampoline import drive

from polyarch.blocks.tables import Row, Tables
from polyarch.components.postgres_tables import PostgresTables
from polyarch.components.sqlite import SqliteTables
from polyarch.core.errors import Conflict, Refused
from polyarch.core.records import Record

pytestmark = pytest.mark.local


class Line(Record):
    product: int
    quantity: int


class Order(Row):
    """A row of every kind of field; its name is a word of SQL."""

    id: str
    user: int
    total: float
    paid: bool
    lines: tuple[Line, ...] = ()
    data: bytes = b""
    note: str | None = None
    gift: bool | None = None
    indexed = ("user",)


class Stock(Row):
    product: int
    left: int


class Seen(Row):
    """Nothing but a key."""

    id: str


class Store(Protocol):
    """A store behind the port, empty at the start of a test."""

    def tables(self, time_limit: float = 2.0) -> Tables: ...
    def run(self, test: Coroutine[Any, Any, None]) -> None: ...


class Real:
    def __init__(self, local: Any, make: Any) -> None:
        self.local, self.make, self.made = local, make, []

    def tables(self, time_limit: float = 2.0) -> Tables:
        self.made.append(self.make([Order, Stock, Seen], time_limit=time_limit))
        return self.made[-1]

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        self.local.drive(test)


async def empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("drop schema public cascade; create schema public")
    await connection.close()


@pytest.fixture(params=["sqlite full", "sqlite normal", "postgresql"])
def store(request: pytest.FixtureRequest, local: Any, tmp_path: Path) -> Iterator[Store]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").url
        local.run(empty(url))
        here = Real(local, lambda types, **more: PostgresTables(url, types, **more))
    else:
        how = request.param.split()[1]
        file = tmp_path / "shop.db"
        here = Real(local, lambda types, **more: SqliteTables(file, types, synchronous=how, **more))
    yield here
    for tables in here.made:
        local.run(tables.close())


async def tick() -> None:
    for _ in range(3):
        over = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.002, over.set_result, None)
        await over


ORDER = Order("ö1", 2**40, 9.99, True, (Line(1, 2), Line(3, 4)), b"\x00\xff", None, False)


def test_rows_come_back_as_they_were_put(store: Store) -> None:
    async def test() -> None:
        tables = store.tables()
        rows = [ORDER, Order("b", -1, 0.1, False, note="it's", gift=None), Seen("s")]
        async with tables.transaction() as t:
            await t.put(*rows)
        async with tables.transaction() as t:
            assert [await t.get(type(row), row.id) for row in rows] == rows
            assert await t.get(Order, "none") is None
            assert type((await t.get(Order, "b")).paid) is bool  # type: ignore[union-attr]

    store.run(test())


def test_an_exception_rolls_everything_back(store: Store) -> None:
    async def test() -> None:
        tables = store.tables()
        with pytest.raises(ZeroDivisionError):
            async with tables.transaction() as t:
                await t.put(Stock(1, 1), ORDER)
                assert await t.get(Stock, 1) == Stock(1, 1), "it sees its own writes"
                assert await t.count(Stock) == 1
                raise ZeroDivisionError
        async with tables.transaction() as t:
            assert await t.count(Stock) == await t.count(Order) == 0

    store.run(test())


def test_put_replaces_insert_does_not_and_delete_says_whether_it_did(store: Store) -> None:
    async def test() -> None:
        async with store.tables().transaction() as t:
            assert await t.insert(Stock(1, 1))
            assert not await t.insert(Stock(1, 2))
            assert await t.get(Stock, 1) == Stock(1, 1)
            await t.put(Stock(1, 3), Stock(2, 3), Stock(1, 4), Seen("a"))
            await t.put(Seen("a"))
            assert await t.get(Stock, 1) == Stock(1, 4), "the last of a key's rows counts"
            assert await t.delete(Stock, 1)
            assert not await t.delete(Stock, 1)

    store.run(test())


def test_many_are_got_at_once_and_selected_in_key_order(store: Store) -> None:
    async def test() -> None:
        async with store.tables().transaction() as t:
            await t.put(*(Stock(n, n % 3) for n in range(30, 0, -1)))
            found = await t.get_many(Stock, [7, 99, 3, 3])
            assert found == {3: Stock(3, 0), 7: Stock(7, 1)}
            assert await t.get_many(Stock, []) == {}
            assert [row.product for row in await t.select(Stock, left=1)] == list(range(1, 31, 3))
            assert [row.product for row in await t.select(Stock, limit=2, after=4, left=1)] == [7, 10]
            assert await t.count(Stock, left=2) == 10
            await t.put(ORDER, Order("b", 7, 1.0, True, note="x"))
            assert [row.id for row in await t.select(Order)] == ["b", "ö1"]
            assert [row.id for row in await t.select(Order, note=None)] == ["ö1"]
            assert await t.select(Order, lines=ORDER.lines, paid=True) == [ORDER]
            with pytest.raises(TypeError, match="no field 'colour'"):
                await t.select(Order, colour="red")

    store.run(test())


def test_concurrent_changes_of_a_locked_row_are_never_lost(store: Store) -> None:
    async def test() -> None:
        tables = [store.tables(5.0), store.tables(5.0)]
        async with tables[0].transaction() as t:
            await t.put(Stock(1, 0), Stock(2, 0))

        async def add(n: int) -> None:
            async with tables[n % 2].transaction() as t:
                rows = await t.get_many(Stock, [2, 1])
                await drive(tick())  # let the others in
                await t.put(*(Stock(row.product, row.left + 1) for row in rows.values()))

        await asyncio.gather(*[drive(add(n)) for n in range(40)])
        async with tables[0].transaction() as t:
            assert await t.get_many(Stock, [1, 2]) == {1: Stock(1, 40), 2: Stock(2, 40)}

    store.run(test())


def test_reading_without_a_lock_does_not_wait_and_sees_committed_data_only(store: Store) -> None:
    async def test() -> None:
        tables = store.tables()
        async with tables.transaction() as t:
            await t.put(Stock(1, 1))
        async with tables.transaction() as t:
            await t.get(Stock, 1)
            await t.put(Stock(1, 2), Stock(2, 2))
            async with tables.transaction() as other:
                assert await other.get(Stock, 1, lock=False) == Stock(1, 1)
                assert await other.get_many(Stock, [1, 2], lock=False) == {1: Stock(1, 1)}
                assert await other.count(Stock) == len(await other.select(Stock)) == 1

    store.run(test())


def test_waiting_too_long_for_a_lock_is_a_conflict_and_then_all_is_well(store: Store) -> None:
    async def test() -> None:
        patient, hasty = store.tables(), store.tables(0.2)
        async with patient.transaction() as t:
            await t.put(Stock(1, 1))
        async with patient.transaction() as t:
            await t.get(Stock, 1)
            for _ in range(2):
                with pytest.raises(Conflict):
                    async with hasty.transaction() as other:
                        await other.get(Stock, 1)
            await t.put(Stock(1, 2))
        async with hasty.transaction() as other:
            assert await other.get(Stock, 1) == Stock(1, 2)

    store.run(test())


def test_a_transaction_that_takes_too_long_is_rolled_back_and_its_locks_are_free(store: Store) -> None:
    async def test() -> None:
        slow, other = store.tables(0.2), store.tables()
        over = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.3, over.set_result, None)
        with pytest.raises(Refused, match="longer than"):
            async with slow.transaction() as t:
                await t.put(Stock(1, 1))
                await over
                async with other.transaction() as u:
                    assert await u.insert(Stock(1, 9))
        async with slow.transaction() as t:
            assert await t.get(Stock, 1) == Stock(1, 9)

    store.run(test())


def test_a_failure_that_was_caught_inside_still_prevents_the_commit(store: Store) -> None:
    async def test() -> None:
        tables = store.tables()
        with pytest.raises(Refused):
            async with tables.transaction() as t:
                await t.put(Stock(1, 1))
                with pytest.raises(Refused):
                    await t.put(Stock(2, 2**70))
        async with tables.transaction() as t:
            assert await t.count(Stock) == 0
        with pytest.raises(Refused, match="over"):
            await t.get(Stock, 1)

    store.run(test())


def test_a_node_that_dies_in_the_middle_leaves_no_lock_and_no_change(store: Store) -> None:
    async def test() -> None:
        tables = store.tables(0.5)
        reached = asyncio.get_running_loop().create_future()

        async def dies() -> None:
            async with tables.transaction() as t:
                await t.put(Stock(1, 1))
                reached.set_result(None)
                await asyncio.get_running_loop().create_future()

        coroutine, waiting = dies(), change(2)
        drive(coroutine)
        await reached
        drive(waiting)
        await drive(tick())
        waiting.close()  # while it waits for a lock, or holds one
        coroutine.close()
        await drive(change(3))
        async with tables.transaction() as t:
            assert await t.get(Stock, 1) == Stock(1, 3)

    async def change(left: int) -> None:
        async with store.tables().transaction() as t:
            await t.put(Stock(1, left))

    store.run(test())


def test_a_node_may_die_at_any_moment_of_a_transaction_and_others_go_on(store: Store) -> None:
    async def test() -> None:
        tables = store.tables()

        async def change(left: int) -> None:
            async with tables.transaction() as t:
                await t.put(Stock(1, left))

        await change(0)
        for moment in range(8):  # turns of the event loop; the last of them are in the commit
            drive(doomed := change(99))
            for _ in range(moment):
                turn = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(turn.set_result, None)
                await turn
            doomed.close()
            await change(moment)
            async with tables.transaction() as t:
                assert await t.get(Stock, 1) == Stock(1, moment)

    store.run(test())
