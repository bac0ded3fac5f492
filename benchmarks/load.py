"""The load generator: does it tell the truth about a server that stalls, and how fast is it on one core?

1. **Truth.**  A server in another process holds all requests that arrive in the first 200 ms of every
   second until those 200 ms are over.  At a steady rate from an open-loop generator a fifth of all requests
   then wait, between 0 and 200 ms, evenly: the true p90 is 100 ms and the true p99 is 190 ms.  A generator
   that waits for answers before it sends the next request (coordinated omission) would report far less.
2. **Maximum rate** on one core, closed loop, against a server that does nothing but parse and answer.
   Generator and server have a process each; the rate per CPU second of the generator is what one core
   could send if the server, the other core and the neighbours were never in the way.
3. **Pacing**: how late the generator itself is at 20,000 requests/s, open loop.

    python benchmarks/load.py [--json FILE|-] [--runs N] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import httptools
import uvloop

from common import arguments, emit, environment, shown
from polyarch.core.errors import Failure
from polyarch.measure.histogram import Histogram
from polyarch.measure.pacing import Pacer, Timer, precise_timer, steady
from polyarch.measure.statistics import spread
from polyarch.runtimes.local.http_client import HttpPool

STALL_NS = 200_000_000
SECOND_NS = 1_000_000_000
TRUTH_MS = {"p90": 100.0, "p99": 190.0}
TRUTH_RATE = 1_000
PACED_RATE = 20_000
TOLERANCE = 0.05
TARGET_RATE = 40_000
CLOSED_LOOPS = ((32, 1), (64, 1), (64, 4))
"""Connections and requests in flight on each; the first two are not pipelined."""

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"


# --- the servers, in a process of their own ------------------------------------------------------------


class PlainServer(asyncio.Protocol):
    """The least that is still an HTTP server: parse, answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(ANSWER)


class StallingServer(PlainServer):
    """Answers at once, except in the first 200 ms of every second of the monotonic clock."""

    held: ClassVar[list[Any]] = []
    timer: ClassVar[Timer | None] = None

    def on_message_complete(self) -> None:
        now = time.perf_counter_ns()
        stalled = now % SECOND_NS < STALL_NS
        if not stalled:
            self.transport.write(ANSWER)
            return
        if not self.held:
            # The loop's own timer rounds to a millisecond: 1 % of the true p90.
            StallingServer.timer = StallingServer.timer or precise_timer(self.release)
            StallingServer.timer.arm(now - now % SECOND_NS + STALL_NS)
        self.held.append(self.transport)

    @classmethod
    def release(cls) -> None:
        held, cls.held = cls.held, []
        for transport in held:
            transport.write(ANSWER)


async def serve(protocol: Callable[[], asyncio.Protocol]) -> None:
    """Print the port, and serve until standard input closes, which it does when the parent dies."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    orphaned = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), orphaned.set)
    await orphaned.wait()


@contextmanager
def server(kind: str) -> Iterator[int]:
    """Run a server and give its port."""
    command = [sys.executable, __file__, "--serve", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # it ends; leaving the block waits for that


# --- the generator -------------------------------------------------------------------------------------


async def open_loop(port: int, rate: float, seconds: float) -> dict[str, Any]:
    """Send at a steady rate; latencies count from the intended times."""
    latency = Histogram()
    failed = 0
    answered = 0
    over = asyncio.Event()
    expected = round(rate * seconds)
    clock = time.perf_counter_ns

    async with HttpPool("127.0.0.1", port, limit=256) as pool:
        await warm_up(pool)

        def due(i: int, intended: int) -> None:
            def done(status: int, body: bytes, failure: Failure | None) -> None:
                nonlocal failed, answered
                if status == 200:
                    latency.record(clock() - intended)
                else:
                    failed += 1
                answered += 1
                if answered == expected:
                    over.set()

            pool.request("GET", "/", b"", b"", done)

        pacer = Pacer(steady(rate, seconds), due)
        cpu = time.process_time()
        await pacer.run()
        await over.wait()
        cpu = time.process_time() - cpu
    return {
        "sent": pacer.sent,
        "failed": failed,
        "latency_ms": latency.summary(),
        "lateness_ms": pacer.lateness.summary(),
        "generator_cpu_s": cpu,
    }


async def closed_loop(port: int, connections: int, pipeline: int, seconds: float) -> dict[str, Any]:
    """Keep every connection full, and count answers; latency is recorded, as in a real run."""
    latency = Histogram()
    in_flight = connections * pipeline
    running = True
    ended = 0
    failed = 0
    over = asyncio.Event()
    clock = time.perf_counter_ns

    async with HttpPool("127.0.0.1", port, limit=connections, pipeline=pipeline) as pool:
        await warm_up(pool)

        def client() -> None:
            """One client of the closed loop: when an answer comes, it asks again."""
            begun = 0

            def ask() -> None:
                nonlocal begun
                begun = clock()
                pool.request("GET", "/", b"", b"", done)

            def done(status: int, body: bytes, failure: Failure | None) -> None:
                nonlocal ended, failed
                if status == 200:
                    latency.record(clock() - begun)
                else:
                    failed += 1
                if running:
                    ask()
                else:
                    ended += 1
                    if ended == in_flight:
                        over.set()

            ask()

        wall, cpu = clock(), time.process_time()
        for _ in range(in_flight):
            client()
        await asyncio.sleep(seconds)
        running = False
        await over.wait()
        wall_s, cpu_s = (clock() - wall) / SECOND_NS, time.process_time() - cpu
    return {
        "connections": connections,
        "pipeline": pipeline,
        "requests": latency.count,
        "failed": failed,
        "rate_per_s": latency.count / wall_s,
        "rate_per_generator_cpu_s": latency.count / cpu_s,
        "generator_cpu_us_per_request": cpu_s / max(1, latency.count) * 1e6,
        "latency_ms": latency.summary(),
    }


async def warm_up(pool: HttpPool) -> None:
    """Open the pool's connections before anything is measured."""
    for _ in range(3):
        await asyncio.gather(*(pool.fetch("GET", "/") for _ in range(pool.limit)))


