"""Averaging: each member, again and again, takes with a random other one the mean of what both have.

Jelasity, Montresor, Babaoglu: "Gossip-based aggregation in large dynamic networks", ACM TOCS 23(3), 2005,
sections 3 and 4.

The sum of all estimates never changes, and their variance falls to 1/(2 sqrt(e)), about 0.303, of it in each
cycle, whatever the number of members, if each begins one exchange in a cycle, at any moment of it: after 30
cycles all know the mean to seven digits.  If the time between two exchanges is exponential, it falls to 1/e.
Sums, counts, products and variances are means of something else.

Two that exchange do not wait for each other: the answer is not the new estimate but half of the difference,
which one has taken away and the other one adds, so that exchanges may cross and the sum still stays.

Values change, and members come and go, so it begins again (4.1): after so many cycles an *epoch* ends, each
keeps its estimate as the result, and starts from its own value.  Who hears of a later epoch goes on there;
who has just come waits for the next one.

What is the problem with this?  An answer that is lost, or a crash, takes its part of the sum along, and the
result of that epoch is wrong by as much; and what is known is as old as an epoch.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.blocks.cycles import in_cycles
from polyarch.core import (
    Architecture,
    Failure,
    Node,
    Record,
    Refused,
    System,
    Verdict,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.aggregate import Aggregate, Gauges, Reading, Readings

Waiting = Literal["cycle", "constant", "exponential"]
"""When a member begins its next exchange: once in each cycle of the common clock, at a random moment; after a
period (give or take a tenth); after an exponential time with that mean."""


class Half(Record, array_like=True):
    """The answer of an exchange."""

    epoch: int
    difference: float
    """Half of what the answerer had more: it has given this away."""


class Result(Record, array_like=True):
    """What a member knows."""

    epoch: int
    value: float
    estimate: float


class NotYet(Refused, code="not-yet"):
    """The member knows no result, or takes no part in this epoch."""


class Averager(Node):
    """One member."""

    addresses: tuple[str, ...]
    period: float = 1.0
    """Seconds of a cycle."""
    waiting: Waiting = "cycle"
    epoch_cycles: int = 30

    async def start(self) -> None:
        # Told by nobody: any number will do.
        self.value = self.disk.get("value", float, 100 * self.random.random())
        self.epoch = self.cycles = 0
        self.estimate = self.value
        self.result: float | None = None
        # Who comes back waits until the next epoch; at the very beginning all are there.
        self.taking_part = not self.disk.get("been here", bool, False)
        self.disk.put("been here", True)
        self.disk.put("value", self.value)
        await self.disk.sync()
        in_cycles(self, self.period, self.cycle, together=self.waiting == "cycle")
        if self.waiting == "exponential":
            self.spawn(self.now_and_then())

    def cycle(self) -> Any:
        """Count it, and exchange with somebody now, or at some moment of it."""
        self.cycles += 1
        if self.cycles > self.epoch_cycles * (1 if self.taking_part else 3):  # nobody was there to wait for
            self.begin(self.epoch + 1)
        if self.waiting == "constant":
            return self.call()
        if self.waiting == "cycle":
            self.after(self.random.between(0.0, self.period), self.call)
        return None

    async def now_and_then(self) -> None:
        while True:
            await self.sleep(self.random.exponential(self.period))
            self.spawn(self.call())

    async def call(self) -> None:
        """Exchange with somebody."""
        if len(self.addresses) == 1:
            return
        partner = self.address
        while partner == self.address:
            partner = self.random.choice(self.addresses)
        epoch = self.epoch
        try:
            half = await self.at(partner).exchange(epoch, self.estimate, self.taking_part)
        except Failure:
            return
        if half.epoch > self.epoch:
            self.hear_of(half.epoch)
        elif self.epoch == epoch == half.epoch and self.taking_part:
            self.estimate += half.difference

    @rpc
    async def exchange(self, epoch: int, estimate: float, takes_part: bool) -> Half:
        """Somebody wants the mean of its estimate and this one's."""
        if epoch > self.epoch:
            self.hear_of(epoch)
        if epoch < self.epoch or not takes_part:
            return Half(self.epoch, 0.0)
        if not self.taking_part:
            raise NotYet(self.address)
        difference = (self.estimate - estimate) / 2
        self.estimate -= difference
        return Half(epoch, difference)

    def hear_of(self, epoch: int) -> None:
        """There is a later epoch: if it is the next one, it begins here too."""
        if self.taking_part or self.epoch:
            self.begin(epoch)
        else:
            self.epoch = epoch  # just come: wait for the one after this

    def begin(self, epoch: int) -> None:
        """An epoch ends, with a result, and another one begins."""
        if self.taking_part:
            self.result = self.estimate
        self.epoch, self.cycles, self.taking_part = epoch, 0, True
        self.estimate = self.value

    @rpc
    async def change(self, value: float) -> None:
        """Its own value is another one: it counts from the next epoch on."""
        self.value = value
        self.disk.put("value", value)
        await self.disk.sync()

    @rpc
    async def known(self) -> Result:
        """Its value, and the result of the last epoch."""
        if self.result is None:
            raise NotYet(self.address)
        return Result(self.epoch, self.value, self.result)


