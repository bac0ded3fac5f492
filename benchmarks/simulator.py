"""The simulator beside SimPy 4 on the same work, what a node and an event cost, and what its options cost.

1. **Pairs.**  N clients ask a server of their own, each again as soon as it is answered; every message
   takes 0.5 ms of virtual time.  An event is one message delivered.
2. **Chord.**  Lookups on a converged ring, relayed hop by hop through the catalogue's own `chord.py`,
   1,000 in flight from one driver node; questions and answers both travel back through every hop.
3. **Size**: what an event costs from 100 to 100,000 nodes, with equal and with random latencies.
4. **Options**: what the trace hash, the detailed engine and an observer cost on 1,000 pairs.

How the SimPy contestants are made.  *Documented* is the way of SimPy's own manual (its example "Event
Latency"), and the baseline of the targets on pairs: each node is a process with a Store as its inbox, and
each message on its way is a process that waits for the link and puts it there.  *Mailboxes* is leaner, with
a Timeout and a callback for each message on its way; it is the baseline on Chord, where the server starts
a process for each request because handlers wait.  Two forms that are leaner still simulate the work and
not the nodes: in *processes* nobody receives anything, one process per request waits for the link,
computes, waits for the link; *callbacks* has only a Timeout with a callback for each message and an Event
for the answer.  All are printed; choose what you would write.  SimPy's Chord works on
the very routing tables that chord.py has built, with the very function that chooses the next hop, and must
count the same hops.  SimPy checks no arguments, knows no timeouts and no crashes, and hashes no trace.

Everybody runs in a process of its own, with the garbage collector frozen and off, as our kernel does by
itself.  Times are processor times: neighbours on the machine disturb them less.

    python benchmarks/simulator.py [--json FILE|-] [--runs N] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import psutil
import simpy

from common import arguments, emit, environment, shown
from polyarch.architectures.chord import Chord, Found, Peer
from polyarch.blocks.ring import identifier, within
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.measure.statistics import Spread, paired_ratio, spread
from polyarch.runtimes.sim.kernel import Kernel
from polyarch.runtimes.sim.network import Constant, Network, Uniform

LINK = 0.0005
"""Seconds that a message takes."""
BITS = 32
IN_FLIGHT = 1_000

TARGETS = {
    "pairs 1,000": ("documented", 8.0),
    "pairs 100,000": ("documented", 4.0),
    "Chord 100,000": ("mailboxes", 2.0),
}
"""At least so many times that form of SimPy."""
BYTES_PER_NODE = 1_500

Result = dict[str, float]


# --- pairs ---------------------------------------------------------------------------------------------


class Ponger(Node):
    @rpc
    async def ping(self, n: int) -> int:
        return n + 1


class Pinger(Node):
    peer: str

    async def start(self) -> None:
        self.spawn(self.run())

    async def run(self) -> None:
        n = 0
        peer = self.at(self.peer, Ponger)
        while True:
            n = await peer.ping(n)


def pairs(
    count: int,
    events: int,
    *,
    trace: bool = True,
    detailed: bool = False,
    observed: bool = False,
    random: bool = False,
) -> Result:
    """Our pairs.  ``random``: latencies uniform within 20 % of the mean."""
    network = Network(latency=Uniform(0.8 * LINK, 1.2 * LINK) if random else Constant(LINK))
    kernel = Kernel(1, trace=trace, detailed=detailed, network=network)
    if observed:
        kernel.observer = lambda *_: None
    begun = time.process_time()
    for i in range(count):
        kernel.add_process(f"ping-{i}", [(f"ping-{i}", Pinger(peer=f"pong-{i}"))])
        kernel.add_process(f"pong-{i}", [(f"pong-{i}", Ponger())])
    kernel.boot()
    built = time.process_time() - begun
    kernel.run(2.5 * LINK)
    before = kernel.events
    seconds = timed(lambda: kernel.run(max(2, events // count) * LINK))
    if kernel.bugs:
        raise kernel.bugs[0][2]
    return {"events_per_s": (kernel.events - before) / seconds, "build_s": built}


Process = Generator[simpy.Event, Any, Any]


def documented_client(env: simpy.Environment, delivered: list[int]) -> Process:
    """SimPy's example "Event Latency": a process for each message on its way."""
    requests, answers = simpy.Store(env), simpy.Store(env)

    def latency(store: simpy.Store, message: int) -> Process:
        yield env.timeout(LINK)
        delivered[0] += 1
        store.put(message)

    def server() -> Process:
        while True:
            n = yield requests.get()
            env.process(latency(answers, n + 1))

    env.process(server())
    n = 0
    while True:
        env.process(latency(requests, n))
        n = yield answers.get()


