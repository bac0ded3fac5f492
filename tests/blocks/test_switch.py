"""The application-layer switch keeps its policy, and never asks twice for what may have happened."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from polyarch.blocks.switch import Switch
from polyarch.core import Http, Node, Request, Response, System, Timeout, Unreachable, gather
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
        await self.sleep(float(request.body or b"0"))
        return Response(200, self.address.encode())


def perform(policy: str, test: Any, **more: Any) -> dict[str, int]:
    """Run a test with a switch before three servers; the requests that each has got since its last start."""
    system = System()
    server = Server()
    system.role("server", server, count=3)
    switch = Switch(backends=system.addresses(server), policy=policy, **more)  # type: ignore[arg-type]
    system.role("switch", switch)
    system.clients(Node())
    with SimSession(system, seed=3) as session:
        session.perform(lambda x: test(x, x.at("switch-0", Switch)))
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
