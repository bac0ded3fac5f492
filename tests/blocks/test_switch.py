"""The application-layer switch keeps its policy, and never asks twice for what may have happened."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from polyarch.blocks.connections import Connections
from polyarch.blocks.switch import Branch, Switch
from polyarch.core import (
    Broken,
    Failure,
    Http,
    Node,
    Overloaded,
    Request,
    Response,
    System,
    Timeout,
    Unreachable,
    gather,
    settle,
)
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

GET = Request("GET", "/")


class Server(Http):
    """Says its name, after a while."""

    timeout = 10.0

    async def start(self) -> None:
        self.requests = 0

    async def http(self, request: Request) -> Response:
        self.requests += 1
        if request.target == "/busy" and self.address != "server-2":
            raise Overloaded("busy")
        if request.target == "/slow" and self.address == "server-0":
            await self.sleep(1.0)
        await self.sleep(float(request.body or b"0"))
        return Response(200, self.address.encode())


def perform(policy: str, test: Any, kind: type[Switch] = Switch, **more: Any) -> dict[str, int]:
    """Run a test with a switch before three servers; the requests that each has got since its last start."""
    system = System()
    server = Server()
    system.role("server", server, count=3)
    given = {"backends": system.addresses(server), **more}
    switch = kind(policy=policy, **given)  # type: ignore[arg-type]
    system.role("switch", switch)
    system.clients(Node())
    with SimSession(system, seed=3) as session:
        session.perform(lambda x: test(x, x.at("switch-0", kind)))
        nodes = {name: env.node for name, env in session.kernel.directory.items() if "server" in name}
        return {name: node.requests for name, node in nodes.items() if node is not None}


@pytest.mark.parametrize("policy", ["random", "round_robin", "least_connections", "two_choices"])
def test_every_policy_uses_every_server(policy: str) -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        for _ in range(300):
            assert (await switch.http(GET)).status == 200

    requests = perform(policy, test)
    assert sum(requests.values()) == 300
    assert min(requests.values()) > 60
    if policy == "round_robin":
        assert set(requests.values()) == {100}


def test_the_least_busy_server_gets_the_next_request() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        slow = x.spawn(switch.http(Request("GET", "/", b"3")))
        await x.sleep(0.01)
        answers = Counter[bytes]()
        for _ in range(50):
            answers[(await switch.http(GET)).body] += 1
        assert len(answers) == 2
        busy = (await slow).body
        assert busy not in answers

    perform("least_connections", test)


def test_an_unreachable_server_costs_no_request_and_is_used_again_when_it_is_back() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        await x.control.crash("server-1")
        answers = {(await switch.http(GET)).body for _ in range(30)}
        assert answers == {b"server-0", b"server-2"}
        await x.control.restart("server-1")
        await x.sleep(0.5)
        assert b"server-1" in {(await switch.http(GET)).body for _ in range(30)}
        for i in range(3):
            await x.control.crash(f"server-{i}")
        with pytest.raises(Unreachable):
            await switch.http(GET)

    perform("round_robin", test)


def test_what_may_have_happened_is_not_asked_for_again() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        with pytest.raises(Timeout):
            await switch.http(Request("POST", "/", b"9"))
        # The one that did not answer is left alone for a while.
        await gather(*(switch.http(GET) for _ in range(10)))

    requests = perform("round_robin", test, backend_seconds=1.0)
    assert sorted(requests.values()) == [1, 5, 5]


@pytest.mark.parametrize(
    ("branch", "special", "other"),
    [
        ({"path": "/sort"}, Request("GET", "/sort/1"), Request("GET", "/add")),
        ({"header": "x-kind: big"}, Request("GET", "/", b"", {"x-kind": "big"}), GET),
        ({"cookie": "kind=big"}, Request("GET", "/", b"", {"cookie": "a=b; kind=big"}), GET),
        ({"content": "0.000"}, Request("GET", "/", b"0.0001"), Request("GET", "/", b"0.1")),
    ],
)
def test_requests_of_one_kind_have_servers_of_their_own(
    branch: dict[str, str], special: Request, other: Request
) -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        for _ in range(20):
            assert (await switch.http(special)).body == b"server-2"
            assert (await switch.http(other)).body != b"server-2"

    perform(
        "random", test, backends=("server-0", "server-1"), branches=(Branch(("server-2",), **branch),)
    )  # fmt: skip


def test_an_affinity_keeps_a_client_at_its_server() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        homes = {}
        for i in range(90):
            cookie = {"cookie": f"other=1; session={i % 30}"}
            answer = await switch.http(Request("GET", f"/{i}", b"", cookie))
            assert homes.setdefault(i % 30, answer.body) == answer.body
        assert len(set(homes.values())) == 3

    for policy in ("rendezvous", "maglev", "consistent_hash"):
        perform(policy, test, affinity="cookie session")


def test_who_is_overloaded_is_spared_as_long_as_the_budget_lasts() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        statuses = Counter([(await switch.http(Request("POST", "/busy"))).status for _ in range(100)])
        counts = await switch.counts()
        # 10 saved up, and .1 for each request: of the two thirds that meet a busy server few are saved.
        assert 15 <= counts.retried <= 20
        assert 33 < statuses[200] < 60
        assert statuses[503] == 100 - statuses[200]

    perform("random", test, retries=0.1, saved=10)


def test_a_safe_request_whose_connection_breaks_is_asked_again() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        for method in ("GET", "POST"):
            asked = x.spawn(settle(*(switch.http(Request(method, "/", b"0.5")) for _ in range(3))))
            await x.sleep(0.1)
            await x.control.crash("server-1")
            await x.sleep(0.1)
            answers = await asked
            broken = [a for a in answers if isinstance(a, Broken)]
            assert len(broken) == (method == "POST"), answers
            await x.control.restart("server-1")
            await x.sleep(1.0)

    perform("round_robin", test)


def test_a_hedge_answers_before_the_slow_server_does() -> None:
    times = {}
    for hedge in (0.0, 0.1):

        async def test(x: Experimenter, switch: Switch, hedge: float = hedge) -> None:
            begin = x.now
            for _ in range(6):
                assert (await switch.http(Request("GET", "/slow"))).status == 200
            times[hedge] = x.now - begin
            assert (await switch.counts()).hedged == (2 if hedge else 0)

        perform("round_robin", test, hedge_seconds=hedge)
    assert times[0.0] > 2.0
    assert times[0.1] < 0.3


def test_if_both_fail_a_hedged_client_hears_why_and_not_that_it_was_hedged() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        for i in range(3):
            await x.control.crash(f"server-{i}")
        with pytest.raises(Unreachable):
            await switch.http(GET)

    perform("round_robin", test, hedge_seconds=0.1)


def test_what_changes_something_is_never_hedged() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        for _ in range(3):
            await switch.http(Request("POST", "/slow"))
        assert (await switch.counts()).hedged == 0

    assert sum(perform("round_robin", test, hedge_seconds=0.1).values()) == 3


def test_the_breaker_opens_after_so_many_failures_and_lets_one_request_try() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        await x.control.crash("server-0")
        for _ in range(9):
            assert (await switch.http(GET)).status == 200
        assert (await switch.counts()).shunned == 1
        await x.control.restart("server-0")
        await x.sleep(1.1)
        # One slow request is its trial: while it has no answer, nobody else goes there.
        answers = await gather(*(switch.http(Request("GET", "/slow")) for _ in range(9)))
        assert Counter(a.body for a in answers)[b"server-0"] == 1
        assert Counter([(await switch.http(GET)).body for _ in range(9)])[b"server-0"] == 3

    perform("round_robin", test, failures=3, shun_seconds=1.0)


def test_requests_wait_at_the_switch_while_all_servers_are_busy_and_the_queue_is_bounded() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        begin = x.now
        answers = await settle(*(switch.http(Request("POST", "/", b"1")) for _ in range(10)))
        refused = [a for a in answers if isinstance(a, Failure)]
        assert [type(a) for a in refused] == [Overloaded] * 3
        assert 3.0 < x.now - begin < 3.1  # 3, then 3, then 1
        assert (await switch.counts()).refused == 3

    assert sum(perform("random", test, most=1, queue=4).values()) == 7


def test_servers_leave_and_join_under_load_and_nothing_is_lost() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        async def load() -> None:
            for _ in range(60):
                assert (await switch.http(Request("POST", "/", b"0.05"))).status == 200

        clients = [x.spawn(load()) for _ in range(6)]
        for i in range(3):
            await x.sleep(0.2)
            assert await switch.leave(f"server-{i}") == 0
            await x.control.crash(f"server-{i}")  # nobody notices
            await x.sleep(0.2)
            await x.control.restart(f"server-{i}")
            await switch.join(f"server-{i}")
        for client in clients:
            await client
        for i in (0, 1):
            await switch.leave(f"server-{i}")
        with pytest.raises(Failure, match="the last one"):
            await switch.leave("server-2")

    perform("least_connections", test)


def test_a_server_that_comes_back_has_the_requests_of_its_kind_again() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        await switch.leave("server-2")
        assert {(await switch.http(Request("GET", "/sort"))).body for _ in range(5)} == {b"server-1"}
        with pytest.raises(Failure, match="the last one"):
            await switch.leave("server-1")
        assert b"server-1" in {(await switch.http(GET)).body for _ in range(9)}, "it has left nothing"
        await switch.join("server-2")
        answers = {(await switch.http(GET)).body for _ in range(30)}
        assert answers == {b"server-0", b"server-1"}
        answers = {(await switch.http(Request("GET", "/sort"))).body for _ in range(30)}
        assert answers == {b"server-1", b"server-2"}

    branches = (Branch(("server-1", "server-2"), path="/sort"),)
    perform("random", test, backends=("server-0", "server-1"), branches=branches)


def test_who_waits_for_a_server_gets_it_from_requests_of_another_kind_too() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        begin = x.now
        slow = x.spawn(switch.http(Request("POST", "/", b"1")))
        await x.sleep(0.1)
        assert (await switch.http(Request("POST", "/sort"))).status == 200
        assert x.now - begin < 1.1
        await slow

    perform("random", test, backends=("server-0",), branches=(Branch(("server-0",), path="/sort"),), most=1)


def test_a_server_that_does_not_answer_is_not_asked_again_whether_it_is_there() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        await x.control.pause("server-0")
        await x.sleep(3.5)
        assert {(await switch.http(GET)).body for _ in range(9)} == {b"server-1", b"server-2"}
        await x.control.resume("server-0")
        await x.sleep(1.0)
        assert len({(await switch.http(GET)).body for _ in range(9)}) == 3

    requests = perform("round_robin", test, check_seconds=0.1, backend_seconds=1.0)
    assert requests["server-0"] < 20 < requests["server-1"]


def test_who_brings_the_cookie_gets_its_server_as_long_as_that_can_be_had() -> None:
    async def test(x: Experimenter, switch: Switch) -> None:
        async def visit(method: str = "GET", target: str = "/", cookie: str = "") -> Response:
            headers = {"cookie": f"other=1; home={cookie}"} if cookie else {}
            return await switch.http(Request(method, target, b"", headers))

        homes = [(await visit()).cookies for _ in range(3)]
        assert sorted(homes) == [(f"home=server-{i}; Path=/; HttpOnly",) for i in range(3)]
        for _ in range(6):
            answer = await visit("POST", cookie="server-1")
            assert (answer.body, answer.cookies) == (b"server-1", ())
        # Its session is there, so nobody else can answer, however busy or slow it is.
        assert (await visit(target="/busy", cookie="server-0")).status == 503
        assert (await visit(target="/slow", cookie="server-0")).body == b"server-0"
        assert (await switch.counts()).hedged == 0
        await x.control.crash("server-1")
        for cookie in ("server-1", "nobody"):
            answer = await visit(cookie=cookie)
            assert answer.cookies == (f"home={answer.body.decode()}; Path=/; HttpOnly",)
        await switch.leave("server-2")
        assert (await visit(cookie="server-2")).cookies == ("home=server-0; Path=/; HttpOnly",)

    perform("round_robin", test, sticky="home", hedge_seconds=0.1)


def test_a_connection_keeps_its_server_and_the_policy_counts_connections() -> None:
    async def test(x: Experimenter, switch: Connections) -> None:
        for _ in range(30):
            await switch.http(GET)  # one connection, as a client would keep it
        await gather(*(switch.http(Request("POST", "/", b"0.1")) for _ in range(6)))

    assert sorted(perform("least_connections", test, Connections).values()) == [2, 2, 32]


def test_a_client_of_a_transport_switch_cannot_know_why_it_was_cut_off() -> None:
    async def test(x: Experimenter, switch: Connections) -> None:
        await switch.http(GET)
        for i in range(3):
            await x.control.crash(f"server-{i}")
        with pytest.raises(Broken):
            await switch.http(GET)
        await x.control.restart("server-1")
        await x.sleep(0.6)
        for _ in range(5):
            assert (await switch.http(GET)).body == b"server-1"

    perform("round_robin", test, Connections)
