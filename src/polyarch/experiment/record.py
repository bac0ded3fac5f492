"""Result records: what a run and a comparison write down, and what every report reads.

The names are a contract (``polyarch run --json``, ``polyarch compare --json``): they may be added to, not
changed.  Three rules hold for every field:

- A figure that was not measured is absent: ``None`` here, no key in the JSON, never zero.
- A unit is part of the name (``_s``, ``_ms``, ``_mb``, ``_per_s``) or stated below.
- Fields come in the order of their declaration and dictionaries sorted by key, so that two files can
  be compared line by line.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from polyarch.core.job import Measure, Verdict
from polyarch.core.records import Record

__all__ = [
    "BadRecord",
    "BlastRadius",
    "Churned",
    "Comparison",
    "Cost",
    "Environment",
    "Latency",
    "Measure",
    "Operations",
    "RunRecord",
    "Spread",
    "Verdict",
    "dumps",
    "environment",
    "load",
    "loads",
    "save",
]


class BadRecord(ValueError):
    """A file that is not the record it should be; the message is one line that says where and why."""


class Operations(Record, frozen=True, kw_only=True):
    """How the operations of a run ended.  ``attempted == ok + failed + unknown``."""

    attempted: int
    """Operations that the workload started."""
    ok: int
    """Answered with a result."""
    failed: int
    """Refused: they definitely did not happen."""
    unknown: int
    """Timed out or broken off: they may have happened."""

    def __post_init__(self) -> None:
        if self.attempted != self.ok + self.failed + self.unknown:
            raise ValueError(
                f"attempted ({self.attempted}) is not ok + failed + unknown "
                f"({self.ok} + {self.failed} + {self.unknown})"
            )


class Latency(Record, frozen=True, kw_only=True):
    """Milliseconds from the intended start of an operation to its result, of successful operations.

    Percentiles of one histogram that was merged over all rounds, never averages of percentiles.
    The mean is exact, percentiles are within the histogram's relative error.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Cost(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What one operation costs on average, over all roles.  What was not counted is absent."""

    messages: float | None = None
    """Messages sent, requests and replies each counting one."""
    bytes: float | None = None
    """Bytes sent, with framing."""
    hops: float | None = None
    """Messages on the critical path: those that the client waited for one after another."""


class Spread(Record, frozen=True, kw_only=True):
    """A figure that was measured in several rounds; its unit is the field's that holds it."""

    median: float
    low: float
    """Lower end of the range that the figure is believed to be in."""
    high: float
    """Upper end of that range."""
    runs: tuple[float, ...]
    """The value of each round, in the order of the rounds."""

    @classmethod
    def of(cls, runs: Iterable[float]) -> Spread:
        """The median of ``runs`` and their full range, which claims nothing that a few rounds cannot."""
        values = tuple(runs)
        if not values:
            raise ValueError("a spread needs at least one round")
        return cls(median=statistics.median(values), low=min(values), high=max(values), runs=values)

    @property
    def plus_minus(self) -> float:
        """The distance from the median to the farther end of the range."""
        return max(self.high - self.median, self.median - self.low)

    def overlaps(self, other: Spread) -> bool:
        """Whether the two ranges share a value: then the figures are called equal."""
        return self.low <= other.high and other.low <= self.high


