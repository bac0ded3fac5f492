"""PostgreSQL: the tables port on top of a server (``postgresql.py``), with a pool of connections.

What fails before the commit did not happen: a ``Refused``, or a ``Conflict`` where it may be tried again.  A
connection that dies in the commit is a ``Timeout``: it may have happened.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Sequence
from typing import Any, TypeVar

import asyncpg

from polyarch.blocks.tables import Key, Row, Tables, Transaction, key_of, table_name
from polyarch.components.mapping import Mapping, mapping_of, quoted
from polyarch.components.traffic import OnTraffic, SocketMeter
from polyarch.core.errors import Conflict, Refused, Timeout, Unreachable

__all__ = ["PostgresTables"]

R = TypeVar("R", bound=Row)

TYPES = {
    str: "text",
    int: "bigint",
    float: "double precision",
    bool: "boolean",
    bytes: "bytea",
    object: "text",
}
ARRAYS = f"select {', '.join(f'null::{type}[]' for type in sorted(set(TYPES.values())))}"
GAVE_WAY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class _Statements:
    """The SQL of one table; the driver prepares each once on each connection."""

    def __init__(self, mapping: Mapping[Any]) -> None:
        table, key = mapping.table, quoted(mapping.key.name)
        names = [quoted(column.name) for column in mapping.columns]
        columns = ", ".join(names)
        arrays = ", ".join(f"${i}::{TYPES[c.type]}[]" for i, c in enumerate(mapping.columns, 1))
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        on_conflict = f"do update set {updates}" if updates else "do nothing"
        rows = f"insert into {table} ({columns}) select * from unnest({arrays}) order by 1"
        self.get = f"select {columns} from {table} where {key} = $1"
        self.get_many = f"select {columns} from {table} where {key} = any($1) order by {key}"
        self.put = f"{rows} on conflict ({key}) {on_conflict}"
        self.insert = f"{rows} on conflict ({key}) do nothing"
        self.delete = f"delete from {table} where {key} = $1"
        self.select = f"select {columns} from {table}"
        self.count = f"select count(*) from {table}"
        self.key = key
        definitions = ", ".join(
            f"{quoted(c.name)} {TYPES[c.type]}{'' if c.nullable else ' not null'}" for c in mapping.columns
        )
        self.create = f"create table if not exists {table} ({definitions}, primary key ({key}));"
        for name in mapping.row_type.indexed:
            index = quoted(f"{table_name(mapping.row_type)}_by_{name}")
            self.create += f"create index if not exists {index} on {table} ({quoted(name)}, {key});"


class _Link:
    """One connection to the server."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.meter = SocketMeter(getattr(connection, "_transport", None))


