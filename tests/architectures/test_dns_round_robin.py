"""Names in turn: what resolvers remember decides, for better and for worse."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from typing import Any

import dnslib
import pytest

from polyarch.architectures.dns_round_robin import SERVICE, ZONE, DnsRoundRobin, NoNames, Resolver
from polyarch.core import DnsQuery, Failure, Unreachable, settle
from polyarch.experiment.compare import Pace, compare
from polyarch.experiment.run import Question, run
from polyarch.jobs.compute import ComputeJob
from polyarch.laws.dns import ChosenByDns
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.local.dns_links import _Stream
from polyarch.runtimes.sim.session import SimSession


def started(**parameters: Any) -> SimSession:
    return SimSession(DnsRoundRobin(**parameters), seed=2)


async def first_of(x: Experimenter, domain: int) -> str:
    """The server that a domain's resolver names first."""
    reply = await x.at(f"resolver-{domain}", Resolver).dns(DnsQuery(SERVICE))
    return reply.answers[0].node


def test_domains_get_the_servers_in_turn_and_each_keeps_its_own_until_the_ttl_ends() -> None:
    session = started(servers=4, domains=8, ttl=10)

    async def experiment(x: Experimenter) -> tuple[list[str], list[str], list[str]]:
        told = [await first_of(x, d) for d in range(8)]
        await x.sleep(9.5)
        again = [await first_of(x, d) for d in range(8)]
        await x.sleep(1.0)
        await first_of(x, 0)  # the turn moves on by one
        return told, again, [await first_of(x, d) for d in range(1, 8)]

    told, again, anew = session.perform(experiment)
    assert Counter(told) == {f"server-{i}": 2 for i in range(4)}
    assert again == told
    assert anew == told[1:]  # 8 answers later it is the same one's turn again
    assert told[0] != told[1]


def test_questions_that_come_together_are_asked_once() -> None:
    session = started(domains=1)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await settle(*(first_of(x, 0) for _ in range(20)))
        told = await x.at("resolver-0", Resolver).told()
        return told.asked, told.passed_on

    assert session.perform(experiment) == (20, 1)


def lost_to_a_dead_server(**parameters: Any) -> tuple[float, float]:
    """When one of two servers dies: the share of requests lost within the TTL of 10 s, and after it."""
    session = started(servers=2, domains=10, ttl=10, answers=1, **parameters)

    async def ask(x: Experimenter, rounds: int) -> float:
        lost = 0
        for i in range(rounds):
            told = await settle(*(x.client.increment(i, client=c) for c in range(10)))
            lost += sum(isinstance(answer, Failure) for answer in told)
            await x.sleep(0.2)
        return lost / (10 * rounds)

    async def experiment(x: Experimenter) -> tuple[float, float]:
        await x.sleep(1.0)
        assert await ask(x, 1) == 0
        await x.control.crash("server-0")
        within = await ask(x, 40)
        await x.sleep(3.0)
        return within, await ask(x, 10)

    return session.perform(experiment)


def test_a_dead_server_costs_its_domains_all_requests_until_the_ttl_ends_if_somebody_looks() -> None:
    within, after = lost_to_a_dead_server(check=0.5)
    assert within == pytest.approx(0.5)  # the five domains that were told of it
    assert after == 0


def test_a_dead_server_is_named_for_ever_if_nobody_looks() -> None:
    within, after = lost_to_a_dead_server(check=0.0)
    assert within == pytest.approx(0.5)
    assert after == pytest.approx(0.5)


def test_clients_that_try_the_other_addresses_of_an_answer_lose_nothing() -> None:
    session = started(servers=3, domains=6, attempts=3, check=0.0)

    async def experiment(x: Experimenter) -> tuple[list[Any], int]:
        await x.control.crash("server-1")
        told = await settle(*(x.client.increment(1, client=c) for c in range(6)))
        return told, (await x.client.reached()).dead

    told, dead = session.perform(experiment)
    assert told == [2] * 6
    assert dead == 2  # of six domains, two were told of it first


@pytest.mark.parametrize("stale", [0.0, 60.0])
def test_without_the_name_server_all_goes_on_until_the_ttl_ends_and_longer_with_stale_answers(
    stale: float,
) -> None:
    session = started(domains=1, ttl=5, stale=stale)

    async def experiment(x: Experimenter) -> list[Any]:
        await x.client.increment(1)
        await x.control.crash("names-0")
        within = await settle(x.client.increment(1))
        await x.sleep(6.0)
        return within + await settle(x.client.increment(1))

    within, after = session.perform(experiment)
    assert within == 2
    assert after == 2 if stale else isinstance(after, NoNames)


def test_a_lost_question_is_asked_again() -> None:
    session = started(domains=1, ttl=0)

    async def experiment(x: Experimenter) -> tuple[Any, int]:
        await x.control.disturb(["resolver-0"], ["names-0"], loss=0.5)
        told = await settle(*(x.client.increment(1) for _ in range(30)))
        for _ in range(30):
            told += await settle(x.client.increment(1))
        return sum(answer == 2 for answer in told), len(told)

    answered, asked = session.perform(experiment)
    assert answered > 0.8 * asked  # a single question would lose half of them, three lose an eighth


