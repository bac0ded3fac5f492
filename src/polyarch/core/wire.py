"""Frames: what one message looks like between two processes.

A frame is four bytes of length (big endian) and a MessagePack array:

    [REQUEST, id, to, sender, method, arguments, accounted]      rpc
    [ONEWAY, to, sender, method, arguments]                      oneway
    [ANSWER, id, value, messages, bytes, depth]                  the rpc's result and its ledger
    [FAILURE, id, code, detail, definite, messages, bytes, depth]

The simulator measures messages with this same file, so that a simulated byte is a live byte.  Nothing is
ever unpickled.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ANSWER", "FAILURE", "HEADER", "MAX_FRAME", "ONEWAY", "REQUEST", "encode"]

REQUEST, ONEWAY, ANSWER, FAILURE = range(4)

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
