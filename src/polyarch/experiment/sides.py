"""What clients get on the two sides of a partition; what both sides accept; and how it heals.

When it is cut in two a store cannot be both consistent and available (Gilbert and Lynch, "Brewer's conjecture
and the feasibility of consistent, available, partition-tolerant web services", 2002): so put a client on each
side, behind the same cut, and look which half is lost.  And else, without any partition, consistency costs
latency (Abadi, "Consistency tradeoffs in modern distributed database system design", 2012: PACELC): the same
clients measure it before the cut.

The clients of the load itself are outside of the partition, and reach both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.job import Done, Job
from polyarch.core.messages import schema_of
from polyarch.core.tasks import gather
from polyarch.experiment.load import Load, LoadClient
from polyarch.faults.spec import CLIENT, Fault

__all__ = ["Sides", "sides_of"]

_RATE = 50.0  # operations per second of each side's client
_PAGE = 2000
_PATIENCE = 20.0  # seconds that two sides have to agree again


def sides_of(faults: Sequence[Fault], runtime: str) -> Sides | None:
    """The sides of the first partition among the faults that cuts servers from servers, both ways; None if
    there is none.  Only simulations have clients in several places."""
    for fault in faults:
        apart = not set(fault.sources) & set(fault.targets) and CLIENT not in (*fault.sources, *fault.targets)
        if runtime == "sim" and fault.kind == "partition" and fault.both_ways and apart:
            return Sides(fault)
    return None


class Sides:
    """A partition with a client on each side."""

    clients = ("client-1", "client-2")

    def __init__(self, fault: Fault) -> None:
        self.names = (fault.sources, fault.targets)
        self.original = fault
        one, other = self.clients
        self.fault: Fault = msgspec.structs.replace(
            fault, sources=(*fault.sources, one), targets=(*fault.targets, other)
        )
        self.histories: list[list[Done]] = [[], []]
        self.cut = self.healed = 0.0
        self.agreed: float | None = None
        """When both sides answered the same again for what both had written."""

    def put_behind(self, faults: Sequence[Fault]) -> list[Fault]:
        """The same faults, of which the partition cuts the sides' clients too."""
        return [self.fault if fault is self.original else fault for fault in faults]

    @property
    def history(self) -> list[Done]:
        """What both clients have asked for."""
        return [done for history in self.histories for done in history]

    async def watch(self, x: Any, load: Load, job: Job) -> None:
        """Ask on both sides for as long as the load lasts, and until they agree."""
        begin = x.now
        self.cut = begin + self.fault.start
        self.healed = begin + min(load.duration, self.fault.end or load.duration)
        sides = [x.at(f"loadclient-{i}", LoadClient) for i in (1, 2)]
        loads = [
            Load(duration=load.duration, rate=_RATE, account=0, name=f"side {name}") for name in self.clients
        ]
        main = x.at("loadclient", LoadClient)
        await main.plan(loads)  # of the same stream, so that no two write the same
        for side, its in zip(sides, loads):
            await side.take_over(its.name, await main.hand_over(its.name))
        asking = [x.spawn(side.run(its)) for side, its in zip(sides, loads)]
        await x.sleep(self.healed - x.now)
        await self._collect(sides)
        await self._agree(x, job)
        for task in asking:
            await task
        await self._collect(sides)

    async def _collect(self, sides: Sequence[LoadClient]) -> None:
        for history, side in zip(self.histories, sides):
            while page := await side.past(len(history), _PAGE):
                history += page

    def written_on_both(self) -> list[str]:
        """Keys of which both sides have accepted a write while they were apart."""
        keys = [
            {
                d.arguments[0]: None
                for d in history
                if d.name != "get" and self._answered(d) and d.value is not False
            }
            for history in self.histories
        ]
        return [key for key in keys[0] if key in keys[1]]

    async def _agree(self, x: Any, job: Job) -> None:
        """Ask both again and again for what both have written.  (While others write too, two answers may
        differ that belong to different moments; sooner or later two do not.)"""
        schema = schema_of(job.port)
        if "get" not in schema.methods:
            return
        one, other = (x.at(f"client-{i}", job.port, timeout=1.0) for i in (1, 2))
        differ, until = self.written_on_both(), x.now + _PATIENCE
        if not differ:
            return
        while differ and x.now < until:
            for key in list(differ):
                try:
                    a, b = await gather(one.get(key), other.get(key))
                except Failure:
                    continue
                if a == b:
                    differ.remove(key)
            if differ:
                await x.sleep(0.02)
        if not differ:
            self.agreed = x.now

    def _during(self, d: Done) -> bool:
        return self.cut <= d.intended < self.healed

    def _answered(self, d: Done) -> bool:
        return d.outcome == "ok" and self._during(d) and d.end <= self.healed

    def metrics(self) -> dict[str, Any]:
        """The figures, by side; what was not measured is absent."""
        figures: dict[str, Any] = {}
        for place, (names, history) in enumerate(zip(self.names, self.histories), 1):
            kinds = sorted({d.name for d in history})
            during = {kind: [d for d in history if d.name == kind and self._during(d)] for kind in kinds}
            before = {
                kind: [
                    d.end - d.intended
                    for d in history
                    if d.name == kind and d.outcome == "ok" and d.end < self.cut
                ]
                for kind in kinds
            }
            figures[f"side_{place}"] = ", ".join(names)
            figures[f"side_{place}_answered"] = {
                kind: round(sum(map(self._answered, asked)) / len(asked), 4)
                for kind, asked in during.items()
                if asked
            }
            figures[f"side_{place}_p50_before_ms"] = {
                kind: round(statistics.median(times) * 1e3, 3) for kind, times in before.items() if times
            }
        if any(d.name == "put" for d in self.history):
            both = len(self.written_on_both())
            figures["keys_written_on_both_sides"] = both
            if both and self.agreed is not None:
                figures["agreed_again_after_s"] = round(self.agreed - self.healed, 3)
        return figures