def test_a_run_says_who_chose_how_skewed_the_load_is_and_what_went_to_the_dead() -> None:
    question = Question(
        DnsRoundRobin(servers=4, domains=50, ttl=2, answers=1),
        ComputeJob(customers=50, skew=1.0, work=0.0001),
        rate=200, duration=10.0, faults=["crash:server-0@3s"],
    )  # fmt: skip
    record = run(question)
    assert 0.05 < record.metrics["chosen_by_dns"] < 0.25
    assert 1.05 < record.metrics["load_imbalance"] < 2.5
    assert 0.005 < record.metrics["sent_to_dead"] < 0.1
    assert record.holds


# -- live: dig and whoever else speaks DNS -------------------------------------------------------------------


@pytest.fixture(scope="module")
def live() -> Any:
    with open_session("local", DnsRoundRobin(servers=3, domains=1, ttl=60)) as session:
        yield session


def port(session: Any, node: str) -> int:
    return int(session.process.http_ports[node])


def asked(session: Any, node: str, name: str, kind: str, *, tcp: bool = False) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(name, kind)
    answer = dnslib.DNSRecord.parse(question.send("127.0.0.1", port(session, node), tcp=tcp, timeout=10))
    assert answer.header.id == question.header.id
    assert answer.q == question.q
    return answer


@pytest.mark.local
def test_live_a_name_server_and_a_resolver_answer_other_peoples_questions(live: Any) -> None:
    firsts = []
    for tcp in (False, True, False):
        answer = asked(live, "names-0", SERVICE, "SRV", tcp=tcp)
        assert (answer.header.aa, answer.header.ra, answer.header.rcode) == (1, 0, 0)
        firsts.append(str(answer.rr[0].rdata.target).partition(".")[0])
        for record in answer.rr:
            assert record.ttl == 60
            host = str(record.rdata.target).partition(".")[0]
            assert record.rdata.port == port(live, host)  # where a browser would find it
    assert sorted(firsts) == ["server-0", "server-1", "server-2"]
    assert dnslib.RCODE[asked(live, "names-0", "no.polyarch.test", "A").header.rcode] == "NXDOMAIN"
    assert dnslib.RCODE[asked(live, "names-0", "example.org", "A").header.rcode] == "REFUSED"
    for tcp in (False, True):  # nobody gets the whole zone
        answer = asked(live, "names-0", ZONE, "AXFR", tcp=tcp)
        assert (dnslib.RCODE[answer.header.rcode], answer.rr) == ("REFUSED", [])
    future = dnslib.DNSRecord.question(SERVICE, "SRV")
    future.add_ar(dnslib.EDNS0(version=1, udp_len=1232))
    reply = dnslib.DNSRecord.parse(future.send("127.0.0.1", port(live, "names-0"), timeout=10))
    (option,) = reply.ar
    assert (reply.rr, option.ttl >> 24, option.ttl >> 16 & 255) == ([], 1, 0), "BADVERS, and our version"
    remembered = [asked(live, "resolver-0", SERVICE, "SRV") for _ in range(2)]
    assert [(a.header.aa, a.header.ra) for a in remembered] == [(0, 1)] * 2
    assert remembered[0].rr == remembered[1].rr


@pytest.mark.local
def test_live_clients_reach_servers_by_name_and_dead_ones_are_noticed(live: Any) -> None:
    async def experiment(x: Experimenter) -> tuple[Any, Any, Any]:
        before = await x.client.increment(41)
        (server,) = [(await x.at("resolver-0", Resolver).dns(DnsQuery(SERVICE))).answers[0].node]
        await x.control.crash(server)
        (dead,) = await settle(x.client.increment(41))
        await x.control.restart(server)
        return before, dead, await x.client.increment(41)

    before, dead, after = live.perform(experiment)
    assert (before, after) == (42, 42)
    assert isinstance(dead, Unreachable)


@pytest.mark.local
def test_live_a_name_server_that_comes_back_is_asked_again(live: Any) -> None:
    async def experiment(x: Experimenter) -> list[str]:
        async def code(host: str) -> str:  # of a host that nobody has asked for before
            return (await x.at("resolver-0", Resolver).dns(DnsQuery(f"{host}.polyarch.test", "A"))).code

        codes = [await code("server-0")]
        await x.control.crash("names-0")
        codes += [await code("server-1"), await code("server-1")]
        await x.control.restart("names-0")
        return [*codes, await code("server-1")]

    assert live.perform(experiment) == ["NOERROR", "SERVFAIL", "SERVFAIL", "NOERROR"]