def measure(work: Any) -> dict[str, Any]:
    """Run on uvloop, with what the interpreter already holds out of the collector's way."""
    gc.collect()
    gc.freeze()
    result: dict[str, Any] = uvloop.run(work)
    return result


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], runs=5)
    parser.add_argument("--serve", choices=("plain", "stalling"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(PlainServer if options.serve == "plain" else StallingServer))
        return 0

    runs = 2 if options.quick else options.runs
    truth_s, paced_s, closed_s = (2, 1, 0.5) if options.quick else (10, 5, 3)
    truths: list[dict[str, Any]] = []
    paced: list[dict[str, Any]] = []
    closed: dict[tuple[int, int], list[dict[str, Any]]] = {shape: [] for shape in CLOSED_LOOPS}
    with server("stalling") as stalling, server("plain") as plain:
        for _ in range(runs):  # interleaved, so that a noisy minute falls on all of them
            truths.append(measure(open_loop(stalling, TRUTH_RATE, truth_s)))
            paced.append(measure(open_loop(plain, PACED_RATE, paced_s)))
            for shape, results in closed.items():
                results.append(measure(closed_loop(plain, *shape, closed_s)))
    return report(options, runs, truths, paced, closed)


def report(
    options: Any,
    runs: int,
    truths: list[dict[str, Any]],
    paced: list[dict[str, Any]],
    closed: dict[tuple[int, int], list[dict[str, Any]]],
) -> int:
    """Print and write what was measured; 1 when a target was missed."""
    rows: list[tuple[str, str, str]] = []
    verdicts: list[dict[str, Any]] = []
    record: dict[str, Any] = {
        "benchmark": "load",
        "runs": runs,
        "environment": environment("uvloop", "httptools"),
    }

    def figure(
        name: str, values: list[float], target: str = "", holds: bool | None = None, digits: int = 1
    ) -> None:
        measured = spread(values)
        record.setdefault("figures", {})[name] = measured.to_dict()
        rows.append(
            (
                name,
                shown(measured, digits),
                target if holds is None else f"{target}: {'yes' if holds else 'NO'}",
            )
        )
        if holds is not None:
            verdicts.append(
                {"name": name, "holds": holds, "detail": f"{target}, measured {shown(measured, digits)}"}
            )

    for name in ("p50", "p90", "p99", "max"):
        values = [run["latency_ms"][name] for run in truths]
        truth = TRUTH_MS.get(name)
        if truth is None:
            figure(f"stalling server, {name} ms", values)
        else:
            worst = max(abs(value - truth) / truth for value in values)
            target = f"{truth:.0f} within {TOLERANCE:.0%}, every run (worst {worst:.1%})"
            figure(f"stalling server, {name} ms", values, target, worst <= TOLERANCE)
    for connections, pipeline in CLOSED_LOOPS:
        results = closed[connections, pipeline]
        label = f"{connections} connections" + (f" x {pipeline} pipelined" if pipeline > 1 else "")
        rates = [run["rate_per_s"] for run in results]
        target = f"at least {TARGET_RATE:,}/s"
        figure(f"{label}, requests/s", rates, target, spread(rates).median >= TARGET_RATE, digits=0)
        per_cpu = [run["rate_per_generator_cpu_s"] for run in results]
        figure(f"{label}, requests per generator CPU second", per_cpu, digits=0)
    for name in ("p50", "p99", "max"):
        figure(
            f"{PACED_RATE:,}/s, pacer late by, {name} ms",
            [run["lateness_ms"][name] for run in paced],
            digits=3,
        )
    figure(f"{PACED_RATE:,}/s, latency p99 ms", [run["latency_ms"]["p99"] for run in paced], digits=3)
    failed = sum(
        run["failed"] for run in [*truths, *paced, *(run for shape in closed.values() for run in shape)]
    )
    verdicts.append({"name": "no request failed", "holds": failed == 0, "detail": f"{failed} failed"})

    record["verdicts"] = verdicts
    record["measured"] = {
        "stalling": truths,
        "paced": paced,
        "closed_loop": [run for results in closed.values() for run in results],
    }
    title = f"Load generator: median (smallest .. largest) of {runs} runs"
    emit(options, record, title, ("figure", "measured", "target"), rows)
    return 0 if all(verdict["holds"] for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
