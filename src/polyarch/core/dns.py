"""DNS as a message: ``dns(query) -> reply``.

A node that answers questions about names has one message, ``dns``.  In a simulation it is a message like any
other, of the size it would have; on a live runtime it *is* DNS (RFC 1035) on UDP and TCP, so that ``dig`` and
any other resolver can ask the same node, and the node can ask others.

Names lead to nodes.  An ``SRV`` record (RFC 2782) names a host, ``server-3.polyarch.test``, whose first label
is the address of a node; on the wire it also has the port at which that node listens.  An ``A`` record says
the node's address, and on the wire 127.0.0.1.
"""

from __future__ import annotations

from typing import ClassVar

from polyarch.core.errors import UnknownMethod
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record

__all__ = ["Dns", "DnsQuery", "DnsRecord", "DnsReply", "canonical"]


def canonical(name: str) -> str:
    """A name as it is compared: small letters, and no dot at its end (RFC 4343)."""
    return name.rstrip(".").lower()


class DnsRecord(Record, array_like=True):
    """One resource record."""

    name: str
    kind: str
    """``A``, ``SRV``, ``NS``, ``SOA``, ``TXT`` or ``CNAME``."""
    ttl: int
    """Seconds for which who has been told may remember it."""
    value: str
    """Of ``A`` the address of a node, of ``SRV`` a host, of the others what a zone file would say."""

    @property
    def node(self) -> str:
        """Where an ``A`` or ``SRV`` record leads to: the address of a node."""
        return self.value.partition(".")[0] if self.kind == "SRV" else self.value


class DnsQuery(Record):
    """One question."""

    name: str
    kind: str = "SRV"

    def wire_size(self) -> int:
        """Bytes of it as DNS over UDP."""
        return _HEADER + len(self.name) + 2 + 4


class DnsReply(Record):
    """The answer: NOERROR and records, or why there are none."""

    code: str = "NOERROR"
    """``NOERROR``, ``NXDOMAIN`` (there is no such name), ``SERVFAIL`` (it could not be found out),
    ``REFUSED`` (others are to be asked), ``NOTIMP`` or ``FORMERR``."""
    answers: tuple[DnsRecord, ...] = ()
    authority: tuple[DnsRecord, ...] = ()
    """Of an answer without records: the zone's SOA, whose TTL says how long to remember that (RFC 2308)."""
    authoritative: bool = False
    """It comes from who is responsible for the name, not from a memory."""

    def wire_size(self) -> int:
        """Bytes of it as DNS over UDP; names that were said before are pointers of two bytes."""
        records = sum(_RECORD + _DATA.get(r.kind, len(r.value) + 1) for r in (*self.answers, *self.authority))
        name = len(self.answers[0].name) if self.answers else 0
        return _HEADER + name + 2 + 4 + records


_HEADER = 12
_RECORD = 12
"""A pointer, type, class, TTL and length."""
_DATA = {"A": 4, "SRV": 33, "SOA": 40}
"""Data of a record: an SRV record's target is not compressed."""


class Dns(Node):
    """Whatever answers questions about names: a name server, a resolver."""

    example: ClassVar[str] = ""
    """A question to try it with, as one gives it to ``dig``."""

    @rpc
    async def dns(self, query: DnsQuery) -> DnsReply:
        """Answer one question."""
        raise UnknownMethod("this node answers no questions about names")
