"""What both sides of our HTTP know: the methods, and how header lines are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

__all__ = ["METHODS", "encode_cookies", "encode_headers", "header_line"]

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""What our server answers; others get 501."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, field-value: no control characters


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The header lines, each with its line end, ready to be sent many times.

    ValueError for a name or a value that HTTP does not allow (a line break would start another header).
    """
    return _lines(tuple(headers.items())) if headers else b""


@lru_cache(maxsize=256)  # of the same client they are mostly the same ones
def _lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    return b"".join(header_line(name, value) for name, value in headers)


def encode_cookies(cookies: tuple[str, ...]) -> bytes:
    """A Set-Cookie line for each: they are the ones that cannot share a line."""
    return b"".join(header_line("set-cookie", cookie) for cookie in cookies) if cookies else b""


@lru_cache(maxsize=256)
def header_line(name: str, value: str) -> bytes:
    """One header line with its line end."""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"not an HTTP header: {name!r}: {value!r}")
    return f"{name}: {value}\r\n".encode("latin-1")
