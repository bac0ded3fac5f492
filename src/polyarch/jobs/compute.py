"""Compute something for a client: increment a number, add two, sort a list; or wait for something else.

Every request says what it takes: ``work``, seconds of a core, and ``blocking``, seconds of waiting for
something that is not this server (a disk, a database, another service), in which a thread is occupied and a
core is not.  So the same requests can be asked of every kind of server, and behind every kind of switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from polyarch.blocks.durations import Distribution, Durations
from polyarch.blocks.popularity import Popularity
from polyarch.core import Job, Measure, Node, Operation, Random, Verdict, Visit, get, parameter, post
from polyarch.core.job import Done

__all__ = ["MOST", "RIGHT", "Compute", "ComputeJob", "Seconds"]

Seconds = float
"""What a request takes of a server: from nothing to ``MOST``."""
MOST = 60.0


class Compute(Node):
    """The port of a server that computes.  ``client``: who asks, for a server that is fair."""

    timeout = 10.0

    @get("/increment")
    async def increment(
        self, value: int, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> int:
        """One more than a number."""
        raise NotImplementedError

    @get("/add")
    async def add(
        self, a: float, b: float, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> float:
        """The sum of two numbers."""
        raise NotImplementedError

    @post("/sort")
    async def sort(
        self, numbers: tuple[float, ...], work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        """The numbers in ascending order."""
        raise NotImplementedError

    @get("/block")
    async def block(self, seconds: Seconds, work: Seconds = 0.0, client: int = 0) -> float:
        """Wait for so long in a blocking call; how long it was asked to be."""
        raise NotImplementedError


RIGHT: dict[str, Callable[..., Any]] = {
    "increment": lambda value, *_: value + 1,
    "add": lambda a, b, *_: a + b,
    "sort": lambda numbers, *_: sorted(numbers),
    "block": lambda seconds, *_: seconds,
}
"""The right answer of each operation, by its arguments: the job's model."""


class ComputeJob(Job):
    """Compute: increment a number, add two, sort a list; and wait in blocking calls.

    What is checked: every answer is right.
    """

    name = "compute"
    port = Compute
    measures = (
        Measure("fairness", "fairness among its clients {}", better="high"),
        Measure("refused_share", "it refuses {}", "%", "low", 100.0),
    )
    small = {"work": 0.001, "length": 4}

    increments: float = parameter(0.3, "weight of increments among the operations", least=0)
    adds: float = parameter(0.3, "weight of sums of two", least=0)
    sorts: float = parameter(0.3, "weight of sorted lists", least=0)
    blocks: float = parameter(0.1, "weight of blocking calls", least=0)
    work: float = parameter(0.001, "mean work of each operation, on a core", least=0, most=MOST, unit="s")
    work_law: Distribution = parameter("exponential", "distribution of the work")
    work_shape: float = parameter(
        4.0, "Erlang: phases; hyperexponential: squared coefficient of variation", least=1
    )
    blocking: float = parameter(0.010, "mean length of a blocking call", least=0, most=MOST, unit="s")
    blocking_law: Distribution = parameter("deterministic", "distribution of blocking calls")
    length: int = parameter(100, "numbers in a list to sort", least=0, most=10_000)
    customers: int = parameter(10, "clients that a fair server serves alike", least=1)
    skew: float = parameter(
        0.0, "Zipf exponent of how much the clients ask for; 0: all the same", least=0, most=4
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.weights = list(accumulate((self.increments, self.adds, self.sorts, self.blocks)))
        if self.weights[-1] <= 0:
            raise ValueError("--increments, --adds, --sorts and --blocks are all 0: nothing to ask for")
        self.works = Durations(self.work, self.work_law, self.work_shape)
        self.waits = Durations(self.blocking, self.blocking_law, self.work_shape)

    def visits(self, random: Random) -> Iterator[Visit]:
        names, weights, work, blocking = tuple(RIGHT), self.weights, self.works, self.waits
        customers = Popularity(self.customers, self.skew)
        while True:
            draw = weights[-1] * random.random()
            name = names[sum(draw >= weight for weight in weights[:-1])]
            spent, client = min(MOST, work.draw(random)), customers.draw(random)
            arguments: tuple[Any, ...]
            if name == "increment":
                arguments = (random.below(1_000_000), spent, 0.0, client)
            elif name == "add":
                arguments = (random.below(1000) / 8, random.below(1000) / 8, spent, 0.0, client)
            elif name == "sort":
                numbers = tuple(random.below(100_000) / 8 for _ in range(self.length))
                arguments = (numbers, spent, 0.0, client)
            else:
                arguments = (min(MOST, blocking.draw(random)), spent, client)
            yield (Operation(name, arguments),)

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        answered = [done for done in history if done.outcome == "ok"]
        wrong = [done for done in answered if _plain(done.value) != RIGHT[done.name](*done.arguments)]
        first = f"; first: {wrong[0].name}{wrong[0].arguments} gave {wrong[0].value}" if wrong else ""
        detail = f"{len(answered)} of {len(history)} answered, {len(wrong)} of them wrong{first}"
        return [Verdict("every answer is right", not wrong, detail)]

    def conflict(self, history: Sequence[Done], audit: Any) -> Sequence[Done]:
        wrong = (d for d in history if d.outcome == "ok" and _plain(d.value) != RIGHT[d.name](*d.arguments))
        return [done for _, done in zip(range(1), wrong)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
