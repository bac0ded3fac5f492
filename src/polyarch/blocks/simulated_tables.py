"""A database for simulations: what takes PostgreSQL's or SQLite's place behind the tables port.

``Database`` is a node.  Its statements are messages (or plain calls, where it is embedded in the process of
its user).  It locks rows strictly in two phases, finds deadlocks in the graph of who waits for whom, writes
a log that it syncs at each commit, and replays that after a crash.  What a statement costs is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from polyarch.blocks.tables import Key, Row, Tables, Transaction, key_of, table_name
from polyarch.core import (
    Conflict,
    Env,
    Failure,
    Future,
    Node,
    Record,
    Refused,
    Timeout,
    Unreachable,
    oneway,
    rpc,
)

__all__ = ["Database", "SimTables"]

R = TypeVar("R", bound=Row)
Place = tuple[str, Key]
"""A table and a key: what is locked."""
WHOLE: Place = ("", "")
"""The lock of a store that lets one transaction write at a time."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.decode


class Stored(Record, array_like=True):
    """A row as it lies in the database: MessagePack of its fields by name; None when it is deleted."""

    table: str
    key: Key
    data: bytes | None


class Equal(Record, array_like=True):
    """A condition: a field equals a value, which is MessagePack too."""

    field: str
    value: bytes


class Written(Record, array_like=True):
    """A commit in the log."""

    rows: tuple[Stored, ...]


class _Lock:
    __slots__ = ("owner", "waiting")

    def __init__(self, owner: _Work) -> None:
        self.owner = owner
        self.waiting: list[tuple[_Work, Future[None]]] = []


class _Work:
    """An open transaction, as the database knows it."""

    __slots__ = ("begun", "client", "held", "number", "waits_for", "writes")

    def __init__(self, number: int, client: str, begun: float) -> None:
        self.number = number
        self.client = client
        self.begun = begun
        self.writes: dict[Place, bytes | None] = {}
        self.held: list[Place] = []
        self.waits_for: Place | None = None


class _Table:
    """Committed rows, and by which values they are found."""

    def __init__(self) -> None:
        self.rows: dict[Key, bytes] = {}
        self.indexes: dict[str, dict[bytes, set[Key]]] = {}

    def index(self, field: str) -> dict[bytes, set[Key]]:
        """The index on a field; made when it is first asked for."""
        if field not in self.indexes:
            index: dict[bytes, set[Key]] = {}
            for key, data in self.rows.items():
                index.setdefault(_encode(_decode(data)[field]), set()).add(key)
            self.indexes[field] = index
        return self.indexes[field]

    def set(self, key: Key, data: bytes | None) -> None:
        old = self.rows.pop(key, None)
        if data is not None:
            self.rows[key] = data
        for field, index in self.indexes.items():
            if old is not None:
                index[_encode(_decode(old)[field])].discard(key)
            if data is not None:
                index.setdefault(_encode(_decode(data)[field]), set()).add(key)


