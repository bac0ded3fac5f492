"""Structured overlays from 100 to 100,000 peers: what a lookup costs, and what they cost themselves.

The same experiments for each overlay of the catalogue that is there (`chord`, `pastry`, `kademlia`), on the
simulator, each in a process of its own:

1. **Size.**  Build the overlay directly (`formation converged`); ask `--lookups` lookups, every one of which
   must be right; crash a fifth of all peers at once; ask again at once; let the upkeep repair for two of its
   rounds, and on until a thousand lookups in a row are right; and ask as often as before.  Kademlia has no
   rounds: what nobody asks about is repaired by an hourly refresh.  Up to `--refresh` peers that hour is
   measured too, and how many of all contacts were dead before and after it.  A line a + b log2 N is fitted
   to the hops, the messages and the processor time of a lookup.
2. **Formation.**  Join one by one, and build directly: the same state in the end?  What did it cost?
3. **Lost keys.**  Values with 1 and 3 replicas: how many are lost, and how many are stale, when a fraction of
   the peers crashes at once; and while peers come and go all the time (churn), in good order or by a crash.
4. **Ranges.**  All values of a range of 100 of 1,000 keys.  A hash table has scattered them: each needs a
   lookup of its own, and only who knows all possible keys can ask at all.

Times are processor times of one core.  Upkeep runs during all of it; the record has all parameters.

    python benchmarks/overlays.py [--json FILE|-] [--quick] [--overlays chord,…] [--sizes 100,1000,…]
                                  [--lookups N] [--refresh N]
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common import arguments, emit, environment
from polyarch.architectures.kademlia import Kademlia
from polyarch.blocks.overlay import Participant
from polyarch.core import Architecture, Failure, Refused, settle
from polyarch.experiment.catalogue import architecture as named
from polyarch.experiment.catalogue import architectures
from polyarch.experiment.run import Question, run
from polyarch.jobs.kv import Kv
from polyarch.jobs.lookup import Holder, Lookup, Responsible
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

ROUND = 30.0
"""Seconds between two rounds of upkeep, where there are rounds."""
OVERLAYS: dict[str, dict[str, Any]] = {
    "chord": {"successors": 16, "stabilize": ROUND, "bits": 60},
    "pastry": {"bits": 60, "keep_alive": ROUND, "maintain": ROUND},
    "kademlia": {"bits": 60},
}
"""Parameters of the large overlays; where none is given, an overlay's own."""
ROUTING: dict[str, Callable[[Any], Any]] = {
    "chord": lambda node: (node.predecessor, node.successors, tuple(node.fingers)),
}
"""What joining and building must agree on, where it is one right state."""
LINK = 0.001
"""Seconds that a message takes."""
IN_FLIGHT = 1_000
LIMIT_S, LIMIT_MB = 180.0, 2_000.0
"""What each step with 100,000 peers may take, and all of them together in memory."""

Result = dict[str, Any]