class Environment(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Where a figure was measured: enough to know which figures may be compared."""

    polyarch: str
    """Version of Polyarch."""
    python: str
    """Implementation and version: ``CPython 3.11.7``."""
    platform: str
    """Operating system, its release, and the machine: ``Linux 6.1.0 x86_64``."""
    cpus: int
    """Logical processors that this process may use."""
    cpu_model: str | None = None
    """The processor's name, where the system tells."""


class Churned(Record, frozen=True, kw_only=True, omit_defaults=True):
    """How peers came and went while a run was loaded."""

    churn: str
    """In the words of ``--churn``."""
    role: str
    away_before: int
    """How many left before the load began, so that somebody could come."""
    joined: int
    """How often somebody came back under load."""
    left: int
    """How often somebody left in good order."""
    crashed: int
    """How often somebody stopped without a word: because that was wanted, or because its protocol has no
    way to leave, or because leaving failed."""
    void: int
    """How often nobody was away to come back, or only one was left to leave: nothing was done."""
    present_mean: float | None = None
    """How many were there, averaged over the time of the load."""
    present_least: int
    present_most: int


class RunRecord(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One architecture, doing one job, on one runtime, under one workload and one set of faults."""

    architecture: str
    """Its name; in comparisons with what only it was given (``two_tier:split=a``)."""
    job: str
    runtime: str
    """``sim``, ``local``, …"""
    seed: int
    """Decides everything on ``sim``, and the workload on every runtime."""
    parameters: dict[str, Any]
    """The architecture's and the workload's parameters, defaults included: JSON values by name."""
    nodes: dict[str, int]
    """How many nodes each role had."""

    rate_per_s: float | None = None
    """Operations per second that an open-loop workload offered while latency was measured."""
    clients: int | None = None
    """Clients of a closed-loop workload."""
    trace: str | None = None
    """The file of recorded visits that was replayed."""
    speedup: float | None = None
    """How many times faster than recorded."""
    duration_s: float | None = None
    """Seconds of load behind the figures, of virtual time on ``sim``."""

    operations: Operations
    throughput_per_s: float | None = None
    """Successful operations per second of load."""
    latency_ms: Latency | None = None
    """Milliseconds, over all kinds of operation."""
    latency_by_operation_ms: dict[str, Latency] | None = None
    """Milliseconds, for each kind of operation: ``{"checkout": …}``."""
    cost_per_operation: Cost | None = None

    saturation_throughput_per_s: Spread | None = None
    """Successful operations per second under more load than the architecture can carry, by round; absent
    where the clients that were there to saturate it evidently did not."""
    latency_rounds_ms: dict[str, Spread] | None = None
    """How far the percentiles of single rounds lie apart, milliseconds: ``{"p99": …}``.  The figure to
    quote is ``latency_ms``, this is its spread."""
    processes: int | None = None
    """Operating-system processes of the architecture, components included, clients not."""
    memory_mb: float | None = None
    """Memory of those processes under load, in 10^6 bytes; pages that they share count once if the
    system can tell."""

    faults: tuple[str, ...]
    """What was done to it, in the words of ``--fault``, in order."""
    churn: tuple[Churned, ...] = ()
    """How peers came and went."""
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, Any]
    """The architecture's own figures, JSON values by name; ``polyarch show`` documents them."""
    trace_hash: str | None = None
    """Of every event in order, on ``sim`` only: equal means that the runs were identical."""
    wall_s: float
    """Seconds of real time that the run took."""
    environment: Environment

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not any(verdict.broken for verdict in self.verdicts)


class BlastRadius(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What killing one process of one role cost, under a steady load."""

    architecture: str
    role: str
    process: str
    """Which process was killed: ``logic-2``."""
    runtime: str
    attempted: int
    """Operations in flight at the kill, or begun from then until the end of the window."""
    lost: int
    """Of these, refused: they did not happen."""
    unknown: int
    """Of these, without an answer: they may have happened."""
    recovery_s: float | None
    """Seconds from the kill until operations succeeded, and as fast as before; 0: none failed or stalled;
    ``null``: not in the window."""
    single_point_of_failure: bool
    """Whether some kind of operation did not succeed at all until the process was back; of an architecture
    in which others take over after a time that it states (``Architecture.takeover``): after that time."""
    window_s: float | None = None
    """Seconds that were watched after the kill."""
    rate_per_s: float | None = None
    """Operations per second that were offered."""
    detail: str = ""
    """What else is worth knowing: which operations failed, and with what."""


class Comparison(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Several architectures that did the same job under the same seed and load, interleaved."""

    job: str
    runtime: str
    runs: tuple[RunRecord, ...]
    """One for each architecture, in the order asked for; ratios are against the first."""
    blast_radius: tuple[BlastRadius, ...]
    sentences: tuple[str, ...] = ()
    """One verdict in words for each run, in the same order."""
    gaps: dict[str, str] = {}
    """Architectures that were asked for and not measured, each with the reason."""
    measures: tuple[Measure, ...] = ()
    """The job's own figures, which are among the ``metrics`` of the runs: from before anything was killed,
    but for those that are found in the history (``lost_keys``), which is that of all rounds and kills."""

    @property
    def holds(self) -> bool:
        """Whether every run has kept its promises."""
        return all(run.holds for run in self.runs)


R = TypeVar("R", RunRecord, Comparison)


def dumps(record: Record) -> str:
    """The record as indented JSON with a stable order of keys and a newline at the end."""
    compact = msgspec.json.encode(record, order="deterministic")
    return msgspec.json.format(compact, indent=2).decode() + "\n"


def loads(text: str | bytes, of: type[R], *, name: str = "record") -> R:
    """Read a record back.  ``BadRecord`` names ``name``, the field and what is wrong with it."""
    try:
        return msgspec.json.decode(text, type=of)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRecord(f"{name} is not a {of.__name__}: {error}") from None


def save(record: Record, file: str | Path) -> None:
    """Write ``record`` to ``file``, or to standard output when it is ``-``.  Folders are made."""
    text = dumps(record)
    if str(file) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def load(file: str | Path, of: type[R]) -> R:
    """Read what ``save`` wrote.  ``BadRecord`` when it is something else, ``OSError`` when unreadable."""
    return loads(Path(file).read_bytes(), of, name=str(file))


def environment() -> Environment:
    """The environment of this process.  It asks no clock, so equal runs write equal records."""
    try:
        version = metadata.version("polyarch")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        version = "unknown"
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return Environment(
        polyarch=version,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        cpu_model=_cpu_model(),
    )


def _cpu_model() -> str | None:
    """The processor's name as Linux tells it; elsewhere ``platform`` may know."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip() not in ("", "unknown"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None