class Database(Node):
    """A store of rows with transactions; see the file's text."""

    timeout = 2.5
    statement_seconds: float = 75e-6
    """Core seconds for a statement.  PostgreSQL 18 through asyncpg, one in flight, on the 2-core machine of
    the design's section 6: 13,500 selects/s."""
    row_seconds: float = 2e-6
    """Core seconds for each row of a statement beyond the first: 22 rows took 38 µs longer than one."""
    time_limit: float = 2.0
    """Seconds after which an open transaction is rolled back; half of it is the longest wait for a lock."""
    one_writer: bool = False
    """Whether one transaction at a time writes (SQLite) or locks are on rows (PostgreSQL)."""

    async def start(self) -> None:
        self.open()
        if hasattr(self._env, "kernel"):  # connections of a client that died are reset
            self._env.kernel.watching[self.address] = self._client_died

    def open(self) -> None:
        """Replay the log."""
        self.tables: dict[str, _Table] = {}
        self.work_of: dict[int, _Work] = {}
        self.locks: dict[Place, _Lock] = {}
        self.committed: set[int] = set()
        # Not the numbers of before a crash: whoever still has one of those shall not be taken for another.
        self.numbers = self.random.below(1 << 48)
        for commit in self.disk.entries("log", Written):
            self._apply(commit.rows)
        self.every(self.time_limit / 4, self._roll_back_old)

    # -- statements -----------------------------------------------------------------------------------------

    @rpc
    async def begin(self, client: str) -> int:
        """Open a transaction; its number, which is not 0."""
        await self.work(self.statement_seconds / 2)
        self.numbers += 1
        self.work_of[self.numbers] = _Work(self.numbers, client, self.now)
        return self.numbers

    @rpc
    async def get_many(self, number: int, table: str, keys: tuple[Key, ...], lock: bool) -> tuple[bytes, ...]:
        """The rows that exist among ``keys``, in key order.  Transaction 0 reads what is committed."""
        await self._cost(len(keys))
        work = self._find(number)
        found = []
        if lock and work and self.one_writer:
            await self._lock(work, WHOLE)
        for key in sorted(set(keys), key=_order):
            place = (table, key)
            if lock and work and not self.one_writer and (place in self.locks or self._read(work, place)):
                await self._lock(work, place)
            data = self._read(work, place)
            if data is not None:
                found.append(data)
        return tuple(found)

    @rpc
    async def write(self, number: int, rows: tuple[Stored, ...], replace: bool) -> int:
        """Insert, replace (if ``replace``) or delete rows; how many were changed."""
        await self._cost(len(rows))
        work = self._must_find(number)
        changed = 0
        for row in sorted(rows, key=lambda r: (r.table, _order(r.key))):
            place = (row.table, row.key)
            await self._lock(work, WHOLE if self.one_writer else place)
            there = self._read(work, place) is not None
            if there if row.data is None else (replace or not there):
                work.writes[place] = row.data
                changed += 1
        return changed

    @rpc
    async def select(
        self, number: int, table: str, equals: tuple[Equal, ...], after: Key | None, limit: int
    ) -> tuple[bytes, ...]:
        """Rows with these values in key order; committed ones, and the transaction's own."""
        found = [
            data
            for key, data in self._matching(self._find(number), table, equals)
            if after is None or _order(key) > _order(after)
        ][: max(limit, 0)]
        await self._cost(len(found))
        return tuple(found)

    @rpc
    async def count(self, number: int, table: str, equals: tuple[Equal, ...]) -> int:
        """How many rows have these values."""
        await self._cost(1)
        return sum(1 for _ in self._matching(self._find(number), table, equals))

    @rpc
    async def commit(self, number: int) -> None:
        """Make a transaction's writes durable and seen, and give its locks back."""
        await self.work(self.statement_seconds / 2)
        if number in self.committed:  # the same message came twice
            return await self.disk.sync()
        work = self._must_find(number)
        del self.work_of[number]  # from here on it cannot be rolled back
        self.committed.add(number)
        if work.writes:
            rows = tuple(Stored(table, key, data) for (table, key), data in work.writes.items())
            self.disk.append("log", Written(rows))
            await self.disk.sync()
            self._apply(rows)
        self._unlock(work)

    @oneway
    def roll_back(self, number: int) -> None:
        """Forget a transaction."""
        work = self.work_of.pop(number, None)
        if work is not None:
            self._unlock(work)

    # -- inside ---------------------------------------------------------------------------------------------

    async def _cost(self, rows: int) -> None:
        await self.work(self.statement_seconds + self.row_seconds * max(0, rows - 1))

    def _find(self, number: int) -> _Work | None:
        return self._must_find(number) if number else None

    def _must_find(self, number: int) -> _Work:
        work = self.work_of.get(number)
        if work is None:
            raise Refused("the transaction was rolled back: it took too long, or the database was restarted")
        return work

    def _read(self, work: _Work | None, place: Place) -> bytes | None:
        if work is not None and place in work.writes:
            return work.writes[place]
        table = self.tables.get(place[0])
        return None if table is None else table.rows.get(place[1])

    def _matching(
        self, work: _Work | None, table: str, equals: Sequence[Equal]
    ) -> Iterator[tuple[Key, bytes]]:
        stored = self.tables.get(table) or _Table()
        keys: Iterable[Key] = stored.rows
        if equals:
            keys = set.intersection(*(stored.index(e.field).get(e.value, set()) for e in equals))
        rows = {key: stored.rows[key] for key in keys}
        for (where, key), data in (work.writes if work else {}).items():
            if where == table:
                rows.pop(key, None)
                if data is not None and all(_encode(_decode(data)[e.field]) == e.value for e in equals):
                    rows[key] = data
        for key in sorted(rows, key=_order):
            yield key, rows[key]

    def _apply(self, rows: Iterable[Stored]) -> None:
        for row in rows:
            self.tables.setdefault(row.table, _Table()).set(row.key, row.data)

    async def _lock(self, work: _Work, place: Place) -> None:
        """Wait for a lock, first come, first served, and hold it until the end."""
        lock = self.locks.get(place)
        if lock is None:
            self.locks[place] = _Lock(work)
            work.held.append(place)
            return
        if lock.owner is work:
            return
        if self._waits_for(lock.owner, work):
            raise Conflict(f"deadlock at {place[0]} {place[1]!r}")
        granted: Future[None] = self.future()
        lock.waiting.append((work, granted))
        work.waits_for = place
        try:
            await granted.within(self.time_limit / 2)
        except Timeout:
            # It may have been granted in the very moment: then its transaction is rolled back with it.
            lock.waiting = [(w, f) for w, f in lock.waiting if w is not work]
            raise Conflict(f"waited {self.time_limit / 2:g} s for {place[0]} {place[1]!r}") from None
        finally:
            work.waits_for = None
        self._must_find(work.number)  # it may have been rolled back between the grant and now

    def _waits_for(self, one: _Work, other: _Work) -> bool:
        """Whether ``one`` waits, at last, for ``other``."""
        while one.waits_for is not None:
            one = self.locks[one.waits_for].owner
            if one is other:
                return True
        return False

    def _unlock(self, work: _Work) -> None:
        """Give all locks to who waits longest for each; whoever works in this one is refused."""
        if work.waits_for is not None:
            for waiter, granted in self.locks[work.waits_for].waiting:
                if waiter is work:
                    granted.fail(Refused("the transaction was rolled back"))
            lock = self.locks[work.waits_for]
            lock.waiting = [(w, f) for w, f in lock.waiting if w is not work]
        for place in work.held:
            lock = self.locks[place]
            # Of a message that came twice, one may still wait when the transaction is over.
            lock.waiting = [(w, f) for w, f in lock.waiting if w.number in self.work_of]
            if lock.waiting:
                lock.owner, granted = lock.waiting.pop(0)
                lock.owner.held.append(place)
                lock.owner.waits_for = None
                granted.set(None)
            else:
                del self.locks[place]
        work.held = []

    def _roll_back_old(self) -> None:
        for work in list(self.work_of.values()):
            if self.now - work.begun > self.time_limit:
                self.roll_back(work.number)

    def _client_died(self, address: str) -> None:
        for work in list(self.work_of.values()):
            if work.client == address:
                self.roll_back(work.number)


