"""Anti-entropy: every member, again and again, compares what it has with what a random other one has.

Demers, Greene, Hauser, Irish, Larson, Shenker, Sturgis, Swinehart, Terry: "Epidemic algorithms for replicated
database maintenance", PODC 1987 (Xerox CSL-89-1), section 1.3.  Here the database is the set of messages that
were published.

Once in a cycle each member chooses a partner, and they resolve their differences by

* **push**: what the partner lacks is sent to it;
* **pull**: what this one lacks is asked for;
* **push-pull**: both.

Someone who has not heard a message after i cycles, with probability p(i), has not heard it after the next one
either with probability p(i)^2 for pull (it asks one that has not), but p(i)/e for push (nobody calls it).
So push is the faster at first, and pull at the end: log2 N + ln N cycles for push, log3 N + O(log log N) for
both (Karp, Schindelhauer, Shenker, Vöcking, "Randomized rumor spreading", FOCS 2000).

To compare, two members exchange checksums of all that they have, and a list of what came recently.  If the
checksums agree when what is recent is taken into account, that is all; otherwise they compare everything.

A message reaches everybody with certainty, whatever is lost on the way and whoever crashes (if the member
through which it was published comes back: its disk has it).

What is the problem with this?  Every member calls somebody in every cycle even if there is nothing new, and a
message takes several cycles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from polyarch.blocks.broadcast import SPREAD, BroadcastClient, News, Teller, spread_of
from polyarch.blocks.cycles import in_cycles
from polyarch.core import Architecture, Failure, Random, Record, System, Verdict, oneway, parameter, rpc
from polyarch.jobs.broadcast import Broadcast

Style = Literal["push", "pull", "push-pull"]


class Digest(Record, array_like=True):
    """What a member has, in short."""

    checksum: int
    """Of the numbers of all its messages, in any order."""
    listed: tuple[int, ...]
    """Those that came to it recently; or all."""
    all: bool


class Difference(Record, array_like=True):
    """The answer to a digest."""

    missing: tuple[News, ...]
    """What the asker lacks (if it pulls)."""
    wanted: tuple[int, ...]
    """What the answerer lacks (if the asker pushes)."""
    known: bool
    """False: the recent messages do not explain the difference; send the list of all."""


class AntiEntropy(Teller):
    """One member."""

    addresses: tuple[str, ...]
    style: Style = "push-pull"
    period: float = 1.0
    """Seconds of a cycle."""
    recent: float = 5.0
    """Seconds during which what has come is recent."""
    together: bool = False
    """Whether all act at the same moments."""

    async def start(self) -> None:
        self.begin()
        self.checksum = 0
        for news in self.disk.entries("store", News):  # from before a crash
            self.deliver(news)
        in_cycles(self, self.period, self.cycle, together=self.together)

    async def spread(self, news: News) -> None:
        """It will be found; but it must not be lost before."""
        self.disk.append("store", news)
        await self.disk.sync()

    def deliver(self, news: News) -> None:
        super().deliver(news)
        self.checksum ^= spread_bits(news.message)

    def cycle(self) -> Any:
        """Whoever has or wants something calls somebody."""
        push, pull = "push" in self.style, "pull" in self.style
        if (pull or self.store) and len(self.addresses) > 1:
            return self.call(push, pull)
        return None

    async def call(self, push: bool, pull: bool) -> None:
        """Choose a partner, and resolve the differences."""
        partner = self.address
        while partner == self.address:
            partner = self.random.choice(self.addresses)
        try:
            difference = await self.ask(partner, self.digest(), push, pull)
            if not difference.known:
                everything = Digest(self.checksum, tuple(self.store), True)
                difference = await self.ask(partner, everything, push, pull)
        except Failure:
            return  # another one in the next cycle
        for news in difference.missing:
            self.receive(news)
        if difference.wanted:
            self.sent += 1
            self.at(partner).give(tuple(self.store[message] for message in difference.wanted))

    async def ask(self, partner: str, digest: Digest, push: bool, pull: bool) -> Difference:
        self.sent += 1
        return await self.at(partner).resolve(digest, push, pull)

    def digest(self) -> Digest:
        listed = []
        for delivery in reversed(self.log):
            if delivery.at < self.now - self.recent:
                break
            listed.append(delivery.message)
        return Digest(self.checksum, tuple(listed), False)

    @rpc
    async def resolve(self, theirs: Digest, push: bool, pull: bool) -> Difference:
        """Compare a partner's digest with what is here."""
        self.sent += 1  # the answer
        if theirs.checksum == self.checksum and not theirs.all:
            return Difference((), (), True)
        mine = self.store if theirs.all else self.digest().listed
        have = dict.fromkeys(theirs.listed)
        wanted = tuple(message for message in theirs.listed if message not in self.store)
        missing = tuple(message for message in mine if message not in have)
        # With what each would give the other, would they be the same?
        if theirs.checksum ^ checksum(missing) != self.checksum ^ checksum(wanted):
            return Difference((), (), False)
        texts = tuple(self.store[message] for message in missing) if pull else ()
        return Difference(texts, wanted if push else (), True)

    @oneway
    def give(self, texts: tuple[News, ...]) -> None:
        """What a partner had, and this one lacked when it was asked."""
        for news in texts:
            self.receive(news)


def spread_bits(message: int) -> int:
    """64 bits that look random and are always the same for a message."""
    return Random(message).bits64()


def checksum(messages: Iterable[int]) -> int:
    """Of a set of messages, in any order."""
    total = 0
    for message in messages:
        total ^= spread_bits(message)
    return total


class AntiEntropyBroadcast(Architecture):
    """Every peer compares what it has with a random other one, again and again: push, pull or both."""

    name = "anti_entropy"
    family = "peer-to-peer"
    source = "Demers et al., Epidemic algorithms for replicated database maintenance, PODC 1987, section 1.3"
    jobs = (Broadcast,)
    claims = ("no single point of failure", "reaches all", "push-pull: about log3 N cycles")
    metrics = SPREAD

    nodes: int = parameter(16, "peers", least=1)
    style: Style = parameter("push-pull", "who tells whom when two compare")
    period: float = parameter(0.2, "time of a cycle", least=0.001, unit="s")
    recent: float = parameter(5.0, "time during which a message is recent", least=0, unit="s")
    together: bool = parameter(False, "all act at the same moments, as in the papers' synchronous model")

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        peer = AntiEntropy(
            addresses=addresses,
            style=self.style,
            period=self.period,
            recent=self.recent,
            together=self.together,
        )
        system.role("peer", peer, count=self.nodes)
        # A message may pause for some cycles, if push alone does not find the last one.
        system.clients(BroadcastClient(addresses=addresses, patience=max(1.0, 12 * self.period)))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await spread_of(x), []
