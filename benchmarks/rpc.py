"""Live calls per second between two processes: the local runtime, a bare echo, and gRPC.

The caller calls ``echo(number, text)`` with a text of 32 characters and 1, 32 or 256 calls in flight.

* **polyarch**: two node processes of a live session; the calls are made by a node (`rpc_system.py`), with
  everything that a call has: schema checks on both sides, a timeout, counted messages and bytes, broken and
  refused connections told apart.
* **bare**: an echo as one writes it: uvloop protocols that decode and encode ``[id, number, text]`` with
  msgspec in length-prefixed frames, each written when it is made, and calls awaited by coroutines through
  asyncio's futures.  No timeouts and no checks.  The target is measured against it.
* **batched**: the same, but all that one turn of the loop makes leaves in one write.  No target.
* **unawaited**: the ceiling of this machine: batched, and a caller that only looks the id up among the calls
  in flight and sends the next; no coroutines and no futures either.  No target.
* **gRPC**: grpc.aio with generic handlers and raw bytes, so without protobuf; a coroutine per call in
  flight.

    python benchmarks/rpc.py [--json FILE|-] [--runs N] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
import msgspec
import uvloop

from common import arguments, emit, environment, shown
from polyarch.measure.statistics import paired_ratio, spread
from polyarch.runtimes import open_session
from rpc_system import Rpc

IN_FLIGHT = (1, 32, 256)
CALLS = {
    "polyarch": (10_000, 100_000, 100_000),
    "bare": (20_000, 100_000, 100_000),
    "batched": (20_000, 100_000, 100_000),
    "unawaited": (20_000, 200_000, 200_000),
    "gRPC": (3_000, 3_000, 3_000),
}
TEXT = "x" * 32
PART = 0.6
"""At least this part of the bare echo's rate."""
TIMES_GRPC = 5.0

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


# --- polyarch ------------------------------------------------------------------------------------------


def polyarch(calls: tuple[int, ...]) -> list[float]:
    async def experiment(x: Any) -> list[float]:
        await x.client.measure(32, 2_000, TEXT)
        return [n / await x.client.measure(flying, n, TEXT) for flying, n in zip(IN_FLIGHT, calls)]

    with open_session("local", Rpc()) as session:
        return session.perform(experiment)


# --- a bare echo ---------------------------------------------------------------------------------------


class Frames(asyncio.Protocol):
    """Frames with four bytes of length; what `handle` returns for each leaves in one write."""

    rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        at, size, out = 0, len(data), []
        while size - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > size:
                break
            answer = self.handle(decode(data[at + 4 : end]))
            if answer is not None:
                out.append(len(answer).to_bytes(4, "big"))
                out.append(answer)
            at = end
        self.rest = data[at:]
        if out:
            self.transport.write(b"".join(out))

    def handle(self, frame: Any) -> bytes | None:
        raise NotImplementedError


class EchoServer(Frames):
    def handle(self, frame: Any) -> bytes | None:
        call, _, text = frame
        return encode((call, text))


class PlainServer(EchoServer):
    """Writes each answer when it is made."""

    def handle(self, frame: Any) -> bytes | None:
        answer = super().handle(frame)
        assert answer is not None
        self.transport.write(len(answer).to_bytes(4, "big") + answer)
        return None


class UnawaitedCaller(Frames):
    def start(self, in_flight: int, calls: int) -> asyncio.Future[None]:
        self.calls = calls
        self.sent = 0
        self.waiting: dict[int, None] = {}
        self.over = asyncio.get_running_loop().create_future()
        frames = [self.next() for _ in range(in_flight)]
        self.transport.write(b"".join(len(f).to_bytes(4, "big") + f for f in frames))
        return self.over

    def next(self) -> bytes:
        self.sent = call = self.sent + 1
        self.waiting[call] = None
        return encode((call, call, TEXT))

    def handle(self, frame: Any) -> bytes | None:
        call, _ = frame
        del self.waiting[call]
        if self.sent < self.calls:
            return self.next()
        if not self.waiting:
            self.over.set_result(None)
        return None


class BatchedCaller(Frames):
    """A coroutine for each call in flight, a future for each call, one write for each turn of the loop."""

    def start(self, in_flight: int, calls: int) -> asyncio.Future[Any]:
        self.loop = asyncio.get_running_loop()
        self.answers: dict[int, asyncio.Future[str]] = {}
        self.out: list[bytes] = []
        numbers = iter(range(calls))
        return asyncio.gather(*(self.worker(numbers) for _ in range(in_flight)))

    async def worker(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            answer = self.answers[number] = self.loop.create_future()
            frame = encode((number, number, TEXT))
            self.send(len(frame).to_bytes(4, "big") + frame)
            await answer

    def send(self, data: bytes) -> None:
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(data)

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))
        self.out.clear()

    def handle(self, frame: Any) -> None:
        call, text = frame
        self.answers.pop(call).set_result(text)


class BareCaller(BatchedCaller):
    """Writes each request when it is made."""

    def send(self, data: bytes) -> None:
        self.transport.write(data)