def mailbox_client(env: simpy.Environment, delivered: list[int]) -> Process:
    """A client and its server, each a process with a Store for its messages."""
    requests, answers = simpy.Store(env), simpy.Store(env)

    def send(store: simpy.Store, message: int) -> None:
        def arrive(event: simpy.Event) -> None:
            delivered[0] += 1
            store.put(event.value)

        env.timeout(LINK, message).callbacks.append(arrive)

    def server() -> Process:
        while True:
            n = yield requests.get()
            send(answers, n + 1)

    env.process(server())
    n = 0
    while True:
        send(requests, n)
        n = yield answers.get()


def process_client(env: simpy.Environment, delivered: list[int]) -> Process:
    """A process for each request."""

    def serve(n: int) -> Process:
        yield env.timeout(LINK)
        delivered[0] += 1
        n += 1
        yield env.timeout(LINK)
        delivered[0] += 1
        return n

    n = 0
    while True:
        n = yield env.process(serve(n))


def callback_client(env: simpy.Environment, delivered: list[int]) -> Process:
    """The least that SimPy can do: a timeout for each message, an event for the answer."""

    def arrive(event: simpy.Event) -> None:
        delivered[0] += 1
        n, answer = event.value

        def arrive_back(event: simpy.Event) -> None:
            delivered[0] += 1
            answer.succeed(event.value)

        env.timeout(LINK, n + 1).callbacks.append(arrive_back)

    n = 0
    while True:
        answer = env.event()
        env.timeout(LINK, (n, answer)).callbacks.append(arrive)
        n = yield answer


SIMPY_PAIRS = {
    "documented": documented_client,
    "mailboxes": mailbox_client,
    "processes": process_client,
    "callbacks": callback_client,
}


