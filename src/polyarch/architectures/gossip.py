"""Gossip: whoever hears a message for the first time passes it on to f others, chosen at random, and rests.

Kermarrec, Massoulié, Ganesh: "Probabilistic reliable dissemination in large-scale systems", IEEE TPDS 14(3),
2003.  It is what Eugster, Guerraoui, Kermarrec and Massoulié call infect and die ("Epidemic information
dissemination in distributed systems", IEEE Computer 37(5), 2004).

Nobody knows who has heard it already: of N members, each is chosen about f times, and is missed by all
choices with probability e^(-f r), where r is the share that tells others.  So the share that hears it is the
solution of

    r = 1 - e^(-f r)

(0.94 for f = 3), however many members there are.  There is no structure to keep, load is even, and the crash
of a part of the members acts as a smaller f, no more.

What is the problem with this?  For everybody to hear it, f must grow with log N: with f = log N + c all do
with probability e^(-e^-c).  So each message costs f N copies, most of which tell nothing new, and still there
is no certainty.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.broadcast import SPREAD, BroadcastClient, News, Teller, spread_of
from polyarch.core import Architecture, System, Verdict, oneway, parameter
from polyarch.jobs.broadcast import Broadcast


class Gossip(Teller):
    """One member."""

    addresses: tuple[str, ...]
    """All members: who they are is known to each (cyclon and hyparview do without)."""
    fanout: int = 3
    """f: how many others are told."""

    def spread(self, news: News) -> None:
        """Infect f others, and die."""
        for target in self.others(self.fanout):
            self.sent += 1
            self.at(target).tell(news)

    @oneway
    def tell(self, news: News) -> None:
        """A message on its way."""
        if self.receive(news):
            self.spread(news)

    def others(self, count: int) -> list[str]:
        """So many different members, chosen at random, without this one."""
        drawn = self.random.sample(self.addresses, min(count + 1, len(self.addresses)))
        return [a for a in drawn if a != self.address][:count]


class GossipBroadcast(Architecture):
    """Everyone who hears a message first passes it on to a few others, chosen at random, once."""

    name = "gossip"
    family = "peer-to-peer"
    source = "Kermarrec, Massoulié, Ganesh, Probabilistic reliable dissemination, IEEE TPDS 14(3), 2003"
    jobs = (Broadcast,)
    claims = ("no single point of failure", "reaches all with probability e^-e^-(f - ln N)")
    metrics = SPREAD

    nodes: int = parameter(16, "peers", least=1)
    fanout: int = parameter(6, "f: others that each peer tells", least=1)

    @property
    def disclaims(self) -> tuple[str, ...]:
        """Coverage is a matter of chance."""
        return ("what was published reached all who stayed", "all who stayed delivered the same messages")

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        system.role("peer", Gossip(addresses=addresses, fanout=self.fanout), count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await spread_of(x), []
