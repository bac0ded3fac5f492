"""How many bytes a TCP connection really carried, asked from the kernel."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

__all__ = ["OnTraffic", "SocketMeter"]

OnTraffic = Callable[[int, int | None], None]
"""Called with the messages and the bytes of one use of a component; None where bytes were not measured."""

# struct tcp_info (linux/tcp.h): 8 one-byte fields, 24 four-byte fields, two eight-byte rates, and then
# tcpi_bytes_acked and tcpi_bytes_received, the payload sent (and acknowledged) and received so far.
_BYTES = struct.Struct("QQ")
_OFFSET = 8 + 24 * 4 + 2 * 8
_SIZE = _OFFSET + _BYTES.size


class SocketMeter:
    """Counts the payload bytes of a connection, both ways, between one ``take`` and the next."""

    __slots__ = ("_socket", "_taken")

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self._socket = None if transport is None else transport.get_extra_info("socket")
        self._taken = 0

    def take(self) -> int | None:
        """Bytes since the last call (at first: since the connection began); None if they cannot be had,
        as for a connection that is closed.  Takes about a microsecond."""
        if self._socket is None:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
            total: int = sum(_BYTES.unpack_from(info, _OFFSET))
        except (OSError, ValueError, AttributeError, struct.error):  # ValueError: it is closed (uvloop)
            return None
        taken, self._taken = self._taken, total
        return total - taken
