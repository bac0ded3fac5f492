"""The header of the PROXY protocol: what is written is read, and nothing that comes breaks the parser."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.components.proxy_protocol import LONGEST, BadHeader, Proxied, encode, parse

ports = st.integers(0, 65_535)
pairs = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(pairs, ports, ports, st.sampled_from([1, 2]), st.binary(max_size=50))
def test_what_is_written_is_read_at_any_cut(
    hosts: tuple[ipaddress.IPv4Address, ipaddress.IPv4Address], a: int, b: int, version: int, rest: bytes
) -> None:
    source, destination = map(str, hosts)
    data = encode((source, a), (destination, b), version)
    assert parse(data + rest) == (Proxied(source, a, destination, b), len(data))
    for cut in range(len(data)):
        assert parse(data[:cut]) is None


beginnings = st.sampled_from(
    [
        b"",
        b"PROXY ",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ::1 ",
        b"\r\n\r\n\0\r\nQUIT\n!",
        b"\r\n\r\n\0\r\nQUIT\n \x11\0",
    ]
)


@given(beginnings, st.binary(max_size=200))
def test_whatever_comes_is_a_header_or_too_short_or_wrong(beginning: bytes, rest: bytes) -> None:
    data = beginning + rest
    try:
        found = parse(data)
    except BadHeader:
        return
    if found is None:
        assert len(data) < LONGEST
    else:
        assert 0 < found[1] <= len(data)
        assert parse(data + b"more") == found


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \xb2\r\n",
        b"PROXY " + b"x" * 101,
        b"PROXY TCP6 fe80::1%\nx ::1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b" + bytes(11),
    ],
)
def test_what_is_wrong_is_refused(header: bytes) -> None:
    with pytest.raises(BadHeader):
        parse(header)


def test_the_zone_of_an_address_stays_at_home() -> None:
    data = encode(("fe80::1%eth0", 1), ("fe80::2%eth0", 2), 1)
    assert data == b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"


def test_unknown_and_local_connections_are_the_proxys_own() -> None:
    assert parse(b"PROXY UNKNOWN ffff::1 whatever\r\nx") == (Proxied("", 0, "", 0), 32)
    assert parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0x") == (Proxied("", 0, "", 0), 16)