class PostgresTables(Tables):
    """The tables port on a PostgreSQL server, with a small pool of connections.

    Works from tasks of asyncio and from Polyarch's own, which asyncio does not know: only opening a
    connection needs a task of asyncio, and gets one.  Connections are opened when needed, and those that
    died are replaced, so that it works again when the server does."""

    def __init__(
        self, url: str, tables: Iterable[type[Row]], *, pool_size: int = 8, time_limit: float = 2.0
    ) -> None:
        """``tables`` are created if they do not exist.  A transaction that is not over ``time_limit``
        seconds after it was asked for is rolled back: a Refused, or a Conflict if it waited for a lock half
        of that time."""
        self.url = url
        self.pool_size = pool_size
        self.time_limit = time_limit
        self.on_traffic: OnTraffic | None = None
        """Called after each transaction: two messages for each exchange, and the bytes on its socket."""
        self._tables = {table: (mapping_of(table), _Statements(mapping_of(table))) for table in tables}
        self._idle: list[_Link] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[_Link | None]] = deque()
        self._closed = False

    def transaction(self) -> _Transaction:
        return _Transaction(self)

    async def close(self) -> None:
        """Close the connections that are idle now, and the others when they are given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.terminate()
            self._open -= 1

    def _acquire_now(self) -> _Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.connection.is_closed():
                return link
            self._open -= 1
        return None

    async def _acquire(self, deadline: float) -> _Link:
        """A connection: an idle one, a new one, or the next that is given back."""
        loop = asyncio.get_running_loop()
        while True:
            if (link := self._acquire_now()) is not None:
                return link
            if self._open < self.pool_size:
                return await self._connect(deadline)
            waiting: asyncio.Future[_Link | None] = loop.create_future()
            self._waiting.append(waiting)
            timer = loop.call_at(deadline, _resolve, waiting)
            try:
                link = await waiting
            except BaseException:  # whoever waited is gone: pass on what it was given
                if not waiting.cancel() and not waiting.cancelled() and (given := waiting.result()):
                    self._release(given)
                raise
            finally:
                timer.cancel()
            if link is not None:
                return link
            if loop.time() >= deadline:
                raise Refused(f"no connection came free in {self.time_limit} s")

    async def _connect(self, deadline: float) -> _Link:
        self._open += 1
        loop = asyncio.get_running_loop()
        # A task, because opening a connection uses timeouts, which need to know their current task.
        opening = loop.create_task(self._new_link(deadline - loop.time()))
        try:
            return await opening
        except BaseException as error:
            if not opening.cancel() and not opening.cancelled() and not opening.exception():
                opening.result().connection.terminate()  # whoever wanted it is gone
            self._open -= 1
            self._let_next_try()
            if isinstance(error, (*ERRORS, TimeoutError)):
                raise Unreachable(f"PostgreSQL at {self.url}: {_words(error)}") from None
            raise

    async def _new_link(self, seconds: float) -> _Link:
        milliseconds = str(max(1, int(self.time_limit * 500)))
        connection = await asyncpg.connect(
            self.url,
            ssl=False,
            timeout=max(seconds, 0.001),
            max_cached_statement_lifetime=0,
            server_settings={
                "lock_timeout": milliseconds,
                # For clients that are paused while they hold locks.
                "idle_in_transaction_session_timeout": str(int(self.time_limit * 1000) + 1),
            },
        )
        try:
            # Two processes that create the same table at once fail without the lock.
            create = "".join(statements.create for _, statements in self._tables.values())
            await connection.execute(
                f"set client_min_messages = error; begin; select pg_advisory_xact_lock(7); {create} commit"
            )
            # The driver asks about array types when it first meets them: not in somebody's transaction.
            await connection.prepare(ARRAYS)
        except BaseException:
            connection.terminate()
            raise
        return _Link(connection)

    def _release(self, link: _Link) -> None:
        """Give a connection back; one that is dead is forgotten."""
        if self._closed:
            link.connection.terminate()
        if link.connection.is_closed():
            self._open -= 1
            self._let_next_try()
            return
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(link)
                return
        self._idle.append(link)

    def _let_next_try(self) -> None:
        """There is room for another connection: let the one that waits longest open it."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return


