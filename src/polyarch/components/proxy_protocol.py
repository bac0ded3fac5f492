"""The PROXY protocol, versions 1 and 2 (Tarreau, "The PROXY protocol", HAProxy, 2020): a header before the
first byte of a connection that says who the client is, as the server sees only the switch."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

__all__ = ["LONGEST", "BadHeader", "Proxied", "encode", "parse"]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LONGEST = 107  # section 2.1, with the line end
LONGEST = 16 + 65_535
"""Bytes of the longest header, of version 2."""


class BadHeader(ValueError):
    """What came is no header of the PROXY protocol, and cannot become one."""


class Proxied(NamedTuple):
    """What a header says.  Empty hosts: nothing (UNKNOWN, LOCAL), as the connection is the proxy's own."""

    source: str
    source_port: int
    destination: str
    destination_port: int


_NOTHING = Proxied("", 0, "", 0)


def encode(source: tuple[str, int], destination: tuple[str, int], version: int) -> bytes:
    """The header of a TCP connection, without the zones of its addresses; ``ValueError`` for what is no
    address, port or version."""
    a, b = (ipaddress.ip_address(host.partition("%")[0]) for host in (source[0], destination[0]))
    if a.version != b.version:
        raise ValueError(f"{a} and {b} are of different families")
    for port in (source[1], destination[1]):
        if not 0 <= port < 65_536:
            raise ValueError(f"{port} is no port")
    if version == 1:
        return f"PROXY TCP{a.version} {a} {b} {source[1]} {destination[1]}\r\n".encode()
    if version != 2:
        raise ValueError(f"there is no version {version} of the PROXY protocol, only 1 and 2")
    body = a.packed + b.packed + struct.pack("!HH", source[1], destination[1])
    family = 0x11 if a.version == 4 else 0x21
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, len(body)) + body


def parse(data: bytes) -> tuple[Proxied, int] | None:
    """What the header at the beginning of ``data`` says, and its length; None: more bytes are needed."""
    if data.startswith(_SIGNATURE):
        return _version_2(data)
    if data.startswith(b"PROXY "):
        return _version_1(data)
    if _SIGNATURE.startswith(data) or b"PROXY ".startswith(data):
        return None
    raise BadHeader("neither version 1 nor 2 of the PROXY protocol begins so")


def _version_1(data: bytes) -> tuple[Proxied, int] | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise BadHeader(f"a header of version 1 ends within {_V1_LONGEST} bytes")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadHeader("a header of version 1 is ASCII") from None
    if words[1:2] == ["UNKNOWN"]:
        return _NOTHING, end + 2
    families = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
    if len(words) != 6 or words[1] not in families:
        raise BadHeader("a header of version 1 is PROXY TCP4|TCP6, two addresses and two ports")
    try:
        hosts = [str(families[words[1]](word)) for word in words[2:4]]
        if any("%" in host for host in hosts):
            raise ValueError("a zone (RFC 4007) means nothing elsewhere, and may hold any character")
    except ValueError:
        raise BadHeader(f"{words[2]} and {words[3]} are no addresses of {words[1]}") from None
    ports = []
    for word in words[4:]:
        if not (word.isdigit() and len(word) <= 5 and int(word) < 65_536 and word == str(int(word))):
            raise BadHeader(f"{word!r} is no port")
        ports.append(int(word))
    return Proxied(hosts[0], ports[0], hosts[1], ports[1]), end + 2


def _version_2(data: bytes) -> tuple[Proxied, int] | None:
    if len(data) < 16:
        return None
    command, family, length = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):
        raise BadHeader(f"version and command {command:#x}; 0x20 (LOCAL) and 0x21 (PROXY) are known")
    if len(data) < 16 + length:
        return None
    end = 16 + length
    size = {0x11: 4, 0x21: 16}.get(family)
    if command == 0x20 or size is None:  # other families are skipped, as section 2.2 has it
        return _NOTHING, end
    if length < 2 * size + 4:
        raise BadHeader(f"{length} bytes are too few for two addresses of family {family:#x}")
    source, destination = data[16 : 16 + size], data[16 + size : 16 + 2 * size]
    ports = struct.unpack_from("!HH", data, 16 + 2 * size)
    hosts = str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))
    return Proxied(hosts[0], ports[0], hosts[1], ports[1]), end  # what follows are TLVs: not for us
