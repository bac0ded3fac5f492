"""Logical clocks: processes that send each other messages, and tell the order of events from these alone.

Lamport: "Time, clocks, and the ordering of events in a distributed system", CACM 21(7), 1978; Fidge 1988 and
Mattern 1989 for vectors (``blocks/clocks.py``).

Each process stamps what happens in it with two clocks, and each message carries both stamps of its sending.
No process ever looks at a physical clock: theirs may differ by hours (``--fault skew:process-1:3600@0-10``)
and nothing changes.

A clock must not go back.  A process writes what has happened to its disk before a message about it leaves;
after a crash it goes on from there.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.clocks import LamportClock, VectorClock
from polyarch.core import Architecture, Node, System, Verdict, oneway, parameter, rpc, settle
from polyarch.jobs.ordering import Event, Happenings, Ordering, Witnesses


class Process(Node):
    """One process."""

    processes: tuple[str, ...]
    receive_rule: bool = True
    """Whether the time of a message is taken into account on its arrival (the paper's IR2)."""

    async def start(self) -> None:
        self.number = self.processes.index(self.address)
        self.events = self.disk.entries("events", Event)
        last = self.events[-1] if self.events else None
        self.lamport = LamportClock(last.lamport if last else 0)
        self.vector = VectorClock(len(self.processes), self.number, last.vector if last else ())

    @rpc
    async def happen(self, other: int) -> int:
        """Something happens here: a message is sent to another process, or only something of our own."""
        if other == self.number:
            self.note("local", "", other, self.lamport.tick(), self.vector.tick())
            await self.disk.sync()
            return self.lamport.time
        time, vector = self.lamport.tick(), self.vector.tick()
        message = f"{self.number}.{len(self.events)}"
        self.note("send", message, other, time, vector)
        await self.disk.sync()
        self.at(self.processes[other]).receive(message, self.number, time, vector)
        return time

    @oneway
    def receive(self, message: str, sender: int, lamport: int, vector: tuple[int, ...]) -> None:
        """A message with the times of its sending."""
        if self.receive_rule:
            time, mine = self.lamport.receive(lamport), self.vector.receive(vector)
        else:
            time, mine = self.lamport.tick(), self.vector.tick()
        self.note("receive", message, sender, time, mine)

    def note(self, kind: str, message: str, other: int, time: int, vector: tuple[int, ...]) -> None:
        event = Event(self.number, len(self.events), kind, message, other, time, vector)
        self.events.append(event)
        self.disk.append("events", event)

    @rpc
    async def happened(self, first: int) -> tuple[Event, ...]:
        """What has happened here, from event number ``first`` on; a page of it."""
        return tuple(self.events[first : first + 500])


class Observer(Witnesses):
    """Makes things happen, and asks what has."""

    processes: tuple[str, ...]

    @rpc
    async def happen(self, process: int, other: int) -> int:
        n = len(self.processes)
        return await self.at(self.processes[process % n], Process).happen(other % n)

    @rpc
    async def happenings(self) -> Happenings:
        told = await settle(*(self.all_of(address) for address in self.processes))
        return Happenings(tuple(e for events in told if isinstance(events, list) for e in events))

    async def all_of(self, address: str) -> list[Event]:
        events: list[Event] = []
        while page := await self.at(address, Process).happened(len(events)):
            events += page
        return events


class LogicalClocks(Architecture):
    """Processes stamp events and messages with Lamport's and vector clocks, which order them."""

    family = "agreement"
    source = "Lamport, Time, clocks, and the ordering of events, 1978; Fidge 1988; Mattern 1989"
    jobs = (Ordering,)
    claims = ("causal order without a physical clock",)
    metrics = {
        "events": "of all processes",
        "longest_chain": "the greatest Lamport time: events that had to follow one another",
        "space_time": "the first events in Lamport's order: process, event, Lamport time and vector",
    }

    nodes: int = parameter(3, "processes", least=1)
    listing: int = parameter(16, "events in the listing", least=0, most=1000)

    def build(self, system: System) -> None:
        processes = system.addresses("process", self.nodes)
        system.role("process", Process(processes=processes), count=self.nodes)
        system.clients(Observer(processes=processes))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        happenings: Happenings = await x.client.happenings()
        events = sorted(happenings.events, key=lambda e: (e.lamport, e.process))
        metrics: dict[str, Any] = {"events": len(events)}
        if events:
            metrics["longest_chain"] = events[-1].lamport
        if self.listing:
            metrics["space_time"] = "\n".join(line(e, self.nodes) for e in events[: self.listing])
        return metrics, []


def line(e: Event, processes: int) -> str:
    """A line of the listing: a column for each process, time runs down.

    ``  3  .      >1.0   .       1.0 from 1  (1, 2, 0)``
    """
    mark = {"local": "o", "send": f"{e.message}>", "receive": f">{e.message}"}[e.kind]
    columns = "".join(f"{mark if i == e.process else '|':<8}" for i in range(processes))
    what = {"local": "", "send": f"to {e.other}", "receive": f"from {e.other}"}[e.kind]
    return f"{e.lamport:>4}  {columns}{what:<7} {e.vector}"
