"""How rows lie in the tables of an SQL database: a column for each field."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from polyarch.blocks.tables import Row, table_name

__all__ = ["Column", "Mapping", "mapping_of", "quoted"]

R = TypeVar("R", bound=Row)
PLAIN = (str, int, float, bool, bytes)


class Column(NamedTuple):
    """One field of a row type."""

    name: str
    type: type
    """One of ``PLAIN``; anything else is kept as JSON text, and then this is ``object``."""
    nullable: bool
    decode: Callable[[str], Any] | None
    """JSON text to value; None for plain types."""


def quoted(name: str) -> str:
    """A name in SQL, where ``order`` and ``user`` are words of the language."""
    return '"' + name.replace('"', '""') + '"'


class Mapping(Generic[R]):
    """A row type's columns, and its rows to and from their values."""

    def __init__(self, row_type: type[R]) -> None:
        self.row_type = row_type
        self.table = quoted(table_name(row_type))
        hints = typing.get_type_hints(row_type)
        self.columns = [_column(name, hints[name]) for name in row_type.__struct_fields__]
        self.by_name = {column.name: column for column in self.columns}
        self.key = self.columns[0]
        self._json = [(i, c.decode) for i, c in enumerate(self.columns) if c.decode]

    def values(self, row: R) -> Sequence[Any]:
        """The row's values in the order of the columns, as the database gets them."""
        values: Sequence[Any] = msgspec.structs.astuple(row)
        if self._json:
            values = list(values)
            for i, _ in self._json:
                values[i] = _to_json(values[i])
        return values

    def row(self, values: Sequence[Any]) -> R:
        """The row with these values, as the database gave them."""
        if self._json:
            values = list(values)
            for i, decode in self._json:
                values[i] = decode(values[i])
        return self.row_type(*values)

    def conditions(
        self, equals: dict[str, Any], placeholder: Callable[[int], str]
    ) -> tuple[list[str], list[Any]]:
        """SQL conditions that fields equal values, and the arguments that they need."""
        conditions: list[str] = []
        arguments: list[Any] = []
        for name, value in equals.items():
            if name not in self.by_name:
                raise TypeError(f"{self.row_type.__name__} has no field {name!r}")
            if self.by_name[name].decode:
                value = _to_json(value)
            if value is None:
                conditions.append(f"{quoted(name)} is null")
            else:
                arguments.append(value)
                conditions.append(f"{quoted(name)} = {placeholder(len(arguments))}")
        return conditions, arguments


@functools.cache
def mapping_of(row_type: type[R]) -> Mapping[R]:
    """The one mapping of a row type."""
    return Mapping(row_type)


def _column(name: str, hint: Any) -> Column:
    nullable = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint):
        inner = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if len(inner) == 1 and inner[0] in PLAIN:
            hint, nullable = inner[0], True
    if hint in PLAIN:
        return Column(name, hint, nullable, None)
    return Column(name, object, False, msgspec.json.Decoder(hint).decode)


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
