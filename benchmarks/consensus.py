"""Live Raft: writes per second and their latency, and where the time goes.

Three and five servers, each a process with a disk of its own that is synced before anything is answered;
1, 8 and 64 clients in one process write as fast as they are answered.  Beside each figure:

* **cpu**: processor time for a write, of the leader, of all followers, of the clients;
* **messages** between processes for a write;
* **unsynced**: the same without the wait for the disks (a safeguard left out): what the disks cost.

A write with one client is, one after the other: a round trip between client and leader; a round trip between
leader and follower; and a sync on both at the same time.  The round trip of a call between two processes is
measured by itself.  A sync is not: an idle disk takes many times longer for it than one with much to do, so
what the disks cost is the difference to a run without the wait.  The rest is computing, and waiting for a
core: all servers and the clients share these.

What the rate is made of, with 5 servers and 64 clients on 2 cores: a write takes about 0.1 ms of the cores,
more than half of it in the four followers, so that the cores alone would carry 19,000/s, and did carry
20,700/s when nobody waited for disks.  Measured with disks: 12,500/s.  The rest of the time the cores are
idle (or others', on a shared machine): all servers wait for syncs, of one file system.

The target is 5,000 writes/s with 5 servers and 64 clients.  (etcd, written in Go, one node, 64 clients, the
same kind of machine with 2 cores: 17,900/s.)

    python benchmarks/consensus.py [--json FILE|-] [--runs N] [--quick]
"""

from __future__ import annotations

import os
import sys
from typing import Any

from common import arguments, emit, environment, shown
from polyarch.architectures.raft import LEADER, Raft, RaftStore
from polyarch.core import settle
from polyarch.experiment.load import Load
from polyarch.experiment.run import Question, Trial, latency_of
from polyarch.jobs.kv import Kv
from polyarch.measure.statistics import Spread, spread
from polyarch.runtimes.base import Experimenter

CLIENTS = (1, 8, 64)
SERVERS = (3, 5)
TARGET = 5_000.0
Figures = dict[str, float]


def measure(servers: int, seconds: float, *, synced: bool = True) -> dict[int, Figures]:
    """One cluster: for each number of clients, what a write costs."""
    store = RaftStore(servers=servers, without="" if synced else "sync_before_answer")
    job = Kv(keys=1000, reads=0.0, swaps=0.0)
    trial = Trial(Question(store, job, runtime="local", duration=seconds, clients=max(CLIENTS)))
    try:
        leader = trial.perform(lambda x: leader_of(x, servers))
        trial.load(Load(duration=seconds / 4, clients=8, account=0))  # all is connected and warm
        return {clients: loaded(trial, leader, clients, seconds) for clients in CLIENTS}
    finally:
        trial.close()


def loaded(trial: Trial, leader: str, clients: int, seconds: float) -> Figures:
    async def totals(x: Experimenter) -> tuple[dict[str, float], int]:
        cpu = {name: used["cpu_s"] for name, used in (await x.control.resources()).items()}
        return cpu, (await x.control.traffic()).messages

    before, sent_before = trial.perform(totals)
    result = trial.load(Load(duration=seconds, clients=clients, account=0))
    after, sent_after = trial.perform(totals)
    if result.ok != result.attempted:
        raise SystemExit(f"not all of {result.attempted} writes succeeded: {result.codes}")
    latency, _ = latency_of([result])
    assert latency is not None
    cpu = {name: (after[name] - before[name]) / result.ok * 1e6 for name in after}
    return {
        "writes/s": result.in_time / result.seconds,
        "p50, ms": latency.p50,
        "p99, ms": latency.p99,
        "cpu of the leader, us": cpu[leader],
        "cpu of all followers, us": sum(us for name, us in cpu.items() if name not in (leader, "client")),
        "cpu of the clients, us": cpu["client"],
        "messages": (sent_after - sent_before) / result.ok,
    }


async def leader_of(x: Experimenter, servers: int) -> str:
    names = [f"server-{i}" for i in range(servers)]
    while True:
        asked = await settle(*(x.at(name, Raft).status() for name in names))
        leaders = [name for name, status in zip(names, asked) if getattr(status, "role", "") == LEADER]
        if leaders:
            return leaders[0]
        await x.sleep(0.1)


def round_trip_ms(count: int) -> float:
    """Mean time of a call that does nothing, between two processes."""

    async def experiment(x: Experimenter) -> float:
        server = x.at("server-0", Raft)
        await leader_of(x, 1)
        begun = x.now
        for _ in range(count):
            await server.status()
        return (x.now - begun) / count * 1e3

    trial = Trial(Question(RaftStore(servers=1, heartbeat=10.0), Kv(), runtime="local", clients=1))
    try:
        return trial.perform(experiment)
    finally:
        trial.close()


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    options = parser.parse_args()
    runs, seconds = (1, 0.5) if options.quick else (options.runs, 3.0)
    measured: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        measured.setdefault(name, []).append(value)

    for _ in range(runs):  # interleaved, so that a noisy minute falls on all of them
        note("a round trip, ms", round_trip_ms(3000))
        for servers in SERVERS:
            for clients, figures in measure(servers, seconds).items():
                for name, value in figures.items():
                    note(f"{servers} servers, {clients} clients: {name}", value)
            for clients, figures in measure(servers, seconds / 2, synced=False).items():
                for name in ("writes/s", "p50, ms"):
                    note(f"{servers} servers, {clients} clients: unsynced {name}", figures[name])
    spreads = {name: spread(values) for name, values in measured.items()}
    return report(options, runs, spreads)


def report(options: Any, runs: int, spreads: dict[str, Spread]) -> int:
    """Print and write what was measured; 1 when the target was missed."""
    rows = [(name, shown(value, 2 if value.median < 100 else 0), "") for name, value in spreads.items()]
    trips = 2 * spreads["a round trip, ms"].median
    write = spreads["5 servers, 1 clients: p50, ms"].median
    unsynced = spreads["5 servers, 1 clients: unsynced p50, ms"].median
    parts = {
        "round trips": trips,
        "disks": write - unsynced,
        "computing and waiting for cores": unsynced - trips,
    }
    rows += [(f"5 servers, 1 client: of a write {part}, ms", f"{ms:.2f}", "") for part, ms in parts.items()]
    for servers in SERVERS:
        shares = (
            f"{servers} servers, 64 clients: cpu of {who}, us"
            for who in ("the leader", "all followers", "the clients")
        )
        cpu = sum(spreads[share].median for share in shares)
        most = len(os.sched_getaffinity(0)) / cpu * 1e6
        rows.append((f"{servers} servers, 64 clients: writes/s if the cores were all", f"{most:,.0f}", ""))
    target = spreads["5 servers, 64 clients: writes/s"]
    holds = target.median >= TARGET
    goal = f"{TARGET:,.0f}: {'yes' if holds else 'NO'}"
    rows.append(("5 servers, 64 clients, writes/s", shown(target, 0), goal))
    record = {
        "benchmark": "consensus",
        "runs": runs,
        "environment": environment("uvloop", "msgspec"),
        "figures": {name: value.to_dict() for name, value in spreads.items()},
        "breakdown_of_one_write_ms": parts,
        "verdicts": [
            {
                "name": "5 servers with synced disks and 64 clients",
                "holds": holds,
                "detail": f"at least {TARGET:,.0f} writes/s, measured {shown(target, 0)}",
            }
        ],
    }
    title = f"Live Raft: median (smallest .. largest) of {runs} runs"
    emit(options, record, title, ("figure", "measured", "target"), rows)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