class Clock:
    """Processor seconds since it was read last."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def read(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


def made(name: str, *, large: bool = False, **parameters: Any) -> Architecture:
    """The overlay, with those of the parameters that it has."""
    kind = named(name)
    wanted = {**(OVERLAYS.get(name, {}) if large else {}), **parameters}
    return kind(**{k: v for k, v in wanted.items() if k in kind.parameters})


def opened(overlay: Architecture, seed: int = 1) -> SimSession:
    return SimSession(overlay, seed=seed, network=Network(latency=Constant(LINK)), detailed=False)


async def ask(x: Experimenter, count: int, bits: int) -> list[tuple[int, Holder | Failure]]:
    """So many lookups of random identifiers, ``IN_FLIGHT`` at a time."""
    keys = [x.random.below(1 << bits) for _ in range(count)]
    answers: list[tuple[int, Holder | Failure]] = []
    for at in range(0, count, IN_FLIGHT):
        page = keys[at : at + IN_FLIGHT]
        answers += zip(page, await settle(*(x.client.lookup(key) for key in page)), strict=True)
    return answers


def right(answers: list[tuple[int, Holder | Failure]], truth: Responsible) -> float:
    """The share of the lookups that named the responsible member, of those that were answered.  (After a mass
    failure a client may by chance know only dead peers.)"""
    holders = [(key, a.address) for key, a in answers if isinstance(a, Holder)]
    return sum(a == truth.of(key).address for key, a in holders) / max(1, len(holders))


# -- size ---------------------------------------------------------------------------------------------------


def size(name: str, nodes: int, lookups: int, refresh: bool) -> Result:
    clock = Clock()
    gc.collect()
    empty = resident()
    overlay = made(name, large=True, nodes=nodes, formation="converged")
    session = opened(overlay)
    kernel = session.kernel
    result: Result = {"parameters": overlay.values, "build_s": clock.read()}
    result["bytes_per_node"] = (resident() - empty) * 1e6 / nodes
    bits = overlay.values["bits"]

    async def census(x: Experimenter) -> Responsible:
        told = await x.client.census()
        return Responsible(bits, told.members, told.rule)

    async def load(x: Experimenter) -> list[tuple[int, Holder | Failure]]:
        return await ask(x, lookups, bits)

    def asked(truth: Responsible, label: str) -> None:
        clock.read()
        answers = session.perform(load)
        seconds = clock.read()
        holders = [a for _, a in answers if isinstance(a, Holder)]
        result[f"{label}_s"] = seconds
        result[f"{label}_us_per_lookup"] = seconds * 1e6 / lookups
        result[f"{label}_hops"] = sum(h.hops for h in holders) / max(1, len(holders))
        result[f"{label}_timeouts"] = sum(h.timeouts for h in holders) / max(1, len(holders))
        result[f"{label}_right"] = right(answers, truth)
        result[f"{label}_unanswered"] = lookups - len(holders)

    truth = session.perform(census)
    asked(truth, "lookups")

    async def fail(x: Experimenter) -> None:
        peers = [p.name for p in session.system.processes()]
        for victim in x.random.sample(peers, len(peers) // 5):
            await x.control.crash(victim)

    clock.read()
    session.perform(fail)
    result["fail_s"] = clock.read()
    truth = session.perform(census)
    asked(truth, "unrepaired")

    async def repair(x: Experimenter) -> float:
        begun = x.now
        await x.sleep(2 * ROUND)
        while x.now - begun < 20 * ROUND and right(await ask(x, 1000, bits), truth) < 1.0:
            await x.sleep(ROUND)
        return x.now - begun

    clock.read()
    result["repair_virtual_s"] = session.perform(repair)
    result["repair_s"] = clock.read()
    asked(truth, "repaired")
    period = overlay.values.get("refresh", 0.0)
    if period and refresh:
        result["dead_before_refresh"] = session.perform(dead)
        handled = kernel.events
        clock.read()
        session.perform(lambda x: _wait(x, 1.1 * period))
        result["refresh_s"] = clock.read()
        result["refresh_events"] = kernel.events - handled
        result["dead_after_refresh"] = session.perform(dead)
        asked(truth, "refreshed")
    if kernel.bugs:
        raise RuntimeError(kernel.bugs[0])
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result


async def _wait(x: Experimenter, seconds: float) -> None:
    await x.sleep(seconds)


async def dead(x: Experimenter) -> float:
    """The share of dead contacts among those of the peers that live."""
    members = {m.address for m in (await x.client.census()).members}
    some = sorted(members)[:: max(1, len(members) // 256)]
    told = [t for t in await settle(*(x.at(a, Kademlia).contacts() for a in some)) if isinstance(t, tuple)]
    known = [n.address for contacts in told for n in contacts]
    return sum(a not in members for a in known) / max(1, len(known))


def resident() -> float:
    """Memory of this process, 10^6 bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


# -- formation ----------------------------------------------------------------------------------------------


def formation(name: str, nodes: int) -> Result:
    result: Result = {}
    states, figures = {}, {}
    for how in ("joined", "converged"):
        clock = Clock()
        overlay = made(name, nodes=nodes, formation=how)
        session = opened(overlay)

        async def form(x: Experimenter, overlay: Architecture = overlay) -> dict[str, float]:
            await overlay.ready(x)
            if overlay.values["formation"] == "joined":
                await x.sleep(15.0)
            told = await x.client.census()
            answers = await ask(x, 2000, overlay.values["bits"])
            share = right(answers, Responsible(overlay.values["bits"], told.members, told.rule))
            return {**await x.client.tally(), "right": share, "members": len(told.members)}

        figures[how] = session.perform(form)
        result[f"{how}_s"] = clock.read()
        result[f"{how}_messages"] = session.kernel.messages
        state = ROUTING.get(name)
        if state is not None:
            directory = session.kernel.directory
            states[how] = {a: state(directory[a].node) for a in session.system.addresses("peer")}
    result["figures"] = figures
    if states:
        same = sum(states["joined"][a] == state for a, state in states["converged"].items())
        result["same_state"] = same / nodes
    return result


