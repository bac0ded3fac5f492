"""Records: the immutable values that messages carry and tables hold."""

from __future__ import annotations

import typing

import msgspec

__all__ = ["Record"]


@typing.dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True):
    """A frozen, typed value: ``class Peer(Record): id: int; address: str``.

    Frozen, because what crosses from one node to another is immutable or copied.  On the wire it is a
    MessagePack map by field name, in HTTP a JSON object; both are validated against the annotations on
    arrival.  ``class Peer(Record, array_like=True)`` makes the wire form an array without names.
    """
