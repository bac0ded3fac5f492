"""Servers behind switches: the job is done, on both layers; clients and servers of bad manners do no harm."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from rude_upstream import RudeUpstream

from polyarch.architectures.application_switch import ApplicationSwitch, weights_of
from polyarch.architectures.transport_switch import TransportLayerSwitch
from polyarch.blocks.switch import Switch
from polyarch.cli.main import _front
from polyarch.core import Architecture, BadArguments, Broken, Failure, System, gather
from polyarch.experiment.run import Question, run
from polyarch.jobs.compute import ComputeJob
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


def asked(architecture: Architecture, work: float = 0.001, **more: Any) -> Any:
    return run(Question(architecture, ComputeJob(work=work), duration=4.0, **more))


@pytest.mark.parametrize("route", ["none", "path", "header", "cookie", "content"])
def test_requests_to_sort_go_where_they_are_meant_to(route: Any) -> None:
    architecture = ApplicationSwitch(servers=3, route=route, policy="random")
    with SimSession(architecture, seed=1) as session:

        async def test(x: Experimenter) -> None:
            await gather(*(x.client.sort((3.0, 1.0), 0.1) for _ in range(20)))

        session.perform(test)
        busy = [session.kernel.processes[f"server-{i}"].busy_ns for i in range(3)]
    assert busy[2] > 0
    assert (busy[0] + busy[1] == 0) == (route != "none")


def test_a_request_that_would_occupy_a_server_for_ever_is_refused() -> None:
    async def test(x: Experimenter) -> None:
        for seconds in (-1.0, 61.0, math.nan, math.inf):
            for asked in (x.client.add(1.0, 2.0, seconds), x.client.block(seconds)):
                with pytest.raises(BadArguments):
                    await asked

    with SimSession(ApplicationSwitch(servers=1), seed=1) as session:
        session.perform(test)


@pytest.mark.parametrize("kind", [ApplicationSwitch, TransportLayerSwitch])
def test_a_server_that_crashes_costs_at_most_what_it_had(kind: type[Architecture]) -> None:
    record = asked(kind(servers=4), rate=200.0, faults=("crash:server-1@1-2",))
    assert record.operations.attempted > 500
    lost = record.operations.failed + record.operations.unknown
    # The application switch asks again elsewhere for what is safe to repeat.
    assert lost <= 3
    assert all(v.holds for v in record.verdicts)


def test_wrong_settings_are_refused_in_one_line() -> None:
    for text in ("x", "1,-1", "1,1,1,1", "0"):
        with pytest.raises(ValueError, match="--weights takes up to 3 positive numbers"):
            weights_of(text, ("a", "b", "c"), "weighted")
    for architecture, problem in (
        (ApplicationSwitch(servers=2, route="path", sorters=2), "leave none for the rest"),
        (ApplicationSwitch(switch="caddy", policy="maglev"), "Caddy is not used with"),
        (ApplicationSwitch(switch="caddy", route="path"), "--route is for our switch: use --switch ours"),
        (ApplicationSwitch(switch="caddy", hedge=0.1), "--hedge is for our switch"),
        (ApplicationSwitch(switch="caddy", policy="weighted", weights="1.5"), "Caddy takes whole weights"),
        (ApplicationSwitch(policy="maglev", weights="2"), "--weights mean nothing to --policy maglev"),
        (ApplicationSwitch(affinity="cookie"), "--affinity takes"),
        (ApplicationSwitch(affinity="colour"), "--affinity takes"),
        (ApplicationSwitch(sticky="a b"), "--sticky takes the name of a cookie"),
        (TransportLayerSwitch(switch="traefik"), "say --policy round_robin"),
        (TransportLayerSwitch(switch="traefik", policy="weighted", weights="0.5"), "whole weights"),
        (TransportLayerSwitch(switch="traefik", policy="weighted", processes=2), "--processes is for our"),
    ):
        with pytest.raises(ValueError, match=problem):
            architecture.build(System())


@pytest.mark.parametrize(
    "architecture",
    [
        ApplicationSwitch(),
        ApplicationSwitch(switch="caddy"),
        TransportLayerSwitch(),
        TransportLayerSwitch(switch="traefik", policy="weighted", weights="3"),
    ],
)
def test_what_serves_is_the_switch(architecture: Architecture) -> None:
    system = System()
    architecture.build(system)
    assert _front(system) == "switch-0"


# -- live -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live() -> Iterator[Any]:
    with open_session("local", RudeUpstream()) as session:
        yield session


def connected(live: Any) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", live.process.http_ports["switch-0"]), timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def answer(stream: Any) -> tuple[int, bytes]:
    status = int(stream.readline().split()[1])
    size = 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    return status, stream.read(size)


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


@pytest.mark.local
def test_an_upstream_that_dies_in_mid_response_is_told_to_the_client_who_can_go_on(live: Any) -> None:
    with connected(live) as sock, sock.makefile("rb") as stream:
        for path in ("/die", "/garbage"):
            sock.sendall(get(path))
            status, body = answer(stream)
            assert (status, json.loads(body)["error"]) == (502, "broken")
            sock.sendall(get("/fine"))
            assert answer(stream) == (200, b"/fine")


@pytest.mark.local
def test_pipelined_requests_are_answered_in_order(live: Any) -> None:
    with connected(live) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"".join(get(f"/{i}") for i in range(20)) + get("/die") + get("/last"))
        assert [answer(stream) for _ in range(20)] == [(200, b"/%d" % i) for i in range(20)]
        assert answer(stream)[0] == 502
        assert answer(stream) == (200, b"/last")


@pytest.mark.local
def test_headers_that_are_too_large_or_wrong_are_refused(live: Any) -> None:
    for request, status in (
        (get("/", "X-Large: " + "x" * 20_000 + "\r\n"), 431),
        (get("/" + "x" * 9_000), 414),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (get("/", "Content-Length: 99999999\r\n"), 413),
    ):
        with connected(live) as sock, sock.makefile("rb") as stream:
            sock.sendall(request)
            assert answer(stream)[0] == status
            assert stream.read() == b""  # and it is closed


@pytest.mark.local
def test_slow_half_open_and_vanishing_clients_cost_only_themselves(live: Any) -> None:
    switch = psutil.Process(live._children["switch-0"].pid)
    slow = [connected(live) for _ in range(30)]
    for sock in slow:
        sock.sendall(b"GET /slow HTTP/1.1\r\nHo")  # and then nothing for now
    with connected(live) as sock, sock.makefile("rb") as stream:
        begin = time.monotonic()
        for _ in range(10):
            sock.sendall(get("/"))
            assert answer(stream) == (200, b"/")
        assert time.monotonic() - begin < 10
        sock.sendall(get("/half-open"))
        sock.shutdown(socket.SHUT_WR)
        assert answer(stream) == (200, b"/half-open")
    for sock in slow[:10]:
        sock.sendall(b"st: x\r\n\r\n")
        with sock.makefile("rb") as stream:
            assert answer(stream) == (200, b"/slow")
    port = live.process.http_ports["switch-0"]
    for sock in slow:
        sock.close()
    for _ in range(100):
        left = [c for c in switch.net_connections("tcp") if c.laddr.port == port and c.status != "LISTEN"]
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"{len(left)} connections are left")


@pytest.mark.local
def test_servers_come_go_and_are_killed_under_load_and_no_request_is_lost_that_could_be_saved() -> None:
    safe: list[Any] = []
    unsafe: list[Any] = []

    async def ask(x: Experimenter, outcomes: list[Any], operation: Any) -> None:
        try:
            outcomes.append(await operation())
        except Failure as failure:
            outcomes.append(failure)

    async def test(x: Experimenter) -> None:
        switch = x.at("switch-0", Switch)
        over = False

        async def load(outcomes: list[Any], operation: Any) -> None:
            while not over:
                await ask(x, outcomes, operation)

        gets = [x.spawn(load(safe, lambda: x.client.add(1.0, 2.0, 0.0, 0.02))) for _ in range(6)]
        posts = [x.spawn(load(unsafe, lambda: x.client.sort((2.0, 1.0), 0.0, 0.02))) for _ in range(6)]
        await x.sleep(0.3)
        assert await switch.leave("server-0") == 0
        await x.control.crash("server-0")  # nobody notices
        await x.sleep(0.2)
        await x.control.restart("server-0")
        await switch.join("server-0")
        await x.sleep(0.2)
        assert len(unsafe) > 20
        assert not [o for o in unsafe if isinstance(o, Failure)]
        await x.control.crash("server-1")  # what it has not answered may have happened
        await x.sleep(0.4)
        over = True
        for task in (*gets, *posts):
            await task
        assert (await switch.counts()).refused == 0

    session: Any
    with open_session("local", ApplicationSwitch(servers=3)) as session:
        switch = psutil.Process(session._children["switch-0"].pid)
        session.perform(test)
        dead = session.process.http_ports["server-1"]
        held = switch.net_connections("tcp")
        assert [
            c for c in held if c.status == psutil.CONN_CLOSE_WAIT or (c.raddr and c.raddr.port == dead)
        ] == []
        assert switch.num_fds() < 80, "12 from clients, and as many to each server at most"
        # Who serves users goes on without a server, and not without the switch.
        told: list[str] = []
        os.kill(session._children["server-2"].pid, signal.SIGKILL)
        session.wait(0.5, "switch-0", told.append)
        assert [line.partition(" ended ")[0] for line in told] == ["server-2"]
        switch.kill()
        begin = time.monotonic()
        session.wait(30.0, "switch-0", told.append)
        assert time.monotonic() - begin < 20
    assert {o if not isinstance(o, Failure) else type(o) for o in safe} == {3.0}
    lost = [o for o in unsafe if isinstance(o, Failure)]
    assert len(lost) <= 6
    assert all(isinstance(failure, Broken) for failure in lost)
