"""SQLite: the tables port in a file, without a server.

One transaction at a time writes; SQLite locks the whole file where PostgreSQL locks rows.  The transactions
of one process wait for each other in a queue of futures, first come, first served, so that the event loop is
never blocked by a lock; those of other processes that use the same file are tried again until the time limit.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from polyarch.blocks.tables import Key, Row, Tables, Transaction, table_name
from polyarch.components.mapping import Mapping, mapping_of, quoted
from polyarch.components.traffic import OnTraffic
from polyarch.core.errors import Conflict, Failure, Refused, Unreachable

__all__ = ["SqliteTables"]

R = TypeVar("R", bound=Row)

TYPES = {str: "text", int: "integer", float: "real", bool: "integer", bytes: "blob", object: "text"}
ERRORS = (sqlite3.Error, OverflowError, UnicodeError)


class _Statements:
    """The SQL of one table, and its rows from what SQLite returns."""

    def __init__(self, mapping: Mapping[Any]) -> None:
        table, key = mapping.table, quoted(mapping.key.name)
        names = [quoted(column.name) for column in mapping.columns]
        columns, marks = ", ".join(names), ", ".join("?" * len(names))
        self.mapping = mapping
        self.get = f"select {columns} from {table} where {key} = ?"
        # One argument for any number of keys.
        self.get_many = f"select {columns} from {table} where {key} in (select value from json_each(?))"
        self.put = f"insert or replace into {table} ({columns}) values ({marks})"
        self.insert = f"insert into {table} ({columns}) values ({marks}) on conflict ({key}) do nothing"
        self.delete = f"delete from {table} where {key} = ?"
        self.select = f"select {columns} from {table}"
        self.count = f"select count(*) from {table}"
        self.key = key
        definitions = ", ".join(
            f"{quoted(c.name)} {TYPES[c.type]}"
            f"{'' if c.nullable else ' not null'}{' primary key' if c is mapping.key else ''}"
            for c in mapping.columns
        )
        without_rowid = "" if mapping.key.type is int else " without rowid"
        self.create = f"create table if not exists {table} ({definitions}){without_rowid};"
        for name in mapping.row_type.indexed:
            index = quoted(f"{table_name(mapping.row_type)}_by_{name}")
            self.create += f"create index if not exists {index} on {table} ({quoted(name)});"
        self._bools = [i for i, column in enumerate(mapping.columns) if column.type is bool]

    def row(self, values: Sequence[Any]) -> Any:
        if self._bools:  # SQLite knows integers only
            values = list(values)
            for i in self._bools:
                if values[i] is not None:
                    values[i] = bool(values[i])
        return self.mapping.row(values)


class _Turns:
    """Whose turn it is to write, among the transactions of this process on one file."""

    def __init__(self) -> None:
        self.taken = False
        self.waiting: deque[asyncio.Future[bool]] = deque()

    def give_back(self) -> None:
        """Hand the turn to the one that waits longest."""
        while self.waiting:
            waiting = self.waiting.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return
        self.taken = False


_turns: weakref.WeakValueDictionary[Path, _Turns] = weakref.WeakValueDictionary()


class SqliteTables(Tables):
    """The tables port in an SQLite file; opened at the first use."""

    def __init__(
        self,
        path: Path,
        tables: Iterable[type[Row]],
        *,
        synchronous: Literal["full", "normal"] = "full",
        time_limit: float = 2.0,
    ) -> None:
        """``synchronous`` "full" waits at each commit until the disk has it (in a thread: others run on),
        which is PostgreSQL's default promise too; "normal" does not: what was committed survives a SIGKILL,
        but the last of it not a power loss.  A transaction that does not get its turn within ``time_limit``
        seconds is a Conflict; one that is not over by then is rolled back, a Refused."""
        self.path = path
        self.synchronous = synchronous
        self.time_limit = time_limit
        self.on_traffic: OnTraffic | None = None
        """Never called: nothing leaves the process."""
        self._tables = {table: _Statements(mapping_of(table)) for table in tables}
        self._turns = _turns.setdefault(path.resolve(), _Turns())
        self._writer: Any = None
        self._reader: Any = None

    def transaction(self) -> _Transaction:
        return _Transaction(self)

    async def close(self) -> None:
        """Close the file; the next transaction opens it again."""
        for connection in (self._writer, self._reader):
            if connection is not None:
                connection.close()
        self._writer = self._reader = None

    async def _connect(self) -> None:
        """Open the file, once; Conflict if others hold it all the time, Unreachable if it cannot be."""
        deadline = asyncio.get_running_loop().time() + self.time_limit
        while self._writer is None:
            try:
                self._open()
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise Unreachable(f"SQLite at {self.path}: {error}") from None
                if asyncio.get_running_loop().time() > deadline:
                    raise Conflict(f"others held {self.path} for {self.time_limit} s") from None
                await _pause(0.005)

    def _open(self) -> None:
        """Two connections: what one transaction has not committed, the readers must not see."""
        writer, reader = (
            # Without its own waiting, which would stop the event loop.
            sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            for _ in range(2)
        )
        try:
            writer.execute("pragma journal_mode = wal")
            writer.execute(f"pragma synchronous = {self.synchronous}")
            there = {quoted(name) for (name,) in writer.execute("select name from sqlite_master")}
            if not all(statements.mapping.table in there for statements in self._tables.values()):
                create = "".join(statements.create for statements in self._tables.values())
                writer.executescript(f"begin immediate; {create} commit")
            reader.execute("pragma query_only = on")
        except sqlite3.Error:
            writer.close()
            reader.close()
            raise
        self._writer, self._reader = writer, reader


class _Transaction(Transaction):
    """Takes its turn and the file's lock with the first statement that locks or writes."""

    def __init__(self, tables: SqliteTables) -> None:
        self._of = tables
        self._begun = False
        self._has_turn = False
        self._late = False
        self._failed: Failure | None = None
        self._waiting: asyncio.Future[bool] | None = None

    async def __aenter__(self) -> _Transaction:
        await self._of._connect()
        self._timer = asyncio.get_running_loop().call_later(self._of.time_limit, self._expire)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._timer.cancel()
        try:
            if kind is None and self._failed is not None:
                # Somebody caught the failure inside; nothing was committed all the same.
                raise self._failed
            if kind is None and self._begun:
                await self._commit()
        finally:
            self._end()

    async def _commit(self) -> None:
        try:
            if self._of.synchronous == "normal":
                self._of._writer.execute("commit")
            else:
                loop = asyncio.get_running_loop()
                committing = loop.run_in_executor(None, self._of._writer.execute, "commit")
                try:
                    await committing
                except GeneratorExit:  # we are being closed; the thread goes on, and so does its turn
                    self._has_turn = self._begun = False
                    committing.add_done_callback(lambda _: self._of._turns.give_back())
                    raise
            self._begun = False
        except sqlite3.Error as error:
            raise self._refuse(error) from None

    def _end(self) -> None:
        """Roll back what was not committed and let the next one in; at once, without waiting."""
        if self._begun:
            self._begun = False
            self._of._writer.execute("rollback")
        if self._has_turn:
            self._has_turn = False
            self._of._turns.give_back()
        self._failed = self._failed or Refused("the transaction is over")

    def _expire(self) -> None:
        self._late = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(False)
        elif self._begun:
            self._failed = Refused(f"the transaction took longer than {self._of.time_limit} s")
            self._end()

    async def _begin(self) -> None:
        turns = self._of._turns
        if turns.taken and not await self._wait_for_turn():
            raise self._refuse(Conflict(f"waited {self._of.time_limit} s for other transactions"))
        turns.taken = self._has_turn = True
        delay = 0.001
        while True:
            try:
                self._of._writer.execute("begin immediate")
                self._begun = True
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
            if self._late:
                raise self._refuse(Conflict(f"another process held {self._of.path} too long"))
            await _pause(delay)
            delay = min(2 * delay, 0.02)

    async def _wait_for_turn(self) -> bool:
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._of._turns.waiting.append(waiting)
        try:
            return await waiting
        except BaseException:  # closed or cancelled: pass on what we may have been given
            if not waiting.cancel() and not waiting.cancelled() and waiting.result():
                self._of._turns.give_back()
            raise

    def _refuse(self, error: BaseException) -> Failure:
        """What a failure means: it did not happen, for SQLite knows whether it has committed."""
        if isinstance(error, Failure):
            self._failed = error
        elif _is_busy(error):
            self._failed = Conflict(f"another process holds {self._of.path}")
        else:
            self._failed = Refused(f"SQLite: {error}")
        return self._failed

    async def _ask(self, query: str, *arguments: Any, begin: bool = True, many: bool = False) -> Any:
        """Execute one statement, on the connection that may see what this transaction wrote."""
        try:
            if self._failed is not None:
                raise self._failed
            if begin and not self._begun:
                await self._begin()
            connection = self._of._writer if self._begun else self._of._reader
            return (connection.executemany if many else connection.execute)(query, *arguments)
        except ERRORS as error:
            raise self._refuse(error) from None

    async def get(self, table: type[R], key: Key, *, lock: bool = True) -> R | None:
        sql = self._of._tables[table]
        found = (await self._ask(sql.get, (key,), begin=lock)).fetchone()
        return None if found is None else sql.row(found)

    async def get_many(self, table: type[R], keys: Iterable[Key], *, lock: bool = True) -> dict[Key, R]:
        sql = self._of._tables[table]
        found = await self._ask(sql.get_many, (json.dumps(list(keys)),), begin=lock)
        return {values[0]: sql.row(values) for values in found.fetchall()}

    async def put(self, *rows: Row) -> None:
        by_table: dict[type[Row], list[Sequence[Any]]] = {}
        for row in rows:
            values = self._of._tables[type(row)].mapping.values(row)
            by_table.setdefault(type(row), []).append(values)
        for table, many in by_table.items():
            await self._ask(self._of._tables[table].put, many, many=True)

    async def insert(self, row: Row) -> bool:
        sql = self._of._tables[type(row)]
        return bool((await self._ask(sql.insert, sql.mapping.values(row))).rowcount)

    async def delete(self, table: type[R], key: Key) -> bool:
        return bool((await self._ask(self._of._tables[table].delete, (key,))).rowcount)

    async def select(
        self, table: type[R], *, limit: int = 1000, after: Key | None = None, **equals: Any
    ) -> Sequence[R]:
        sql = self._of._tables[table]
        conditions, arguments = sql.mapping.conditions(equals, "?{}".format)
        if after is not None:
            arguments.append(after)
            conditions.append(f"{sql.key} > ?{len(arguments)}")
        arguments.append(limit)
        query = f"{sql.select}{_where(conditions)} order by {sql.key} limit ?{len(arguments)}"
        return [sql.row(values) for values in (await self._ask(query, arguments, begin=False)).fetchall()]

    async def count(self, table: type[R], **equals: Any) -> int:
        sql = self._of._tables[table]
        conditions, arguments = sql.mapping.conditions(equals, "?{}".format)
        query = f"{sql.count}{_where(conditions)}"
        return int((await self._ask(query, arguments, begin=False)).fetchone()[0])


def _where(conditions: list[str]) -> str:
    return f" where {' and '.join(conditions)}" if conditions else ""


def _is_busy(error: BaseException) -> bool:
    # The low byte is the primary code; the others say more precisely why.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


async def _pause(seconds: float) -> None:
    """``asyncio.sleep`` for any kind of task."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()
