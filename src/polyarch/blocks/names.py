"""Names: what a name server answers, and what a resolver remembers of it.

A ``Zone`` gives the records of a name in turn: each answer begins with another one (round robin; Brisco,
"DNS support for load balancing", RFC 1794, 1995).  A ``Cache`` keeps an answer for as long as its TTL says,
and not a moment longer, unless it is told to give stale ones when nobody else answers (RFC 8767).
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from polyarch.core.dns import DnsQuery, DnsRecord, DnsReply, canonical

__all__ = ["Cache", "Zone"]

_NOT_HERE = DnsReply("REFUSED")


class Zone:
    """A service name, and the hosts behind it, which have names of their own in the same zone."""

    def __init__(self, origin: str, service: str, hosts: Sequence[str], ttl: int, most: int = 0) -> None:
        """``origin``: the zone's name; ``service``: the name behind which the hosts are; ``hosts``: addresses
        of nodes; ``ttl``: of all records, in seconds; ``most``: records in an answer, 0: all there are."""
        self.origin = canonical(origin)
        self.service = canonical(service)
        self.hosts = tuple(hosts)
        self.ttl = ttl
        self.most = most
        self.turn = 0
        """Answers about the service so far."""

    def answer(self, query: DnsQuery, down: Container[str] = ()) -> DnsReply:
        """The answer; hosts that are ``down`` are left out (unless all are)."""
        name = canonical(query.name)
        if name != self.origin and not name.endswith(f".{self.origin}"):
            return _NOT_HERE
        records = self.records(name, query.kind, down)
        if records is None:
            return DnsReply("NXDOMAIN", (), (self.soa(),), True)
        return DnsReply("NOERROR", records, () if records else (self.soa(),), True)

    def records(self, name: str, kind: str, down: Container[str]) -> tuple[DnsRecord, ...] | None:
        """Those of a name and a kind; None: there is no such name."""
        if name == self.service or name == self.bare:
            if kind not in ("SRV", "A", "ANY"):
                return ()
            if kind == "ANY":  # RFC 8482: a part will do
                kind = "SRV"
            hosts = self.in_turn(down)
            if kind == "SRV":
                return tuple(DnsRecord(name, "SRV", self.ttl, f"{host}.{self.origin}") for host in hosts)
            return tuple(DnsRecord(name, "A", self.ttl, host) for host in hosts)
        if name == self.origin:
            if kind == "SOA":
                return (self.soa(),)
            return (DnsRecord(name, "NS", self.ttl, f"ns.{self.origin}"),) if kind == "NS" else ()
        host = name.removesuffix(f".{self.origin}")
        if host in self.hosts or host == "ns":
            return (DnsRecord(name, "A", self.ttl, host),) if kind == "A" else ()
        return () if self.service.endswith(f".{name}") else None  # empty names on the way (RFC 4592)

    @property
    def bare(self) -> str:
        """The service's name without the labels that say what is served: ``_http._tcp.x`` -> ``x``."""
        labels = self.service.split(".")
        while labels and labels[0].startswith("_"):
            labels.pop(0)
        return ".".join(labels)

    def in_turn(self, down: Container[str]) -> tuple[str, ...]:
        """The hosts, each time beginning with the next one."""
        hosts = [host for host in self.hosts if host not in down] or list(self.hosts)
        first = self.turn % len(hosts)
        self.turn += 1
        hosts = hosts[first:] + hosts[:first]
        return tuple(hosts[: self.most] if self.most else hosts)

    def soa(self) -> DnsRecord:
        """Who is responsible for the zone; its last figure is for how long "no" may be remembered."""
        times = f"1 3600 600 86400 {self.ttl}"
        return DnsRecord(self.origin, "SOA", self.ttl, f"ns.{self.origin} hostmaster.{self.origin} {times}")


class _Kept:
    __slots__ = ("reply", "since", "ttl", "turn")

    def __init__(self, reply: DnsReply, since: float, ttl: int) -> None:
        self.reply = reply
        self.since = since
        self.ttl = ttl
        self.turn = 0


class Cache:
    """Answers that a resolver has been given, by question, until their TTL ends."""

    def __init__(self, *, rotate: bool = False, stale: float = 0.0) -> None:
        """``rotate``: begin with another record each time, as BIND does; else an answer is always the same.
        ``stale``: seconds after the end of its TTL for which an answer is kept, should nobody answer anew."""
        self.rotate = rotate
        self.stale = stale
        self.kept: dict[tuple[str, str], _Kept] = {}

    def put(self, query: DnsQuery, reply: DnsReply, now: float) -> None:
        """Remember an answer: its least TTL counts.  Failures are not remembered."""
        ttls = [record.ttl for record in reply.answers] or list(map(_of_no, reply.authority))
        if reply.code in ("NOERROR", "NXDOMAIN") and ttls and min(ttls) > 0:
            self.kept[canonical(query.name), query.kind] = _Kept(reply, now, min(ttls))

    def get(self, query: DnsQuery, now: float) -> DnsReply | None:
        """What is remembered, with what is left of its TTL; None if there is nothing (any more)."""
        kept = self.kept.get((canonical(query.name), query.kind))
        if kept is None or now - kept.since >= kept.ttl:
            return None
        # The time that is left is rounded up: it is remembered for the whole of it.
        left = kept.ttl - int(now - kept.since)
        return self.told(kept, left)

    def get_stale(self, query: DnsQuery, now: float) -> DnsReply | None:
        """What was remembered, if it has not been out of date for too long."""
        kept = self.kept.get((canonical(query.name), query.kind))
        if kept is None or now - kept.since >= kept.ttl + self.stale:
            return None
        return self.told(kept, 1)

    def told(self, kept: _Kept, ttl: int) -> DnsReply:
        answers, authority = (
            tuple(msgspec.structs.replace(record, ttl=ttl) for record in records)
            for records in (kept.reply.answers, kept.reply.authority)
        )
        if self.rotate and len(answers) > 1:
            kept.turn += 1
            first = kept.turn % len(answers)
            answers = answers[first:] + answers[:first]
        return DnsReply(kept.reply.code, answers, authority, False)


def _of_no(record: DnsRecord) -> int:
    """How long "no" may be remembered: the TTL of the SOA that comes with it, or the last figure of that if
    it is less (RFC 2308, section 5)."""
    return min(record.ttl, int(record.value.split()[-1])) if record.kind == "SOA" else 0
