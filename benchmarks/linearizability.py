"""How long a verdict on a history takes.

    python benchmarks/linearizability.py [--histories FOLDER] [--json FILE]

The given histories of etcd (a register) and of Porcupine's key-value test, each as ``polyarch verify``
decides it, key by key; then what cannot be divided: Porcupine's histories of 10 clients with all keys as one
object, and a generated one of 10 clients.  Porcupine (Go) needs 2.1 s for its own slowest one without
partitioning by key; it does not run here, so that figure is quoted and not measured.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from common import arguments, emit, environment, shown
from polyarch.checkers.linearizability import KV, REGISTER, Call, Model, check, read_history, whole
from polyarch.core.randomness import Random
from polyarch.measure.statistics import spread as spread_of

PORCUPINE_S = 2.1
"""Porcupine on its slowest history of 10 clients, not partitioned: quoted."""


def generated(clients: int, operations: int, keys: int, seed: int = 0) -> list[Call]:
    """Clients that get and append, all at the same time, on an object that is linearizable: each operation
    takes effect at a random moment between its call and its return."""
    random = Random(seed)
    free = [0.0] * clients
    asked = []
    for _ in range(operations):
        client = min(range(clients), key=lambda c: free[c])
        start = free[client] + random.exponential(0.1)
        end = start + random.exponential(3.0)
        asked.append(
            (random.between(start, end), start, end, client, f"k{random.below(keys)}", random.chance(0.5))
        )
        free[client] = end
    state: dict[str, str] = {}
    calls = []
    for number, (_, start, end, client, key, reads) in enumerate(sorted(asked)):
        if reads:
            calls.append(Call("get", (), start, end, state.get(key), key, client))
        else:
            state[key] = state.get(key, "") + f"[{number}]"
            calls.append(Call("append", (f"[{number}]",), start, end, None, key, client))
    return calls


def undivided(calls: list[Call]) -> list[Call]:
    """The same calls on one object."""
    return [dataclasses.replace(c, arguments=(c.key, *c.arguments), key=None) for c in calls]


def main() -> None:
    parser = arguments(__doc__ or "", runs=3)
    parser.add_argument("--histories", type=Path, default=Path("/work/shared/data/histories"))
    options = parser.parse_args()
    cases: list[tuple[str, list[Call], Model]] = []
    for path in sorted(options.histories.glob("*.[lt][ox][gt]")):
        model = KV if path.name.startswith("kv") else REGISTER
        cases.append((path.name, read_history(path.read_text().splitlines()), model))
    for name, calls, model in list(cases):
        if name.startswith("kv_c10") and not options.quick:
            cases.append((f"{name}, undivided", undivided(calls), whole(model)))
    hard = generated(10, 120 if options.quick else 400, 10)
    cases.append((f"generated: 10 clients, {len(hard)} operations, undivided", undivided(hard), whole(KV)))
    rows, results = [], []
    for name, calls, model in cases:
        seconds = []
        for _ in range(options.runs):
            began = time.perf_counter()
            outcome = check(calls, model, budget=50_000_000)
            seconds.append(time.perf_counter() - began)
        spread = spread_of(seconds)
        result: dict[str, Any] = {
            "history": name, "operations": len(calls), "holds": outcome.holds, "steps": outcome.steps,
            "seconds": seconds,
        }  # fmt: skip
        if "undivided" in name and name.startswith("kv"):
            result["times_porcupine_quoted"] = round(spread.median / PORCUPINE_S, 2)
        results.append(result)
        ms = spread_of([s * 1e3 for s in seconds])
        rows.append([name, str(len(calls)), str(outcome.holds).lower(), f"{outcome.steps:,}", shown(ms, 2)])
    record = {
        "benchmark": "linearizability", "porcupine_quoted_s": PORCUPINE_S, "results": results,
        "environment": environment("polyarch"),
    }  # fmt: skip
    emit(
        options,
        record,
        "Linearizability",
        ["history", "operations", "holds", "steps", "ms (median, range)"],
        rows,
    )


if __name__ == "__main__":
    main()