@pytest.mark.local
def test_live_junk_gets_format_errors_or_nothing_and_harms_nobody(live: Any) -> None:
    import random
    import socket

    draw = random.Random(7)
    good = dnslib.DNSRecord.question(SERVICE, "SRV").pack()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.connect(("127.0.0.1", port(live, "names-0")))
        codes: list[tuple[int, str]] = []
        for i in range(300):
            junk = bytearray(good) if i % 2 else bytearray(draw.randbytes(draw.randrange(60)))
            for _ in range(draw.randrange(1, 6)):
                if junk:
                    junk[draw.randrange(len(junk))] = draw.randrange(256)
            udp.send(junk)
            if i % 50 == 49:  # wait until all of it was read: no more fits into the socket
                udp.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0")  # a name cut off
                while not codes or codes[-1][0] != 0x1234:
                    header = dnslib.DNSRecord.parse(udp.recv(4096)).header
                    codes.append((header.id, dnslib.RCODE[header.rcode]))
                assert codes.pop()[1] == "FORMERR"
    assert len(codes) > 100  # junk was answered, where there was a header to answer to
    with socket.create_connection(("127.0.0.1", port(live, "names-0"))) as tcp:
        tcp.sendall(len(good).to_bytes(2, "big") + good[:5])  # and then nothing
    status = dnslib.DNSRecord.question(SERVICE, "SRV")
    status.header.opcode = 2
    reply = dnslib.DNSRecord.parse(status.send("127.0.0.1", port(live, "names-0"), timeout=10))
    assert dnslib.RCODE[reply.header.rcode] == "NOTIMP"
    assert asked(live, "names-0", SERVICE, "SRV").rr

    async def bugs(x: Experimenter) -> tuple[str, ...]:
        return (await x.control.traffic()).bugs

    assert live.perform(bugs) == ()


@pytest.mark.parametrize(("unread", "cut_off"), [(1000, False), (1 << 20, True)])
def test_who_asks_and_asks_and_never_reads_is_cut_off(unread: int, cut_off: bool) -> None:
    class Transport:
        aborted = False
        is_closing = staticmethod(lambda: False)
        write = staticmethod(lambda data: None)
        get_write_buffer_size = staticmethod(lambda: unread)

        def abort(self) -> None:
            self.aborted = True

    stream = _Stream(None)  # type: ignore[arg-type]
    stream.transport = Transport()
    stream.respond(dnslib.DNSRecord.question(SERVICE, "SRV").reply())
    assert stream.transport.aborted == cut_off


@pytest.mark.local
def test_live_dig_is_answered(live: Any) -> None:
    if shutil.which("dig") is None:
        pytest.skip("dig is not installed (Debian: bind9-dnsutils): dnslib's client has asked the same above")
    number = str(port(live, "names-0"))
    for extra in ([], ["+tcp"]):
        command = ["dig", "@127.0.0.1", "-p", number, SERVICE, "SRV", "+short", *extra]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        assert sorted(line.split()[3] for line in told.splitlines()) == [
            f"server-{i}.polyarch.test." for i in range(3)
        ]


@pytest.mark.local
def test_live_an_answer_that_does_not_fit_into_a_datagram_is_asked_for_again_by_tcp() -> None:
    with open_session("local", DnsRoundRobin(servers=40, domains=1), per_process=40) as session:
        truncated = asked(session, "names-0", SERVICE, "SRV")
        assert (truncated.header.tc, len(truncated.rr)) == (1, 0)
        assert len(asked(session, "names-0", SERVICE, "SRV", tcp=True).rr) == 40

        async def experiment(x: Experimenter) -> tuple[int, int]:
            reply = await x.at("resolver-0", Resolver).dns(DnsQuery(SERVICE))
            return len({record.node for record in reply.answers}), await x.client.increment(1)

        assert session.perform(experiment) == (40, 2)


def test_a_comparison_tells_who_is_replaced_after_the_ttl_from_who_is_not() -> None:
    """With one domain all requests go to one server, until the TTL ends."""
    questions = [Question(DnsRoundRobin(domains=1, ttl=1, **more), ComputeJob(), rate=60.0)  # type: ignore[arg-type]
                 for more in ({}, {"check": 0.0}, {"stale": 60.0})]  # fmt: skip
    pace = Pace(rounds=1, saturation=0.05, clients=1, steady=0.2, window=0.3, replicas=1)
    cards = compare(questions, pace).blast_radius
    assert [(c.role, c.single_point_of_failure) for c in cards] == [
        ("server", False), ("names", True), ("resolver", True),
        ("server", True), ("names", False), ("resolver", True),  # nobody looks, nor is kept down for longer
        ("server", False), ("names", False), ("resolver", True),
    ]  # fmt: skip
    assert 0.3 < cards[0].recovery_s < 1.6 < cards[1].recovery_s  # type: ignore[operator]


@pytest.mark.parametrize(
    "setting",
    [{"domains": 20, "rate": 40.0, "ttl": 5, "exponent": 0.5}, {"domains": 3, "rate": 5.0, "ttl": 1}],
)
def test_the_law_of_how_seldom_the_dns_chooses_holds_for_other_settings(setting: dict[str, Any]) -> None:
    law = ChosenByDns(**setting, requests=12_000)
    (expected,) = law.expected().values()
    (measured,) = law.measure([1], lambda _: None).values()
    assert expected.holds(measured)
    assert expected.high < 1.2 * expected.value  # type: ignore[operator]