CALLERS = {"bare": BareCaller, "batched": BatchedCaller, "unawaited": UnawaitedCaller}
SERVERS = {"bare": PlainServer, "batched": EchoServer, "unawaited": EchoServer}


async def serve_echo(kind: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(SERVERS[kind], "127.0.0.1", 0)
    await until_orphaned(server.sockets[0].getsockname()[1])


async def echo(kind: str, calls: tuple[int, ...]) -> list[float]:
    with server(kind) as port:
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(CALLERS[kind], "127.0.0.1", port)
        await caller.start(32, 2_000)
        return [await timed(n, caller.start(flying, n)) for flying, n in zip(IN_FLIGHT, calls)]


# --- gRPC ----------------------------------------------------------------------------------------------


async def serve_grpc() -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await until_orphaned(port)
    await server.stop(0)


async def grpc_aio(calls: tuple[int, ...]) -> list[float]:
    with server("gRPC") as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            echo = channel.unary_unary("/Echo/echo")
            payload = TEXT.encode()

            async def worker(numbers: Iterator[int]) -> None:
                for _ in numbers:
                    await echo(payload)

            async def run(in_flight: int, count: int) -> None:
                numbers = iter(range(count))
                await asyncio.gather(*(worker(numbers) for _ in range(in_flight)))

            await run(32, 500)
            return [await timed(n, run(flying, n)) for flying, n in zip(IN_FLIGHT, calls)]


# --- measuring -----------------------------------------------------------------------------------------


async def until_orphaned(port: int) -> None:
    """Print the port, and serve until standard input closes, which it does when the parent dies."""
    gc.collect()
    gc.freeze()
    print(port, flush=True)
    orphaned = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), orphaned.set)
    await orphaned.wait()


@contextmanager
def server(kind: str) -> Iterator[int]:
    """Run a server in another process and give its port."""
    command = [sys.executable, __file__, "--serve", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # it ends; leaving the block waits for that


async def timed(calls: int, work: Any) -> float:
    """Calls per second."""
    begun = time.perf_counter()
    await work
    return calls / (time.perf_counter() - begun)


def contestant(name: str, calls: tuple[int, ...]) -> list[float]:
    """Calls per second with each number in flight."""
    if name == "polyarch":
        return polyarch(calls)
    gc.collect()
    gc.freeze()
    rates: list[float] = uvloop.run(echo(name, calls) if name in CALLERS else grpc_aio(calls))
    return rates


def alone(name: str, calls: tuple[int, ...]) -> list[float]:
    """Run a contestant's caller in a process of its own."""
    command = [sys.executable, __file__, "--contestant", json.dumps([name, calls])]
    rates: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return rates


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], runs=7)
    parser.add_argument("--serve", choices=(*SERVERS, "gRPC"), help=argparse.SUPPRESS)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve_grpc() if options.serve == "gRPC" else serve_echo(options.serve))
        return 0
    if options.contestant:
        print(json.dumps(contestant(*json.loads(options.contestant))))
        return 0

    runs = 2 if options.quick else options.runs
    results: dict[str, list[list[float]]] = {name: [] for name in CALLS}
    for _ in range(runs):  # interleaved, so that a noisy minute falls on all of them
        for name, calls in CALLS.items():
            results[name].append(alone(name, tuple(n // 5 for n in calls) if options.quick else calls))
    return report(options, runs, results)


def report(options: argparse.Namespace, runs: int, results: dict[str, list[list[float]]]) -> int:
    """Print and write what was measured; 1 when a target was missed."""
    rows: list[tuple[str, str, str]] = []
    figures: dict[str, dict[str, float]] = {}
    verdicts: list[dict[str, Any]] = []
    for i, flying in enumerate(IN_FLIGHT):
        rates = {name: [run[i] for run in measured] for name, measured in results.items()}
        for name, values in rates.items():
            measured = spread(values)
            figures[f"{name}, {flying} in flight, calls/s"] = measured.to_dict()
            rows.append((f"{name}, {flying} in flight, calls/s", shown(measured, 0), ""))
        for other, target in (("bare", PART), ("batched", None), ("unawaited", None), ("gRPC", TIMES_GRPC)):
            ratio = paired_ratio(rates["polyarch"], rates[other])
            name = f"{flying} in flight, times {other}"
            figures[name] = ratio.to_dict()
            if target is None:
                rows.append((name, shown(ratio, 2), ""))
                continue
            holds = ratio.median >= target
            rows.append((name, shown(ratio, 2), f"at least {target:g}: {'yes' if holds else 'NO'}"))
            detail = f"at least {target:g}, measured {shown(ratio, 2)}"
            verdicts.append({"name": name, "holds": holds, "detail": detail})
    record = {
        "benchmark": "rpc",
        "runs": runs,
        "environment": environment("uvloop", "msgspec", "grpcio"),
        "figures": figures,
        "verdicts": verdicts,
    }
    title = f"Live calls: median (smallest .. largest) of {runs} runs"
    emit(options, record, title, ("figure", "measured", "target"), rows)
    missed = [f"{v['name']}: {v['detail']}" for v in verdicts if not v["holds"]]
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
