"""What a name server answers, and what a resolver remembers of it."""

from __future__ import annotations

import pytest

from polyarch.blocks.names import Cache, Zone
from polyarch.core import DnsQuery, DnsRecord, DnsReply

HOSTS = ("server-0", "server-1", "server-2")
SERVICE = "_http._tcp.www.example"


def zone(most: int = 0, ttl: int = 60) -> Zone:
    return Zone("example", SERVICE, HOSTS, ttl, most)


def nodes(reply: DnsReply | None) -> list[str]:
    assert reply is not None
    return [record.node for record in reply.answers]


def test_each_answer_begins_with_the_next_host_and_all_come_first_alike() -> None:
    www = zone()
    told = [nodes(www.answer(DnsQuery(SERVICE))) for _ in range(6)]
    assert told[:3] == [
        ["server-0", "server-1", "server-2"],
        ["server-1", "server-2", "server-0"],
        ["server-2", "server-0", "server-1"],
    ]
    assert told[3:] == told[:3]


def test_hosts_that_are_down_are_not_named_unless_all_are() -> None:
    www = zone(most=1)
    assert [nodes(www.answer(DnsQuery(SERVICE), {"server-1"})) for _ in range(4)] == [
        ["server-0"], ["server-2"], ["server-0"], ["server-2"]
    ]  # fmt: skip
    assert nodes(www.answer(DnsQuery(SERVICE), HOSTS)) == ["server-1"]


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        (SERVICE.upper() + ".", "SRV", "NOERROR", 3),  # names are compared without regard to case
        ("www.example", "A", "NOERROR", 3),
        ("www.example", "AAAA", "NOERROR", 0),
        ("server-1.example", "A", "NOERROR", 1),
        ("example", "SOA", "NOERROR", 1),
        ("example", "NS", "NOERROR", 1),
        ("_tcp.www.example", "A", "NOERROR", 0),  # RFC 4592: nothing there, and something below
        ("server-3.example", "A", "NXDOMAIN", 0),
        ("www.elsewhere", "A", "REFUSED", 0),
        ("notexample", "A", "REFUSED", 0),
    ],
)
def test_names_are_found_said_not_to_exist_or_not_ours(name: str, kind: str, code: str, answers: int) -> None:
    reply = zone().answer(DnsQuery(name, kind))
    assert (reply.code, len(reply.answers)) == (code, answers)
    if code != "REFUSED" and not answers:
        assert [record.kind for record in reply.authority] == ["SOA"]  # for how long to remember "no"


def test_an_answer_is_remembered_for_its_ttl_which_is_told_as_what_is_left_of_it() -> None:
    cache, www = Cache(), zone()
    query = DnsQuery(SERVICE)
    assert cache.get(query, 0.0) is None
    cache.put(query, www.answer(query), 10.0)
    assert [record.ttl for record in cache.get(query, 10.0).answers] == [60, 60, 60]  # type: ignore[union-attr]
    left = cache.get(query, 69.9)
    assert left is not None
    assert [record.ttl for record in left.answers] == [1, 1, 1]
    assert not left.authoritative
    assert nodes(left) == list(HOSTS)  # always the same
    assert cache.get(query, 70.0) is None


def test_no_is_remembered_and_failures_and_ttls_of_zero_are_not() -> None:
    cache, www = Cache(), zone()
    absent, refused = DnsQuery("no.example", "A"), DnsQuery("elsewhere", "A")
    for query in absent, refused:
        cache.put(query, www.answer(query), 0.0)
    left = cache.get(absent, 58.5)
    assert left is not None
    assert (left.code, [record.ttl for record in left.authority]) == ("NXDOMAIN", [2])
    assert cache.get(absent, 60.0) is None
    # The SOA may live longer than "no" may be remembered (RFC 2308).
    soa = DnsRecord("example", "SOA", 3600, "ns.example hostmaster.example 1 3600 600 86400 5")
    cache.put(absent, DnsReply("NXDOMAIN", (), (soa,)), 100.0)
    assert cache.get(absent, 104.9) is not None
    assert cache.get(absent, 105.0) is None
    assert cache.get(refused, 0.0) is None
    query = DnsQuery(SERVICE)
    cache.put(query, zone(ttl=0).answer(query), 0.0)
    assert cache.get(query, 0.0) is None


def test_a_rotating_cache_gives_what_it_remembers_in_turn() -> None:
    cache, query = Cache(rotate=True), DnsQuery(SERVICE)
    cache.put(query, zone().answer(query), 0.0)
    assert sorted(nodes(cache.get(query, 1.0))[0] for _ in range(3)) == list(HOSTS)


def test_what_is_stale_is_given_for_as_long_as_was_said_and_on_demand_only() -> None:
    cache, query = Cache(stale=100.0), DnsQuery("x", "A")
    cache.put(query, DnsReply("NOERROR", (DnsRecord("x", "A", 10, "server-0"),)), 0.0)
    assert cache.get(query, 50.0) is None
    assert nodes(cache.get_stale(query, 109.0)) == ["server-0"]
    assert cache.get_stale(query, 110.0) is None