def simpy_pairs(count: int, events: int, *, form: str) -> Result:
    env = simpy.Environment()
    delivered = [0]
    for _ in range(count):
        env.process(SIMPY_PAIRS[form](env, delivered))
    env.run(2.5 * LINK)
    delivered[0] = 0
    seconds = timed(lambda: env.run(env.now + max(2, events // count) * LINK))
    return {"events_per_s": delivered[0] / seconds}


# --- Chord ---------------------------------------------------------------------------------------------


class Driver(Node):
    """Starts lookups, each at a random peer, and another one when it is answered."""

    lookups: tuple[tuple[str, int], ...]

    async def start(self) -> None:
        self.hops = self.done = 0
        self.left = iter(self.lookups)

    async def client(self) -> None:
        for address, key in self.left:
            found = await self.at(address, Chord, timeout=60.0).find_successor(key)
            self.hops += found.hops
            self.done += 1


def converged(count: int) -> tuple[Kernel, tuple[str, ...]]:
    """A ring of the catalogue's Chord nodes that know all they would learn, and no upkeep."""
    addresses = tuple(f"peer-{i}" for i in range(count))
    ring = tuple(sorted(Peer(identifier(a, BITS), a) for a in addresses))
    declared = Chord(bits=BITS, ring=ring, stabilize_every=0.0, confirm=False)
    kernel = Kernel(1, network=Network(latency=Constant(LINK)))
    for address in addresses:
        kernel.add_process(address, [(address, declared)])
    kernel.boot()
    return kernel, addresses


def questions(addresses: tuple[str, ...], lookups: int) -> tuple[tuple[str, int], ...]:
    """Where each lookup starts, and what it asks for."""
    random = Random(2)
    return tuple((random.choice(addresses), random.below(1 << BITS)) for _ in range(lookups))


def chord(count: int, lookups: int) -> Result:
    gc.collect()
    empty = resident()
    begun = time.process_time()
    kernel, addresses = converged(count)
    built = time.process_time() - begun
    size = resident() - empty
    kernel.add_process("driver", [("driver", Driver(lookups=questions(addresses, lookups)))])
    kernel.boot("driver")
    driver = kernel.directory["driver"].node
    for _ in range(IN_FLIGHT):
        driver.spawn(driver.client())
    seconds = timed(kernel.run)
    if kernel.bugs or driver.done != lookups:
        raise RuntimeError(f"{driver.done} of {lookups} lookups, {kernel.bugs[:1]}")
    messages = 2 * (driver.hops + lookups)
    return {
        "events_per_s": messages / seconds,
        "hops": driver.hops / lookups,
        "bytes_per_node": size / count,
        "build_s": built,
    }


def simpy_chord(count: int, lookups: int, *, form: str) -> Result:
    kernel, addresses = converged(count)
    nodes: dict[str, Chord] = {a: e.node for a, e in kernel.directory.items()}
    left = iter(questions(addresses, lookups))
    del kernel
    env = simpy.Environment()
    hops = 0
    find = (mailbox_lookup if form == "mailboxes" else process_lookup)(env, nodes)

    def client() -> Process:
        nonlocal hops
        for address, key in left:
            found = yield find(address, key, 0)
            hops += found.hops

    for _ in range(IN_FLIGHT):
        env.process(client())
    seconds = timed(env.run)
    return {"events_per_s": 2 * (hops + lookups) / seconds, "hops": hops / lookups}


Find = Callable[[str, int, int], simpy.Event]


def mailbox_lookup(env: simpy.Environment, nodes: dict[str, Chord]) -> Find:
    """Each node is a process with a Store for its requests, and starts a process for each."""

    def find(address: str, key: int, hops: int) -> simpy.Event:
        answer = env.event()
        message = env.timeout(LINK, (key, hops, answer))
        message.callbacks.append(lambda event: stores[address].put(event.value))
        return answer

    def server(node: Chord, requests: simpy.Store) -> Process:
        while True:
            request = yield requests.get()
            env.process(handle(node, *request))

    def handle(node: Chord, key: int, hops: int, answer: simpy.Event) -> Process:
        n = node.successors[0]
        if within(key, node.me.id, n.id):
            found = Found(n, hops, 0)
        else:
            n = node.closest_preceding_node(key)
            found = yield find(n.address, key, hops + 1)
        env.timeout(LINK, found).callbacks.append(lambda event: answer.succeed(event.value))

    stores = {address: simpy.Store(env) for address in nodes}
    for address, node in nodes.items():
        env.process(server(node, stores[address]))
    env.run(LINK)
    return find


def process_lookup(env: simpy.Environment, nodes: dict[str, Chord]) -> Find:
    """No nodes: one process for a request, its way, what is done about it, and the answer's way."""

    def find_successor(address: str, key: int, hops: int) -> Process:
        yield env.timeout(LINK)
        node = nodes[address]
        n = node.successors[0]
        if within(key, node.me.id, n.id):
            found = Found(n, hops, 0)
        else:
            n = node.closest_preceding_node(key)
            found = yield env.process(find_successor(n.address, key, hops + 1))
        yield env.timeout(LINK)
        return found

    return lambda address, key, hops: env.process(find_successor(address, key, hops))


# --- measuring -----------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes, with the garbage collector frozen and off."""
    gc.collect()
    gc.freeze()
    gc.disable()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


WORK: dict[str, Callable[..., Result]] = {
    "pairs": pairs,
    "simpy_pairs": simpy_pairs,
    "chord": chord,
    "simpy_chord": simpy_chord,
}


def alone(work: str, *counts: int, **rest: Any) -> Result:
    """Run a contestant in a process of its own."""
    command = [sys.executable, __file__, "--contestant", json.dumps([work, counts, rest])]
    result: Result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def contestants(quick: bool) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Everything that is measured: its name, and how."""
    events, lookups = (100_000, 2_000) if quick else (1_000_000, 20_000)
    few = max(events // 4, 100_000)
    for count in (1_000, 100_000):
        yield f"pairs {count:,}", lambda n=count: alone("pairs", n, events)
        for form in SIMPY_PAIRS:
            name = f"pairs {count:,} SimPy {form}"
            yield name, lambda n=count, f=form: alone("simpy_pairs", n, few, form=f)
    for count in (10_000, 100_000):
        yield f"Chord {count:,}", lambda n=count: alone("chord", n, lookups)
        for form in ("mailboxes", "processes"):
            name = f"Chord {count:,} SimPy {form}"
            yield name, lambda n=count, f=form: alone("simpy_chord", n, lookups, form=f)
    for count in (50, 500, 5_000, 50_000):
        yield f"{2 * count:,} nodes", lambda n=count: alone("pairs", n, events)
        name = f"{2 * count:,} nodes, random latencies"
        yield name, lambda n=count: alone("pairs", n, events, random=True)
    yield "no trace hash", lambda: alone("pairs", 1_000, events, trace=False)
    yield "detailed", lambda: alone("pairs", 1_000, few, detailed=True)
    yield "detailed, observed", lambda: alone("pairs", 1_000, few, detailed=True, observed=True)


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], runs=5)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        work, counts, rest = json.loads(options.contestant)
        print(json.dumps(WORK[work](*counts, **rest)))
        return 0

    runs = 1 if options.quick else options.runs
    results: dict[str, list[Result]] = {}
    for _ in range(runs):  # interleaved, so that a noisy minute falls on all of them
        for name, run in contestants(options.quick):
            results.setdefault(name, []).append(run())
    return report(options, runs, results)


def report(options: argparse.Namespace, runs: int, results: dict[str, list[Result]]) -> int:
    """Print and write what was measured; 1 when a target was missed."""
    rows: list[tuple[str, str, str]] = []
    figures: dict[str, dict[str, float]] = {}
    verdicts: list[dict[str, Any]] = []

    def values(name: str, key: str = "events_per_s") -> list[float]:
        return [result[key] for result in results[name]]

    def figure(name: str, measured: Spread, digits: int = 1, target: str = "", holds: bool = True) -> None:
        figures[name] = measured.to_dict()
        rows.append((name, shown(measured, digits), target and f"{target}: {'yes' if holds else 'NO'}"))
        if target:
            detail = f"{target}, measured {shown(measured, digits)}"
            verdicts.append({"name": name, "holds": holds, "detail": detail})

    def times(name: str, form: str) -> None:
        ratio = paired_ratio(values(name), values(f"{name} SimPy {form}"))
        wanted, target = TARGETS.get(name, ("", 0.0))
        if wanted == form:
            holds = ratio.median >= target
            figure(f"{name}, times SimPy {form}", ratio, target=f"at least {target:g}", holds=holds)
        else:
            figure(f"{name}, times SimPy {form}", ratio)

    for name in results:
        figure(f"{name}, thousand events/s", spread([v / 1e3 for v in values(name)]), 0)
    for size in ("1,000", "100,000"):
        for form in SIMPY_PAIRS:
            times(f"pairs {size}", form)
    for size in ("10,000", "100,000"):
        name = f"Chord {size}"
        if values(name, "hops") != values(f"{name} SimPy mailboxes", "hops"):
            raise RuntimeError(f"{name}: SimPy has counted other hops")
        times(name, "mailboxes")
        times(name, "processes")
        figure(f"{name}, seconds to build", spread(values(name, "build_s")), 2)
    size = spread(values("Chord 100,000", "bytes_per_node"))
    holds = size.median <= BYTES_PER_NODE
    figure("Chord 100,000, bytes per node", size, 0, f"at most {BYTES_PER_NODE:,}", holds)
    for name in results:
        if "nodes" in name:
            figure(f"{name}, ns per event", spread([1e9 / v for v in values(name)]), 0)

    def costs(name: str, cheap: str, dear: str) -> None:
        slower = paired_ratio(values(cheap), values(dear))
        figure(
            name,
            Spread(
                slower.runs,
                *(100 * (v - 1) for v in (slower.median, slower.low, slower.high)),
                100 * slower.quartile_range,
            ),
        )

    costs("trace hash, % more time per event", "no trace hash", "pairs 1,000")
    costs("detailed, % more time per event", "pairs 1,000", "detailed")
    costs("an observer, % more time per event", "detailed", "detailed, observed")

    record = {
        "benchmark": "simulator",
        "runs": runs,
        "environment": environment("simpy"),
        "figures": figures,
        "verdicts": verdicts,
    }
    emit(options, record, f"Simulator: median (smallest .. largest) of {runs} runs", ("", "", "target"), rows)
    missed = [f"{v['name']}: {v['detail']}" for v in verdicts if not v["holds"]]
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
