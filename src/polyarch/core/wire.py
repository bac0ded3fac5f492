"""Frames: what one message looks like between two processes.

A frame is four bytes of length (big endian) and a MessagePack array:

    [REQUEST, id, to, sender, method, arguments, depth]          rpc; depth 0: nobody counts its costs
    [ONEWAY, to, sender, method, arguments]                      oneway
    [ANSWER, id, value, messages, bytes, depth]                  the rpc's result and its ledger
    [FAILURE, id, code, detail, definite, messages, bytes, depth]

The simulator measures messages with this same file, so that a simulated byte is a live byte.  Nothing is
ever unpickled.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ANSWER", "BASE", "FAILURE", "HEADER", "MAX_FRAME", "ONEWAY", "REQUEST", "UNSENDABLE", "encode"]

REQUEST, ONEWAY, ANSWER, FAILURE = range(4)

BASE = 1 << 16
"""Numbers of calls, and costs that were counted, begin here: so all are equally long on the wire, and a
message has one size, whichever call it belongs to."""

UNSENDABLE = (TypeError, ValueError, OverflowError, RecursionError)
"""What ``encode`` raises for a value that cannot be in a message."""

HEADER = 4
"""Bytes of the length prefix."""

MAX_FRAME = 16 * 1024 * 1024
"""Largest frame in bytes; a larger message is refused (``TooLarge``) before it is sent."""


def _builtin(value: Any) -> Any:
    address = getattr(value, "address", None)
    if isinstance(address, str):
        return address  # a reference crosses as its address
    raise TypeError(f"a {type(value).__name__} cannot be in a message: use records and plain values")


encode = msgspec.msgpack.Encoder(enc_hook=_builtin).encode
"""MessagePack bytes of a frame's array (without the length)."""
