"""Tables with transactions: the port through which services reach data.

A row is a frozen record whose first field is its key.  A service sees tables and transactions only; which
store is behind them (PostgreSQL, SQLite, a simulated database) is the architecture's business.

Semantics that every store behind this port keeps:

* A transaction is atomic and serializable as far as the rows that it *reads with a lock* go: ``get`` and
  ``get_many`` lock what they return until the end of the transaction (strict two-phase locking), unless
  ``lock=False``, which reads committed data without waiting.  Rows are locked in key order.
* Leaving ``async with`` normally commits; leaving it with an exception rolls back.
* ``Conflict`` (a Refused): the store chose this transaction to give way (deadlock, lock wait too long);
  nothing of it happened.  ``Unreachable`` (a Refused): the store could not be reached before anything was
  sent.  ``Timeout``: the connection died or was too slow while committing; it may have happened.
  Any failure *before* the commit was sent is a Refused: an uncommitted transaction never happens.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

from polyarch.core.records import Record

__all__ = ["Row", "Tables", "Transaction", "key_of", "table_name"]


class Row(Record):
    """One row of a table: a frozen record; its first field is the key (a str or an int)."""

    indexed: ClassVar[tuple[str, ...]] = ()
    """Fields besides the key by which ``select`` and ``count`` find rows quickly."""


R = TypeVar("R", bound=Row)
Key = str | int


def table_name(row_type: type[Row]) -> str:
    """``OrderLine`` -> ``order_line``: the name that the table has in every store."""
    name = row_type.__name__
    return "".join(("_" if c.isupper() and i else "") + c.lower() for i, c in enumerate(name))


def key_of(row: Row) -> Key:
    """The value of the row's first field."""
    key: Key = getattr(row, row.__struct_fields__[0])
    return key


class Transaction(abc.ABC):
    """An open transaction.  Valid only inside its ``async with``."""

    @abc.abstractmethod
    async def get(self, table: type[R], key: Key, *, lock: bool = True) -> R | None:
        """The row with this key, or None.  Locked until the end of the transaction if ``lock``."""

    @abc.abstractmethod
    async def get_many(self, table: type[R], keys: Iterable[Key], *, lock: bool = True) -> dict[Key, R]:
        """The rows that exist among ``keys``, by key; one exchange with the store."""

    @abc.abstractmethod
    async def put(self, *rows: Row) -> None:
        """Insert or replace rows (of any tables); one exchange with the store for each table."""

    @abc.abstractmethod
    async def insert(self, row: Row) -> bool:
        """Insert a row; False, and nothing changed, if its key is already there."""

    @abc.abstractmethod
    async def delete(self, table: type[R], key: Key) -> bool:
        """Delete a row; False if it was not there."""

    @abc.abstractmethod
    async def select(
        self, table: type[R], *, limit: int = 1000, after: Key | None = None, **equals: Any
    ) -> Sequence[R]:
        """Rows whose fields equal the given values, in key order, at most ``limit``, keys greater than
        ``after``; committed data, not locked."""

    @abc.abstractmethod
    async def count(self, table: type[R], **equals: Any) -> int:
        """How many rows have these field values."""


class Tables(abc.ABC):
    """A store of tables."""

    @abc.abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """``async with tables.transaction() as t: …``"""
