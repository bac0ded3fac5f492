"""PostgreSQL fails, and the tables port says what that means."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from trampoline import drive

from polyarch.blocks.tables import Row
from polyarch.components import postgresql
from polyarch.components.base import ComponentError
from polyarch.components.postgres_tables import PostgresTables
from polyarch.components.postgresql import PostgresServer
from polyarch.core.errors import Conflict, Refused, Timeout, Unreachable
from polyarch.runtimes.local.guardian import Janitor

pytestmark = pytest.mark.local


class Stock(Row):
    product: int
    left: int


@pytest.fixture
def server(local: Any, postgresql: PostgresServer) -> PostgresServer:
    return postgresql


@pytest.fixture
def tables(local: Any, server: PostgresServer) -> Iterator[PostgresTables]:
    tables = PostgresTables(server.url, [Stock], pool_size=4)
    local.drive(put(tables, Stock(1, 1), Stock(2, 1)))
    yield tables
    local.run(tables.close())


async def put(tables: PostgresTables, *rows: Stock) -> None:
    async with tables.transaction() as t:
        await t.put(*rows)


async def left(tables: PostgresTables, product: int) -> int:
    async with tables.transaction() as t:
        row = await t.get(Stock, product)
        assert row is not None
        return row.left


async def pause(seconds: float) -> None:
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, over.set_result, None)
    await over


async def in_task(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.get_running_loop().create_task(work)


def test_a_killed_server_refuses_then_is_unreachable_and_after_its_restart_all_is_there(
    local: Any, server: PostgresServer, tables: PostgresTables
) -> None:
    async def test() -> None:
        await asyncio.gather(*[drive(left(tables, 1)) for _ in range(4)])  # fill the pool
        with pytest.raises(Refused):
            async with tables.transaction() as t:
                await t.put(Stock(1, 99))
                await in_task(server.kill())
                await t.get(Stock, 2)
        assert server.pids == []
        for _ in range(6):
            with pytest.raises(Unreachable):
                await left(tables, 1)
        await in_task(server.restart())
        found = await asyncio.gather(*[drive(left(tables, 1)) for _ in range(8)])
        assert found == [1] * 8

    local.drive(test())


def test_a_restart_while_the_connections_lie_in_the_pool_costs_no_transaction(
    local: Any, server: PostgresServer, tables: PostgresTables
) -> None:
    async def test() -> None:
        await asyncio.gather(*[drive(left(tables, 1)) for _ in range(4)])
        transports = [link.connection._transport for link in tables._idle]
        for transport in transports:  # so that the pool cannot see that they are dead
            transport.pause_reading()
        await in_task(server.kill())
        await in_task(server.restart())
        for transport in transports:
            transport.resume_reading()
        for _ in range(4):
            assert await left(tables, 1) == 1

    local.drive(test())


def test_a_server_that_does_not_answer_the_commit_is_a_timeout(
    local: Any, server: PostgresServer, tables: PostgresTables
) -> None:
    async def test() -> None:
        hasty = PostgresTables(server.url, [Stock], time_limit=0.3)
        assert await left(hasty, 1) == 1
        try:
            with pytest.raises(Timeout):
                async with hasty.transaction() as t:
                    await t.put(Stock(1, 5))
                    await in_task(server.kill(signal.SIGSTOP))
            with pytest.raises(Refused):
                await left(hasty, 1)
        finally:
            await in_task(server.kill(signal.SIGCONT))
        await pause(0.05)
        assert await left(hasty, 1) in (1, 5)
        await hasty.close()

    local.drive(test())


def test_a_deadlock_is_a_conflict_for_one_and_the_other_goes_on(local: Any, tables: PostgresTables) -> None:
    locked: list[int] = []

    async def both(first: int, second: int) -> str:
        try:
            async with tables.transaction() as t:
                await t.get(Stock, first)
                locked.append(first)
                while len(locked) < 2:
                    await pause(0.01)
                await t.get(Stock, second)
                await t.put(Stock(first, 7), Stock(second, 7))
            return "done"
        except Conflict:
            return "conflict"

    async def test() -> None:
        outcomes = await asyncio.gather(drive(both(1, 2)), drive(both(2, 1)))
        assert sorted(outcomes) == ["conflict", "done"]
        assert await left(tables, 1) == await left(tables, 2) == 7

    local.drive(test())


def test_a_full_pool_hands_its_connections_on_and_refuses_who_waits_too_long(
    local: Any, server: PostgresServer, tables: PostgresTables
) -> None:
    async def test() -> None:
        narrow = PostgresTables(server.url, [Stock], pool_size=1, time_limit=0.3)
        async with narrow.transaction() as t:
            await t.get(Stock, 1)
            doomed, waiting = left(narrow, 2), drive(left(narrow, 2))
            drive(doomed)
            late = [drive(left(narrow, 2)) for _ in range(2)]
            await pause(0.02)
            doomed.close()
        assert await waiting == 1
        assert [await each for each in late] == [1, 1]
        async with narrow.transaction() as t:
            await t.get(Stock, 1)
            drive(doomed := left(narrow, 2))
            await pause(0.02)
        doomed.close()  # it has been given the connection and does not know it yet
        assert await left(narrow, 2) == 1
        async with narrow.transaction() as t:
            await t.get(Stock, 1)
            narrow.time_limit = 0.1
            with pytest.raises(Refused, match="no connection came free"):
                await drive(left(narrow, 2))
        await narrow.close()

    local.drive(test())


def test_what_a_transaction_costs_is_counted(local: Any, tables: PostgresTables) -> None:
    async def test() -> None:
        seen: list[tuple[int, int | None]] = []
        await left(tables, 1)
        tables.on_traffic = lambda messages, bytes: seen.append((messages, bytes))
        async with tables.transaction() as t:
            await t.get(Stock, 1, lock=False)
        await left(tables, 1)
        async with tables.transaction() as t:
            pass
        (read, read_bytes), (locked, locked_bytes), nothing = seen
        assert (read, locked, nothing) == (2, 6, (0, 0)), "begin, get and commit only where there is a lock"
        assert read_bytes is not None
        assert locked_bytes is not None
        assert 50 < read_bytes < 1000, "the get's statement is prepared here"
        assert 50 < locked_bytes < 1000

    local.drive(test())


def test_a_second_server_has_a_port_and_data_of_its_own_and_a_taken_port_is_one_clear_line(
    local: Any, server: PostgresServer
) -> None:
    async def test() -> None:
        other = PostgresServer()
        await other.start(local.janitor, local.janitor.folder / "other")
        assert other.port != server.port
        assert await other.healthy()
        if os.getuid() == 0:
            assert all(psutil.Process(pid).uids().real != 0 for pid in other.pids)
        await other.stop()
        assert not await other.healthy()
        with pytest.raises(ComponentError, match=rf"^port {server.port} is in use: [^\n]*$"):
            await PostgresServer(port=server.port).start(local.janitor, local.janitor.folder / "third")

    local.run(test())


@pytest.mark.skipif(os.getuid() != 0, reason="any other user just runs it")
def test_root_runs_a_copy_where_nobody_cannot_reach_the_wheel_and_namespaces_are_forbidden(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_run = postgresql._can_run

    async def only_a_copy(janitor: Janitor, programs: Path, *more: Any) -> bool:
        return janitor.folder in programs.parents and await can_run(janitor, programs, *more)

    async def test() -> None:
        async with await Janitor.start() as janitor:
            server = PostgresServer()
            await server.start(janitor, janitor.folder / "deep" / "pg")
            executable = Path(f"/proc/{server.pids[0]}/exe").readlink()
            assert janitor.folder in executable.parents
            assert psutil.Process(server.pids[0]).uids().real == postgresql.NOBODY

    monkeypatch.setattr(postgresql, "_can_run", only_a_copy)
    local.run(test())


@pytest.mark.parametrize("mode", [0o711, 0o700], ids=["open folder", "closed folder"])
def test_nothing_of_postgresql_is_left_when_the_parent_is_killed(mode: int) -> None:
    program = """
import asyncio
from polyarch.components.postgresql import PostgresServer
from polyarch.runtimes.local.guardian import Janitor
async def main():
    janitor = await Janitor.start()
    server = PostgresServer()
    await server.start(janitor, janitor.folder / "pg")
    print(*server.pids, flush=True)
    await asyncio.sleep(100)
asyncio.run(main())
"""
    tmp_path = Path(tempfile.mkdtemp())  # pytest's own are closed
    tmp_path.chmod(mode)
    main = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert main.stdout is not None
    pids = [int(pid) for pid in main.stdout.readline().split()]
    assert len(pids) > 2

    def segments() -> int:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return sum(int(line.split()[4]) in pids for line in lines)

    assert segments() == 1
    main.kill()
    main.wait()
    deadline = time.monotonic() + 3
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(tmp_path) == []
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert segments() == 0
    tmp_path.rmdir()
