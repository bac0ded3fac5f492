"""Invented records for the tests of the reports.  Their figures are plausible and measured by nobody."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.experiment.record import (
    BlastRadius,
    Comparison,
    Cost,
    Environment,
    Latency,
    Operations,
    RunRecord,
    Spread,
    Verdict,
)


def make_run(architecture: str = "client_server", **changes: Any) -> RunRecord:
    """A record with the least that a run must say, and ``changes``."""
    fields: dict[str, Any] = {
        "architecture": architecture,
        "job": "shop",
        "runtime": "local",
        "seed": 1,
        "parameters": {},
        "nodes": {"server": 1},
        "operations": Operations(attempted=5000, ok=5000, failed=0, unknown=0),
        "faults": (),
        "verdicts": (),
        "metrics": {},
        "wall_s": 12.3,
        "environment": Environment(polyarch="0.1.0", python="CPython 3.11.7", platform="Linux", cpus=2),
    }
    return RunRecord(**fields | changes)


def make_measured(architecture: str, rounds: tuple[float, ...], p99: float, **changes: Any) -> RunRecord:
    """A record of a comparison: throughput by round, and latency at 500 operations per second."""
    fields: dict[str, Any] = {
        "rate_per_s": 500.0,
        "throughput_per_s": 499.2,
        "saturation_throughput_per_s": Spread.of(rounds),
        "latency_ms": Latency(mean=p99 / 5, p50=p99 / 6, p90=p99 / 2.5, p99=p99, max=p99 * 2.3),
        "latency_rounds_ms": {"p99": Spread.of((p99 * 0.95, p99, p99 * 1.04))},
        "verdicts": (
            Verdict(name="no order was charged twice", holds=True, detail="412 orders"),
            Verdict(name="stock was never negative", holds=True, detail="3,812 products"),
        ),
    }
    return make_run(architecture, **fields | changes)


def make_card(architecture: str = "client_server", role: str = "server", **changes: Any) -> BlastRadius:
    """What a harmless kill leaves behind, and ``changes``."""
    fields: dict[str, Any] = {
        "architecture": architecture,
        "role": role,
        "process": f"{role}-1",
        "runtime": "local",
        "attempted": 1500,
        "lost": 0,
        "unknown": 0,
        "recovery_s": 0.0,
        "single_point_of_failure": False,
        "window_s": 3.0,
        "rate_per_s": 500.0,
    }
    return BlastRadius(**fields | changes)


@pytest.fixture
def comparison() -> Comparison:
    """Four architectures of the shop, with every figure that a comparison can hold."""
    runs = (
        make_measured(
            "client_server",
            (1826, 1880, 1931),
            12.1,
            nodes={"server": 1},
            cost_per_operation=Cost(messages=2, bytes=1890, hops=2),
            processes=1,
            memory_mb=71.4,
            parameters={"data": "sqlite", "workers": 1},
        ),
        make_measured(
            "three_tier",
            (1702, 1795, 1838),
            15.8,
            nodes={"web": 1, "logic": 1, "data": 1},
            cost_per_operation=Cost(messages=9.4, bytes=6210, hops=9.1),
            processes=9,
            memory_mb=228.0,
            parameters={"data": "postgresql"},
        ),
        make_measured(
            "replicated",
            (3835, 3950, 4061),
            19.4,
            nodes={"switch": 1, "web": 1, "logic": 3, "data": 1},
            operations=Operations(attempted=5000, ok=4997, failed=3, unknown=0),
            cost_per_operation=Cost(messages=11.6, bytes=7740, hops=11.1),
            processes=14,
            memory_mb=402.6,
            parameters={"data": "postgresql", "replicas": 3, "policy": "round-robin", "switch": "caddy"},
        ),
        make_measured(
            "microservices",
            (905, 948, 1010),
            41.7,
            nodes={"front": 1, "users": 1, "products": 1, "orders": 1, "payments": 1, "queue": 1},
            cost_per_operation=Cost(messages=19.3, bytes=10480, hops=14.2),
            processes=22,
            memory_mb=615.2,
            parameters={"data": "postgresql", "queue": "nats"},
        ),
    )
    single: dict[str, Any] = {"single_point_of_failure": True}
    cards = (
        make_card("client_server", "server", lost=412, unknown=6, recovery_s=0.82, **single),
        make_card("three_tier", "web", lost=260, unknown=4, recovery_s=0.53, **single),
        make_card("three_tier", "logic", lost=301, unknown=3, recovery_s=0.61, **single),
        make_card("three_tier", "data", lost=655, unknown=11, recovery_s=1.34, **single),
        make_card("replicated", "switch", lost=140, unknown=2, recovery_s=0.27, **single),
        make_card("replicated", "web", lost=255, unknown=3, recovery_s=0.5, **single),
        make_card("replicated", "logic"),
        make_card("replicated", "data", lost=1480, unknown=20, recovery_s=None, **single),
        make_card("microservices", "front", lost=271, unknown=5, recovery_s=0.55, **single),
        make_card("microservices", "payments", lost=38, unknown=2, recovery_s=0.6),
        make_card("microservices", "queue"),
    )
    return Comparison(job="shop", runtime="local", runs=runs, blast_radius=cards)
