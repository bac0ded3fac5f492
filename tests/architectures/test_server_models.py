"""The four models of a server: who waits for whom, what overload does, and who gets how much."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from polyarch.architectures.event_loop import EventLoop, EventLoopServer
from polyarch.architectures.single_threaded import SingleThreaded, SingleThreadedServer
from polyarch.architectures.thread_per_connection import ThreadPerConnection, ThreadPerConnectionServer
from polyarch.architectures.thread_pool import ThreadPool, ThreadPoolServer
from polyarch.blocks.servers import ComputeClient, Server
from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Http,
    Overloaded,
    Request,
    System,
    Thread,
    Timeout,
    gather,
    settle,
)
from polyarch.experiment.run import Question, run
from polyarch.jobs.compute import ComputeJob
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.local import threads
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

ALL = [SingleThreaded(), ThreadPerConnection(), ThreadPool(), EventLoop()]
NAMES = [type(model).__name__ for model in ALL]


def on_sim(model: Architecture, experiment: Callable[[Experimenter, Any], Any], seed: int = 0) -> Any:
    """Do something with a server over links that take no time."""
    with SimSession(model, seed=seed, network=Network(latency=Constant(0.0)), detailed=False) as session:
        return session.perform(lambda x: experiment(x, x.at("server-0", Server, timeout=math.inf)))


def throughput(model: Architecture, work: float, blocking: float, clients: int = 16) -> float:
    """Answers per second to clients that ask again and again, for 4 s."""

    async def experiment(x: Experimenter, server: Any) -> float:
        answered = 0

        async def client() -> None:
            nonlocal answered
            while x.now < 4.0:
                await server.increment(1, work, blocking)
                answered += x.now <= 4.0

        await gather(*(client() for _ in range(clients)))
        return answered / 4.0

    return float(on_sim(model, experiment))


# -- who waits for whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (SingleThreaded(), 100),
        (ThreadPerConnection(), 1600),
        (ThreadPool(threads=8), 800),
        (EventLoop(), 1600),
        (EventLoop(waiting="helper", helpers=4), 400),
        (EventLoop(waiting="loop"), 100),
    ],
)
def test_blocking_calls_of_10_ms_are_as_many_at_a_time_as_there_is_somebody_to_wait(
    model: Architecture, rate: float
) -> None:
    assert throughput(model, 0.0, 0.010) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("model", "cores"),
    [
        (SingleThreaded(), 1),
        (EventLoop(), 1),
        (ThreadPerConnection(cores=1), 1),
        (ThreadPerConnection(cores=4), 4),
        (ThreadPool(threads=8, cores=1), 1),
        (ThreadPool(threads=8, cores=4), 4),
        (ThreadPool(threads=2, cores=4), 2),
    ],
)
def test_no_model_computes_faster_than_the_cores_that_it_can_use(model: Architecture, cores: int) -> None:
    assert throughput(model, 0.010, 0.0) == pytest.approx(100 * cores, rel=0.01)


@pytest.mark.parametrize(
    ("model", "waits"),
    [(SingleThreaded(), 1.01), (EventLoop(), 1.01), (ThreadPerConnection(), 0.02), (ThreadPool(), 0.02)],
)
def test_a_short_request_waits_for_a_long_computation_only_where_there_is_one_thread(
    model: Architecture, waits: float
) -> None:
    async def experiment(x: Experimenter, server: Any) -> float:
        long = x.spawn(server_increment(server, 1.0))
        begin = x.now
        await server.increment(1, 0.010)
        took = x.now - begin
        await long
        assert x.now - begin == pytest.approx(1.01), "and the core is never idle"
        return took

    assert on_sim(model, experiment) == pytest.approx(waits, abs=1e-6)


async def server_increment(server: Any, work: float) -> None:
    await server.increment(1, work)


def test_threads_share_cores_equally() -> None:
    async def experiment(x: Experimenter, server: Any) -> list[float]:
        async def ask(work: float) -> float:
            await server.increment(1, work)
            return x.now

        return await gather(ask(1.0), ask(2.0), ask(3.0))

    # One core: all until 3 s, two until 5 s, one until 6 s.  Two: two thirds of a core each until 1.5 s, ...
    assert on_sim(ThreadPerConnection(cores=1), experiment) == pytest.approx([3.0, 5.0, 6.0], abs=1e-6)
    assert on_sim(ThreadPerConnection(cores=2), experiment) == pytest.approx([1.5, 2.5, 3.5], abs=1e-6)
    assert on_sim(ThreadPerConnection(cores=3), experiment) == pytest.approx([1.0, 2.0, 3.0], abs=1e-6)


# -- overload -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (SingleThreaded(queue=3), 4),
        (SingleThreaded(queue=0), 1),
        (SingleThreaded(queue=3, order="fair"), 4),
        (ThreadPerConnection(threads=4), 4),
        (ThreadPool(threads=2, queue=3), 5),
        (EventLoop(connections=4), 4),
    ],
)
def test_whoever_comes_when_there_is_no_place_is_refused_at_once(model: Architecture, places: int) -> None:
    async def experiment(x: Experimenter, server: Any) -> None:
        begin = x.now
        outcomes = []

        async def ask() -> None:
            try:
                await server.increment(1, 0.010, 0.010)
                outcomes.append("ok")
            except Overloaded:
                outcomes.append("refused")
                assert x.now == begin

        await settle(*(ask() for _ in range(12)))
        assert outcomes.count("ok") == places
        assert outcomes[: 12 - places] == ["refused"] * (12 - places)
        assert await server.increment(1) == 2, "there is place again"
        tally = await server.tally()
        assert (tally.arrived, tally.refused, tally.most) == (13, 12 - places, places)

    on_sim(model, experiment)


def goodput(model: Architecture, patience: float = 0.5) -> float:
    """Answers in time per second, when three times as much is asked for as one core can do: 1 ms each."""

    async def experiment(x: Experimenter, _: Any) -> float:
        server = x.at("server-0", Server, timeout=patience)
        random, answered = x.random.fork("load"), 0

        async def ask() -> None:
            nonlocal answered
            try:
                await server.increment(1, 0.001)
            except Failure:
                return
            answered += 1

        while x.now < 4.0:
            await x.sleep(random.exponential(1 / 3000))
            x.spawn(ask())
        return answered / 4.0

    return float(on_sim(model, experiment))


def test_a_bounded_server_degrades_under_overload_and_one_without_a_bound_collapses() -> None:
    for bounded in SingleThreaded(), ThreadPerConnection(), ThreadPool(), EventLoop(connections=200):
        assert goodput(bounded) > 950, bounded.name
    for unbounded in SingleThreaded(queue=10**9, deadlines=False), ThreadPerConnection(threads=10_000):
        assert goodput(unbounded) < 200, unbounded.name


@pytest.mark.parametrize(
    "model",
    [
        SingleThreaded(queue=10**9),
        SingleThreaded(queue=10**9, order="fair"),
        ThreadPool(queue=10**9),  # eight threads share a core: what is begun takes eight times as long
        EventLoop(connections=10**9),
    ],
)
def test_a_server_that_heeds_deadlines_does_not_collapse_however_long_its_queue_is(
    model: Architecture,
) -> None:
    assert goodput(model) > 950


def shares(model: Architecture) -> tuple[float, float]:
    """What fairness a run under overload says, when few clients ask for most; and what it refuses."""
    job = ComputeJob(skew=1.5, blocks=0.0)
    record = run(Question(model, job, rate=2500.0, duration=1.0))
    assert all(verdict.holds for verdict in record.verdicts)
    return record.metrics["fairness"], record.metrics["refused_share"]


def test_a_fair_queue_gives_clients_alike_and_one_in_order_gives_those_more_who_ask_more() -> None:
    for kind in SingleThreaded, ThreadPool:
        (fifo, refused), (fair, refused_too) = shares(kind(order="fifo")), shares(kind(order="fair"))
        assert fifo < 0.5
        assert fair > 1.5 * fifo
        assert refused == pytest.approx(refused_too, abs=0.03)


def test_a_fair_queue_answers_or_refuses_everybody() -> None:
    async def experiment(x: Experimenter, server: Any) -> None:
        asked = [server.increment(i, 0.001, 0.0, i % 3 if i < 60 else i) for i in range(70)]
        outcomes = await settle(*asked)
        answered = [i for i, value in enumerate(outcomes) if value == i + 1]
        assert len(answered) == 11
        assert sum(isinstance(value, Overloaded) for value in outcomes) == 59
        assert {60, 61, 62, 63, 64} <= set(answered), "those who ask once are served"
        tally = await server.tally()
        assert tally.refused == 59
        assert sum(tally.served.values()) == 11

    on_sim(SingleThreaded(queue=10, order="fair"), experiment)


# -- as any architecture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ALL, ids=NAMES)
def test_every_answer_is_right_also_when_the_server_crashes_and_comes_back(model: Architecture) -> None:
    question = Question(
        model, ComputeJob(), rate=300.0, duration=3.0, faults=("crash:server-0@1-2", "pause:server-0@2.5-2.6")
    )
    record, again = run(question), run(question)
    assert all(verdict.holds for verdict in record.verdicts)
    assert 500 < record.operations.ok < 800, "nothing is answered while it is down"
    assert record.trace_hash == again.trace_hash


@pytest.mark.parametrize("model", ALL, ids=NAMES)
def test_over_http_refusal_is_503_and_says_when_to_come_again(model: Architecture) -> None:
    small = type(model)(**{"connections": 1} if isinstance(model, EventLoop) else _one_place(model))

    async def experiment(x: Experimenter, _: Any) -> None:
        http = x.at("server-0", Http, timeout=5.0)
        first, second = await gather(
            http.http(Request("GET", "/add?a=1&b=2.5&blocking=0.1")),
            http.http(Request("GET", "/increment?value=1")),
        )
        assert (first.status, first.body) == (200, b"3.5")
        assert second.status == 503
        assert second.headers["retry-after"] == "1"
        assert b"overloaded" in second.body
        sort = Request("POST", "/sort", b'{"numbers": [3, 1, 2]}')
        assert (await http.http(sort)).body == b"[1.0,2.0,3.0]"
        assert (await http.http(Request("GET", "/block?seconds=100"))).status == 400

    on_sim(small, experiment)


def _one_place(model: Architecture) -> dict[str, int]:
    return {name: 1 if name == "threads" else 0 for name in ("threads", "queue") if name in model.parameters}


def test_more_work_than_a_minute_or_less_than_none_is_refused() -> None:
    async def experiment(x: Experimenter, server: Any) -> None:
        for bad in (-0.001, 61.0, math.nan, math.inf):
            with pytest.raises(BadArguments):
                await server.increment(1, bad)
            with pytest.raises(BadArguments):
                await server.block(bad)

    on_sim(SingleThreaded(), experiment)


@pytest.mark.parametrize("model", [SingleThreaded(), ThreadPool(threads=1), EventLoop()])
def test_a_request_that_waits_longer_than_its_sender_is_not_begun(model: Architecture) -> None:
    async def experiment(x: Experimenter, server: Any) -> None:
        impatient = x.at("server-0", Server, timeout=0.5)
        long, late, last = await settle(
            server.increment(1, 1.0), impatient.increment(2, 0.1), server.increment(3, 0.1)
        )
        assert (long, last) == (2, 4)
        assert isinstance(late, Timeout)
        assert x.now == pytest.approx(1.1), "nothing was done for the second one"
        tally = await server.tally()
        assert (tally.refused, tally.late) == (1, 1)
        # Not enough is left: it is refused as soon as that can be seen.
        long, late = await settle(server.increment(1, 0.4), impatient.increment(2, 0.2))
        assert isinstance(late, Overloaded)

    on_sim(model, experiment)


def test_a_request_that_nobody_waits_for_any_more_ends_and_the_next_is_served() -> None:
    async def experiment(x: Experimenter, server: Any) -> None:
        with pytest.raises(Timeout):
            await x.at("server-0", Server, timeout=0.05).increment(1, 0.0, 0.2)
        assert await server.increment(1) == 2
        await x.sleep(0.3)
        tally = await server.tally()
        assert tally.seconds >= 0.2
        assert sum(tally.served.values()) == 2

    for model in ALL:
        on_sim(model, experiment)


class Starved(ThreadPerConnectionServer):
    """On a machine that has no more threads, but one."""

    async def start(self) -> None:
        await super().start()
        self.left = 1

    def thread(self) -> Thread:
        self.left -= 1
        if self.left < 0:
            raise Overloaded("can't start new thread")
        return super().thread()


def test_a_connection_for_which_there_is_no_thread_is_refused_and_does_not_count_as_open() -> None:
    class Machine(ThreadPerConnection):
        def build(self, system: System) -> None:
            server = Starved(threads=2)
            system.role("server", server)
            system.clients(ComputeClient(front=server))

    async def experiment(x: Experimenter, server: Any) -> None:
        assert await server.increment(1) == 2
        for _ in range(5):
            with pytest.raises(Overloaded, match="new thread"):
                await server.increment(1)
        assert (await server.tally()).refused == 5

    on_sim(Machine(), experiment)


class Street(Architecture):
    """All four, side by side."""

    family = "client-server"
    source = "a test"
    jobs = (ComputeJob,)

    def build(self, system: System) -> None:
        first = SingleThreadedServer(queue=3)
        system.role("single", first)
        system.role("connection", ThreadPerConnectionServer())
        system.role("pool", ThreadPoolServer(threads=4, deadlines=True))
        system.role("event", EventLoopServer())
        system.role("helped", EventLoopServer(waiting="helper", helpers=4))
        system.clients(ComputeClient(front=first))


def test_sockets_wait_for_work_no_longer_than_work_has_waited_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]

    def passes(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(threads.time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    shares = threads.Shares()
    for flood, pieces in ((0.004, 4), (0.0005, 1), (1.0, 10)):  # pieces of 1 ms; 10 ms at most
        passes(flood)
        shares.looked()
        done = 0
        while done == 0 or shares.due():
            passes(0.00101)
            shares.worked()
            done += 1
        assert done == pieces


@pytest.mark.local
def test_live_threads_block_at_the_same_time_and_a_single_one_blocks_everybody() -> None:
    async def experiment(x: Experimenter) -> dict[str, float]:
        took = {}
        for role in ("single", "connection", "pool", "event", "helped"):
            server = x.at(f"{role}-0", Server, timeout=20.0)
            assert await server.sort((2.0, 1.0), 0.01) == (1.0, 2.0)
            begin = x.now
            ends: list[float] = []

            async def ask(server: Any = server, ends: list[float] = ends) -> None:
                assert await server.block(0.25, 0.001) == 0.25
                ends.append(x.now)

            await gather(*(ask() for _ in range(4)))
            took[role] = ends[-1] - begin
            assert ends[0] - begin < 0.75, "an answer leaves before the next request is done"
        outcomes = await settle(*(x.at("single-0", Server, timeout=20.0).block(0.02) for _ in range(12)))
        refused = sum(isinstance(outcome, Overloaded) for outcome in outcomes)
        assert 0 < refused <= 8, "a bounded queue refuses; how many depends on when it looks"
        http = await x.client.add(1.0, 2.0)
        assert http == 3.0
        # All threads are busy, and who waits behind them gives up.
        pool, busy = x.at("pool-0", Server, timeout=20.0), x.at("pool-0", Http, timeout=0.05)
        blocked = [x.spawn(pool.block(0.3)) for _ in range(4)]
        await x.sleep(0.05)
        with pytest.raises(Timeout):
            await busy.http(Request("GET", "/increment?value=1"))
        await gather(*blocked)
        assert await pool.increment(1) == 2
        tally = await pool.tally()
        assert (tally.late, tally.refused) == (1, 1)
        return took

    with open_session("local", Street(), seed=1) as session:
        took = session.perform(experiment)
    assert took["single"] >= 1.0
    for role in ("connection", "pool", "event", "helped"):
        assert 0.25 <= took[role] < 0.9, role