def _order(key: Key) -> tuple[bool, Key]:
    """Integers before texts, should a table have both."""
    return isinstance(key, str), key


class SimTables(Tables):
    """The tables port on a ``Database``: a reference to one, or the thing itself where it is embedded."""

    def __init__(self, database: Any, env: Env) -> None:
        self._database = database
        self._env = env

    def transaction(self) -> _Transaction:
        return _Transaction(self._database, self._env.address)


class _Transaction(Transaction):
    """Begins in the database with the first statement that locks or writes, as on PostgreSQL."""

    def __init__(self, database: Any, client: str) -> None:
        self._database = database
        self._client = client
        self._number = 0
        self._failed: Refused | None = None
        self._over = False

    async def __aenter__(self) -> _Transaction:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._over = True
        if kind is not None and not issubclass(kind, Exception):
            return  # the node has crashed: the database finds out
        if kind is None and self._failed is None:
            if self._number:
                await self._commit()
            return
        if self._number:
            self._database.roll_back(self._number)
        if kind is None and self._failed is not None:
            raise self._failed  # somebody caught it inside; nothing was committed all the same

    async def _commit(self) -> None:
        try:
            await self._database.commit(self._number)
        except Refused:
            raise
        except Failure as failure:
            raise Timeout(f"the database did not answer to the commit: {failure}") from None

    async def _begun(self) -> int:
        if not self._number:
            self._check()
            try:
                self._number = await self._database.begin(self._client)
            except Failure as failure:
                raise self._refuse(failure) from None
        return self._number

    def _check(self) -> None:
        if self._over:
            raise Refused("the transaction is over")
        if self._failed is not None:
            raise self._failed

    async def _ask(self, statement: Any) -> Any:
        try:
            return await statement
        except Failure as failure:
            raise self._refuse(failure) from None

    def _refuse(self, failure: Failure) -> Refused:
        """Whatever fails before the commit did not happen."""
        if isinstance(failure, (Conflict, Unreachable)):
            self._failed = failure
        else:
            self._failed = Refused(f"the database: {failure}")
        return self._failed

    async def get(self, table: type[R], key: Key, *, lock: bool = True) -> R | None:
        return (await self.get_many(table, (key,), lock=lock)).get(key)

    async def get_many(self, table: type[R], keys: Iterable[Key], *, lock: bool = True) -> dict[Key, R]:
        number = await self._begun() if lock else self._number
        self._check()
        found = await self._ask(self._database.get_many(number, table_name(table), tuple(keys), lock))
        rows = [_decode(data, type=table) for data in found]
        return {key_of(row): row for row in rows}

    async def put(self, *rows: Row) -> None:
        if rows:
            await self._write(rows, True)

    async def insert(self, row: Row) -> bool:
        return bool(await self._write((row,), False))

    async def delete(self, table: type[R], key: Key) -> bool:
        return bool(await self._change((Stored(table_name(table), key, None),), True))

    async def _write(self, rows: Sequence[Row], replace: bool) -> int:
        # The last one wins where a key comes twice.
        stored = {(type(row), key_of(row)): row for row in rows}
        return await self._change(
            tuple(Stored(table_name(t), key, _encode(row)) for (t, key), row in stored.items()), replace
        )

    async def _change(self, rows: tuple[Stored, ...], replace: bool) -> int:
        number = await self._begun()
        self._check()
        changed: int = await self._ask(self._database.write(number, rows, replace))
        return changed

    async def select(
        self, table: type[R], *, limit: int = 1000, after: Key | None = None, **equals: Any
    ) -> Sequence[R]:
        self._check()
        found = await self._ask(
            self._database.select(self._number, table_name(table), _equal(table, equals), after, limit)
        )
        return [_decode(data, type=table) for data in found]

    async def count(self, table: type[R], **equals: Any) -> int:
        self._check()
        counted: int = await self._ask(
            self._database.count(self._number, table_name(table), _equal(table, equals))
        )
        return counted


def _equal(table: type[Row], equals: dict[str, Any]) -> tuple[Equal, ...]:
    for name in equals:
        if name not in table.__struct_fields__:
            raise TypeError(f"{table.__name__} has no field {name!r}")
    return tuple(Equal(name, _encode(value)) for name, value in equals.items())