class _Transaction(Transaction):
    """Begins in the database with the first statement that locks or writes: one that only reads without
    locks needs neither BEGIN nor COMMIT."""

    def __init__(self, tables: PostgresTables) -> None:
        self._of = tables
        self.on_traffic = tables.on_traffic
        self._begun = False
        self._failed: Refused | None = None
        self._late = False
        self._exchanges = 0
        self._link: _Link | None = None

    async def __aenter__(self) -> _Transaction:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self._of.time_limit
        await self._connect()
        self._timer = loop.call_at(self._deadline, self._expire)
        return self

    async def _connect(self) -> None:
        self._link = await self._of._acquire(self._deadline)
        self._connection = self._link.connection
        if self.on_traffic is not None:
            self._link.meter.take()  # what was before is not ours

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None and self._failed is None:
                if self._begun:
                    await self._commit()
                return
            if kind is not None and not issubclass(kind, Exception):
                # The coroutine is being closed or cancelled and must not wait.  The server rolls back.
                self._connection.terminate()
            elif self._begun and not self._connection.is_closed():
                await self._roll_back()
            if kind is None and self._failed is not None:
                # Somebody caught the failure inside; nothing was committed all the same.
                raise self._failed
        finally:
            self._end()

    async def _commit(self) -> None:
        if self._connection.is_closed():  # not sent: it never happens
            raise self._refuse(None)
        self._exchanges += 1
        try:
            outcome = await _abandonable(self._connection.execute("commit"))
        except BaseException as error:
            if not isinstance(error, ERRORS):  # closed or cancelled: the connection is in the middle
                self._connection.terminate()
                raise
            if isinstance(error, GAVE_WAY):
                raise self._refuse(error) from None
            self._connection.terminate()
            raise Timeout(f"PostgreSQL went away during the commit: {_words(error)}") from None
        if outcome != "COMMIT":
            raise Refused("PostgreSQL rolled the transaction back")

    async def _roll_back(self) -> None:
        self._exchanges += 1
        try:
            await _abandonable(self._connection.execute("rollback"))
        except BaseException as error:
            self._connection.terminate()
            if not isinstance(error, ERRORS):
                raise

    def _expire(self) -> None:
        self._late = True
        self._connection.terminate()

    def _end(self) -> None:
        self._timer.cancel()
        if self.on_traffic is not None:
            self.on_traffic(2 * self._exchanges, self._link.meter.take() if self._link else None)
        self._failed = Refused("the transaction is over")  # its connection may be another's from now on
        if self._link is not None:
            self._of._release(self._link)
            self._link = None

    def _refuse(self, error: BaseException | None) -> Refused:
        """What a failure before the commit means: it did not happen."""
        if isinstance(error, GAVE_WAY):
            self._failed = Conflict(_words(error))
        elif self._late:
            self._failed = Refused(f"the transaction took longer than {self._of.time_limit} s")
        else:
            self._failed = Refused(f"PostgreSQL: {_words(error) if error else 'the connection was lost'}")
        return self._failed

    async def _ask(self, method: str, query: str, *arguments: Any, begin: bool = True) -> Any:
        """One exchange (and before the first that locks or writes, another to begin)."""
        if self._failed is not None:
            raise self._failed
        while True:
            first = self._exchanges == 0
            try:
                if begin and not self._begun:
                    self._exchanges += 1
                    await _abandonable(self._connection.execute("begin"))
                    self._begun = True
                    first = False
                self._exchanges += 1
                return await _abandonable(getattr(self._connection, method)(query, *arguments))
            except ERRORS as error:
                if not (first and self._connection.is_closed()) or self._late:
                    raise self._refuse(error) from None
            # The server went away while this connection lay in the pool, and nothing has happened yet.
            await self._reconnect()

    async def _reconnect(self) -> None:
        if self._link is not None:
            self._of._release(self._link)
            self._link = None
        self._exchanges = 0
        try:
            await self._connect()
        except Refused as error:
            self._failed = error
            raise

    async def get(self, table: type[R], key: Key, *, lock: bool = True) -> R | None:
        mapping, sql = self._of._tables[table]
        query = f"{sql.get} for update" if lock else sql.get
        record = await self._ask("fetchrow", query, key, begin=lock)
        return None if record is None else mapping.row(record)

    async def get_many(self, table: type[R], keys: Iterable[Key], *, lock: bool = True) -> dict[Key, R]:
        mapping, sql = self._of._tables[table]
        query = f"{sql.get_many} for update" if lock else sql.get_many
        records = await self._ask("fetch", query, list(keys), begin=lock)
        return {record[0]: mapping.row(record) for record in records}

    async def put(self, *rows: Row) -> None:
        # The last one wins where a key comes twice; tables and keys in order, against deadlocks.
        by_table: dict[type[Row], dict[Key, Row]] = {}
        for row in rows:
            by_table.setdefault(type(row), {})[key_of(row)] = row
        for table in sorted(by_table, key=lambda each: each.__name__):
            mapping, sql = self._of._tables[table]
            columns = zip(*map(mapping.values, by_table[table].values()))
            await self._ask("execute", sql.put, *columns)

    async def insert(self, row: Row) -> bool:
        mapping, sql = self._of._tables[type(row)]
        arrays = [(value,) for value in mapping.values(row)]
        outcome: str = await self._ask("execute", sql.insert, *arrays)
        return outcome == "INSERT 0 1"

    async def delete(self, table: type[R], key: Key) -> bool:
        _, sql = self._of._tables[table]
        outcome: str = await self._ask("execute", sql.delete, key)
        return outcome == "DELETE 1"

    async def select(
        self, table: type[R], *, limit: int = 1000, after: Key | None = None, **equals: Any
    ) -> Sequence[R]:
        mapping, sql = self._of._tables[table]
        conditions, arguments = mapping.conditions(equals, "${}".format)
        if after is not None:
            arguments.append(after)
            conditions.append(f"{sql.key} > ${len(arguments)}")
        arguments.append(limit)
        query = f"{sql.select}{_where(conditions)} order by {sql.key} limit ${len(arguments)}"
        return [mapping.row(record) for record in await self._ask("fetch", query, *arguments, begin=False)]

    async def count(self, table: type[R], **equals: Any) -> int:
        mapping, sql = self._of._tables[table]
        conditions, arguments = mapping.conditions(equals, "${}".format)
        query = f"{sql.count}{_where(conditions)}"
        return int(await self._ask("fetchval", query, *arguments, begin=False))


@types.coroutine
def _abandonable(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await ``work``.  If our coroutine is closed meanwhile (a node died), how the driver's exchange ends
    is nobody's business: without this, asyncio would complain of an exception that nobody retrieved."""
    step: Any = work.send
    argument: BaseException | None = None
    while True:
        try:
            future = step(argument)
        except StopIteration as end:
            return end.value
        try:
            yield future
            step, argument = work.send, None
        except GeneratorExit:
            work.close()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        except BaseException as error:
            step, argument = work.throw, error


def _where(conditions: list[str]) -> str:
    return f" where {' and '.join(conditions)}" if conditions else ""


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _resolve(waiting: asyncio.Future[_Link | None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
