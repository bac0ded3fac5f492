"""A job: what a distributed system is for, said once for all architectures.

A job is a port (its operations), a workload (a seeded stream of visits), and what must be true afterwards
(its correctness model, from the history of operations and an audit of the final state).

    class Counting(Job):
        "Count things."
        port = Counter                              # a class with @rpc operations

        def visits(self, random):                   # endless: each visit is operations one after another
            while True:
                yield (Operation("increment", (random.choice("abc"),)),)

        def check(self, history, audit):
            ...
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Parameterised, Verdict

__all__ = ["Done", "Job", "Measure", "Operation", "Verdict", "Visit"]


class Operation(Record):
    """One operation that a client will ask for: a method of the job's port, and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()


Visit = tuple[Operation, ...]
"""Operations of one client, one after another; what follows a failed one is not attempted."""


class Done(Record):
    """One operation as its client saw it: a line of the history."""

    client: int
    """The visit's number: operations of one visit never overlap."""
    name: str
    arguments: tuple[Any, ...]
    intended: float
    """Seconds since the start of the load at which it should have been sent (open loop), or was."""
    start: float
    """Seconds at which it was sent."""
    end: float
    """Seconds at which its outcome was known."""
    outcome: Literal["ok", "fail", "info"]
    """``fail``: Refused, it did not happen.  ``info``: Timeout, it may have."""
    value: Any = None
    """The result, as plain values."""
    code: str = ""
    """Why not: the failure's code."""
    detail: str = ""


class Measure(Record, omit_defaults=True):
    """A figure of a job, among the ``metrics`` of a run: a line of every comparison.  Its architectures
    measure it themselves (``Architecture.observe``), or the job finds it in the history (``Job.figures``)."""

    name: str
    """Its name among the metrics."""
    words: str
    """What it says, with the figure as ``{}``: ``a node knows {} others``."""
    unit: str = ""
    better: Literal["high", "low"] | None = None
    factor: float = 1.0
    """What the metric is multiplied with to be in this unit: 100 for a share in ``%``."""


class Job(Parameterised, abc.ABC):
    """The base of jobs; one file each.  Its docstring's first line is its summary."""

    name: ClassVar[str] = ""
    """The name on the command line; the file's name unless given."""
    port: ClassVar[type]
    """The class whose ``@rpc`` methods are the operations."""
    answers: ClassVar[frozenset[str]] = frozenset()
    """Codes of refusals that are proper answers of the job (such as ``out-of-stock``) and no failure of
    the system: they do not count as operations lost."""
    runtime: ClassVar[str] = "sim"
    """The runtime that it is meant for, unless ``--on`` says another."""
    rate: float = 100.0
    """Operations per second of a run that says neither a rate nor clients."""
    mean_visit: float = 1.0
    """Mean number of operations in a visit: a rate of R operations/s is R / mean_visit visits/s."""

    saturates: ClassVar[bool] = True
    """Whether clients that ask as fast as they are answered show what a system can carry.  Not where an
    answer comes before the work is done: then comparisons do not try."""
    measures: ClassVar[tuple[Measure, ...]] = ()
    """What else to compare architectures by, beside throughput, latency and cost."""

    small: ClassVar[dict[str, Any]] = {}
    """Parameters with which few operations meet often: those of ``polyarch check``."""

    async def prepare(self, client: Any) -> None:
        """Fill the system before the load, through the port and what the client offers besides."""

    @abc.abstractmethod
    def visits(self, random: Random) -> Iterator[Visit]:
        """The endless seeded stream of what clients do."""

    def trace(self, path: Path) -> Iterator[tuple[float, Visit]]:
        """Visits of a recorded trace, with the seconds from its start at which each came, in order.
        ``ValueError`` with the line number for what cannot be read."""
        raise ValueError(f"the job {self.name} cannot replay traces")

    async def audit(self, client: Any) -> Any:
        """The final state, asked for when everything is healed and quiet; given to ``check``."""
        return None

    @abc.abstractmethod
    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        """What must be true of every run, whatever failed in it."""

    def figures(self, history: Sequence[Done], audit: Any) -> dict[str, Any]:
        """What the history and the final state show beside what ``check`` says of them: metrics of the run,
        by name."""
        return {}

    def conflict(self, history: Sequence[Done], audit: Any) -> Sequence[Done]:
        """If ``check`` found something wrong with the history: operations that contradict each other, as few
        as possible; for the story of what went wrong."""
        return ()