class AveragingClient(Gauges):
    """Asks the members."""

    addresses: tuple[str, ...]
    epoch: float = 1.0
    """Seconds."""

    def member(self, number: int) -> Averager:
        return self.at(self.addresses[number % len(self.addresses)], Averager)

    @rpc
    async def change(self, member: int, value: float) -> None:
        await self.member(member).change(value)

    @rpc
    async def estimate(self, member: int) -> float:
        return (await self.member(member).known()).estimate

    async def all(self) -> dict[str, Result]:
        """Of all who answer, and know."""
        told: list[Any] = []
        for i in range(0, len(self.addresses), 256):
            page = self.addresses[i : i + 256]
            told += await settle(*(self.at(a, Averager).known() for a in page))
        return {a: result for a, result in zip(self.addresses, told) if isinstance(result, Result)}

    @rpc(timeout=120.0)
    async def readings(self) -> Readings:
        """Two epochs later: the one that runs may have begun before the last change."""
        last = max((result.epoch for result in (await self.all()).values()), default=0) + 2
        results: dict[str, Result] = {}
        for _ in range(60):
            results = await self.all()
            if results and all(result.epoch >= last for result in results.values()):
                break
            await self.sleep(self.epoch / 4)
        return await self.results()

    @rpc
    async def results(self) -> Readings:
        """The results that there are now."""
        known = await self.all()
        return Readings(tuple(Reading(a, r.value, r.estimate) for a, r in known.items()))


class Averaging(Architecture):
    """Pairs of peers take the mean of what they have, until all have the mean of all."""

    name = "averaging"
    family = "peer-to-peer"
    source = "Jelasity, Montresor, Babaoglu, Gossip-based aggregation, ACM TOCS 23(3), 2005"
    jobs = (Aggregate,)
    claims = ("no single point of failure", "the error falls to 0.55 of it in a cycle, whatever N")
    metrics = {
        "spread": "standard deviation of the members' results",
        "error": "of the mean of the members' results: what was lost of the sum",
    }

    nodes: int = parameter(16, "peers", least=1)
    period: float = parameter(0.1, "time of a cycle", least=0.001, unit="s")
    waiting: Waiting = parameter("cycle", "when a peer exchanges next: once a cycle, or after a time")
    epoch: int = parameter(30, "cycles until it begins again", least=1)

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        peer = Averager(
            addresses=addresses, period=self.period, waiting=self.waiting, epoch_cycles=self.epoch
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(AveragingClient(addresses=addresses, epoch=self.period * self.epoch))

    async def ready(self, x: Any) -> None:
        while len((await x.client.results()).of) < self.nodes:
            await x.sleep(self.period)

    async def glance(self, x: Any) -> dict[str, Any]:
        return (await self.observe(x))[0]

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        readings = (await x.client.results()).of
        if not readings:
            return {}, []
        n = len(readings)
        mean = sum(r.estimate for r in readings) / n
        spread = (sum((r.estimate - mean) ** 2 for r in readings) / n) ** 0.5
        return {"spread": spread, "error": abs(mean - sum(r.value for r in readings) / n)}, []