# -- lost keys ----------------------------------------------------------------------------------------------


def lost(name: str, nodes: int, replicas: int, fraction: float, keys: int) -> Result:
    """A fraction crashes at once, and stays away."""
    overlay = made(name, nodes=nodes, formation="converged", replicas=replicas)
    session = opened(overlay)

    async def experiment(x: Experimenter) -> Result:
        await written(x, keys, 0)
        peers = [p.name for p in session.system.processes()]
        for victim in x.random.sample(peers, round(fraction * len(peers))):
            await x.control.crash(victim)
        await x.sleep(20.0)
        read = await values(x, keys)
        return {
            "keys": keys,
            "lost": sum(value is None for value in read),
            "stale": sum(value not in (None, 0) for value in read),
            "unanswered": sum(isinstance(value, Failure) for value in read),
        }

    return session.perform(experiment)


def churned(name: str, nodes: int, replicas: int, pace: float, keys: int, leave: bool) -> Result:
    """For a minute, ``pace`` peers a second crash (or leave in good order), and as many come back that have
    been away for 10 s; each second every tenth key is written, and every tenth read."""
    overlay = made(name, nodes=nodes, formation="converged", replicas=replicas)
    session = opened(overlay)

    async def experiment(x: Experimenter) -> Result:
        await written(x, keys, 0)
        latest = dict.fromkeys(range(keys), 0)
        doubtful: dict[int, None] = {}  # keys whose last write may have happened or not
        peers = [p.name for p in session.system.processes()]
        away: list[str] = []
        count = {"reads": 0, "stale": 0, "lost": 0, "unanswered": 0}

        async def churn() -> None:
            for _ in range(round(60 * pace)):
                await x.sleep(1 / pace)
                victim = x.random.choice([p for p in peers if p not in away])
                if leave:
                    await settle(x.at(victim, Participant).leave())
                await x.control.crash(victim)
                away.append(victim)
                if len(away) > 10 * pace:
                    await x.control.restart(away.pop(0))

        churning = x.spawn(churn())
        for second in range(1, 61):
            for key in range(second % 10, keys, 10):
                told = (await settle(x.client.put(f"key-{key}", second)))[0]
                if not isinstance(told, Failure):
                    latest[key] = second
                    doubtful.pop(key, None)
                elif not isinstance(told, Refused):
                    doubtful[key] = None
            for key in range((second + 5) % 10, keys, 10):
                value = (await settle(x.client.get(f"key-{key}")))[0]
                count["reads"] += 1
                count["unanswered"] += isinstance(value, Failure)
                if key not in doubtful and not isinstance(value, Failure):
                    count["lost"] += value is None
                    count["stale"] += value is not None and value != latest[key]
            await x.sleep(1.0)
        await churning
        for peer in away:
            await x.control.restart(peer)
        await x.sleep(20.0)
        sure = [key for key in range(keys) if key not in doubtful]
        read = await values(x, keys)
        count["lost_in_the_end"] = sum(read[key] is None for key in sure)
        count["stale_in_the_end"] = sum(read[key] not in (None, latest[key]) for key in sure)
        return {"keys": keys, **count}

    return session.perform(experiment)


async def written(x: Experimenter, keys: int, value: int) -> None:
    for at in range(0, keys, 100):
        told = await settle(*(x.client.put(f"key-{key}", value) for key in range(at, min(at + 100, keys))))
        assert not any(isinstance(t, Failure) for t in told), told


async def values(x: Experimenter, keys: int) -> list[Any]:
    read: list[Any] = []
    for at in range(0, keys, 100):
        read += await settle(*(x.client.get(f"key-{key}") for key in range(at, min(at + 100, keys))))
    return read


def ranges(name: str, nodes: int, keys: int, wanted: int) -> Result:
    """The values of ``wanted`` successive keys: how many peers hold them, and what it takes to get them."""
    overlay = made(name, nodes=nodes, formation="converged")
    session = opened(overlay)

    async def experiment(x: Experimenter) -> Result:
        await written(x, keys, 0)
        begun = x.now
        read = await values(x, wanted)
        seconds = x.now - begun
        asked = await settle(*(x.client.lookup(f"key-{key}") for key in range(wanted)))
        holders = [h for h in asked if isinstance(h, Holder)]
        return {
            "found": sum(value == 0 for value in read),
            "lookups": wanted,
            "peers": len({h.address for h in holders}),
            "hops": sum(h.hops for h in holders),
            "seconds": seconds,
        }

    return session.perform(experiment)


# -- what a lookup costs in messages -------------------------------------------------------------------------


def messages(name: str, nodes: int, rate: int) -> Result:
    """As `polyarch run` counts them: those of each lookup, and of nobody else."""
    overlay = made(name, large=True, nodes=nodes, formation="converged")
    network = Network(latency=Constant(LINK))
    record = run(Question(overlay, Lookup(), duration=1.0, rate=rate, options={"network": network}))
    assert record.cost_per_operation is not None
    return {"messages": record.cost_per_operation.messages, "links": record.metrics["links"]}


# -- all of it -----------------------------------------------------------------------------------------------

WORK: dict[str, Callable[..., Result]] = {
    "size": size,
    "formation": formation,
    "lost": lost,
    "churned": churned,
    "ranges": ranges,
    "messages": messages,
}


def alone(work: str, *rest: Any) -> Result:
    """Run an experiment in a process of its own."""
    command = [sys.executable, __file__, "--experiment", json.dumps([work, rest])]
    begun = time.monotonic()
    result: Result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    figures = {name: value for name, value in result.items() if name != "parameters"}
    print(work, *rest, f"{time.monotonic() - begun:.0f} s", json.dumps(figures), file=sys.stderr)
    return result


def fit(sizes: list[int], figures: list[float]) -> dict[str, float]:
    """Least squares: figure = a + b log2 N, and how much of the variance that explains."""
    x, y = np.log2(sizes), np.array(figures)
    b, a = np.polyfit(x, y, 1)
    rest = float(((y - a - b * x) ** 2).sum() / max(1e-12, ((y - y.mean()) ** 2).sum()))
    return {"a": float(a), "b": float(b), "r2": 1 - rest}


def measured(name: str, options: argparse.Namespace) -> Result:
    """All experiments on one overlay."""
    sizes = [int(n) for n in options.sizes.split(",")]
    few = options.quick
    record: Result = {"sizes": {}, "lost": [], "churn": []}
    for n in sizes:
        found = alone("size", name, n, options.lookups, n <= options.refresh)
        found |= alone("messages", name, n, 300 if n <= 10_000 else 100)
        record["sizes"][n] = found
    if len(sizes) > 2:
        for figure in ("lookups_hops", "messages", "lookups_us_per_lookup"):
            record[f"fit of {figure}"] = fit(sizes, [record["sizes"][n][figure] for n in sizes])
    record["formation"] = alone("formation", name, 100 if few else 1000)
    if Kv in named(name).jobs:
        for replicas in (1, 3):
            for fraction in (0.2,) if few else (0.1, 0.2, 0.4):
                found = alone("lost", name, 100, replicas, fraction, 1000)
                record["lost"].append({"replicas": replicas, "fraction": fraction, **found})
            for leave in (True, False):
                found = alone("churned", name, 100, replicas, 0.5, 200, leave)
                record["churn"].append({"replicas": replicas, "per_s": 0.5, "leave": leave, **found})
        record["ranges"] = alone("ranges", name, 100, 1000, 100)
    return record


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], runs=1)
    parser.add_argument("--overlays", default=",".join(n for n in OVERLAYS if n in architectures()))
    parser.add_argument("--sizes", help="peers; default 100,1000,10000,100000")
    parser.add_argument("--lookups", type=int, help="default 100,000")
    parser.add_argument("--refresh", type=int, default=10_000, help="peers whose refresh is measured at most")
    parser.add_argument("--experiment", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.experiment:
        work, rest = json.loads(options.experiment)
        print(json.dumps(WORK[work](*rest)))
        return 0
    options.sizes = options.sizes or ("100,300,1000" if options.quick else "100,1000,10000,100000")
    options.lookups = options.lookups or (2_000 if options.quick else 100_000)
    records = {name: measured(name, options) for name in options.overlays.split(",")}
    return report(options, records)


def report(options: argparse.Namespace, records: dict[str, Result]) -> int:
    """Print and write what was measured; 1 when something was too slow, too large, or wrong."""
    rows: list[tuple[str, str, str]] = []
    wrong: list[str] = []
    for name, record in records.items():
        for n, found in record["sizes"].items():
            hops, cost = found["lookups_hops"], found["messages"]
            text = f"{hops:.2f} hops, {cost:.1f} messages, {found['lookups_us_per_lookup']:.0f} us"
            rows.append((name, f"{int(n):,} peers: a lookup", text))
            steps = ("build", "lookups", "unrepaired", "repair", "repaired")
            times = ", ".join(f"{step} {found[step + '_s']:.1f}" for step in steps)
            rows.append((name, f"{int(n):,} peers: seconds", f"{times}; peak {found['peak_mb']:.0f} MB"))
            right = f"{found['lookups_right']:.3%}, {found['unrepaired_right']:.3%} after a fifth has crashed"
            rows.append(
                (name, f"{int(n):,} peers: right", f"{right}, {found['repaired_right']:.3%} repaired")
            )
            if "refresh_s" in found:
                text = f"{found['refresh_s']:.1f} s; dead contacts {found['dead_before_refresh']:.1%}, "
                text += f"then {found['dead_after_refresh']:.1%}; timeouts of a lookup "
                text += f"{found['repaired_timeouts']:.2f}, then {found['refreshed_timeouts']:.2f}"
                rows.append((name, f"{int(n):,} peers: an hour's refresh", text))
            elif found["parameters"].get("refresh"):
                rows.append((name, f"{int(n):,} peers: an hour's refresh", "not run"))
            wrong += [f"{name}, {n}: {s} {found[s + '_s']:.0f} s" for s in steps if found[s + "_s"] > LIMIT_S]
            wrong += [f"{name}, {n}: {found['peak_mb']:.0f} MB"] if found["peak_mb"] > LIMIT_MB else []
            for label in ("lookups", "repaired"):
                if found[f"{label}_right"] < 1.0:
                    wrong.append(f"{name}, {n}: {label} {found[f'{label}_right']:.4%} right")
        for key, line in record.items():
            if key.startswith("fit of"):
                text = f"{line['a']:.2f} + {line['b']:.2f} log2 N, R2 {line['r2']:.3f}"
                rows.append((name, key, text))
        formed = record["formation"]
        same = (
            f", {formed['same_state']:.1%} of the peers in the same state" if "same_state" in formed else ""
        )
        joined, built = formed["figures"]["joined"], formed["figures"]["converged"]
        text = f"{formed['joined_s']:.1f} s, built {formed['converged_s']:.1f} s; hops {joined['hops']:.2f}, "
        rows.append((name, "joined one by one", f"{text}{built['hops']:.2f}{same}"))
        for lost in record["lost"]:
            what = f"{lost['replicas']} replicas, {lost['fraction']:.0%} crash at once"
            rows.append((name, what, f"{lost['lost']} of {lost['keys']} keys lost, {lost['stale']} stale"))
        for churn in record["churn"]:
            how = "leave" if churn["leave"] else "crash"
            what = f"{churn['replicas']} replicas, {churn['per_s']} of 100 {how} each second"
            lost = f"{churn['lost']} of {churn['reads']} reads found nothing, {churn['stale']} stale"
            end = f"{churn['lost_in_the_end']} of {churn['keys']} lost, {churn['stale_in_the_end']} stale"
            rows.append((name, what, f"{lost}; in the end {end}"))
        if "ranges" in record:
            found = record["ranges"]
            text = f"{found['lookups']} lookups at {found['peers']} peers, {found['hops']} hops"
            rows.append((name, "a range of 100 of 1,000 keys", text))
    record = {"overlays": records, "wrong": wrong, "environment": environment()}
    emit(options, record, "Structured overlays", ("overlay", "what", "measured"), rows)
    for line in wrong:
        print(f"not as it should be: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
