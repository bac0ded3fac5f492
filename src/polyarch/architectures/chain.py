"""Chain replication: servers in a line; writes go in at the head, reads are answered at the tail.

Van Renesse and Schneider: "Chain replication for supporting high throughput and availability", OSDI 2004.
Sections are the paper's.

A write enters at the *head* and is passed from each server to its successor; when the *tail* has it, it is
done, and everybody before the tail has it too.  The tail answers reads: whatever it has is on all servers'
disks.  So one server's work is split between two, and no write waits for more than one successor at each
server; but it has as many steps as the chain is long.

A *master* (``blocks/views.py``) removes servers that fail and joins the ends (section 3.1): without the head,
the second is the head; without the tail, the last but one is; without one between, its predecessor sends its
new successor whatever that one lacks, so that it has all that the predecessor has (*Update Propagation
Invariant*).  A server that comes back is brought up to date by the tail, and is the tail then.

What differs from the paper: there servers fail by stopping, and everybody can tell; here a server that was
removed may live, cut off.  Messages of an old epoch are refused, and a tail answers only while it holds a
lease, or after asking the others.  The head gives the answer to a write, as it is the head that was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyarch.blocks import views
from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, Replica, Result, until_it_answers
from polyarch.blocks.safeguards import Guarded
from polyarch.blocks.shipping import Shipper, agreement_of
from polyarch.blocks.views import Monitor
from polyarch.core import System, Verdict, oneway, parameter, rpc
from polyarch.jobs.kv import Kv, Value

__all__ = ["Chain", "ChainClient", "Server"]


class Safeguards(views.Safeguards):
    """Those of every group with views, and two of the chain."""

    read_at_tail: bool = True
    """Only the tail answers reads (section 2)."""
    resend: bool = True
    """A new successor is sent what it lacks (section 3.1)."""


class Server(Shipper):
    """One server of the chain.  Its log is the paper's Hist; what is behind ``committed`` in it is Sent."""

    servers: tuple[str, ...]
    safeguards: Safeguards = Safeguards()

    # -- the chain -----------------------------------------------------------------------------------------

    def neighbour(self, distance: int) -> str | None:
        """The successor (1) or the predecessor (-1)."""
        members = self.view.members
        place = members.index(self.address) + distance if self.address in members else -1
        return members[place] if 0 <= place < len(members) else None

    @property
    def is_tail(self) -> bool:
        return self.view.members[-1:] == (self.address,)

    @property
    def successor(self) -> str | None:
        """The next server.  Whom the tail has brought up to date is its successor at once: nothing is done
        any more that the new server does not have."""
        return next(iter(self.joined), None) if self.is_tail else self.neighbour(1)

    def followers(self) -> list[str]:
        if self.successor is not None:
            return [self.successor]
        # "Extending a chain" (section 3.1): the tail brings one that is not in the chain up to date.
        return [s for s in self.servers if s not in self.view.members] if self.is_tail else []

    @property
    def resends(self) -> bool:
        return self.safeguards.resend or self.view.epoch == 1

    def resume_from(self, follower: str) -> int:
        return super().resume_from(follower) if self.resends else self.log.last + 1

    def follows(self, index: int, epoch: int) -> bool:
        return super().follows(index, epoch) or not self.resends

    # -- updates: from the head down, acknowledgements from the tail up --------------------------------------

    @rpc
    async def submit(self, command: Command) -> Result:
        return await self.enter(command)

    def learned(self, follower: str, committed: int) -> None:
        if follower == self.successor and not self.is_tail:
            self.done(min(committed, self.match[follower]))

    @oneway
    def acknowledge(self, epoch: int, index: int) -> None:
        """From the successor: the tail has everything up to ``index``."""
        if not self.is_fenced(epoch) and not self.is_tail:
            self.done(min(index, self.log.durable))

    def count(self) -> None:
        """The tail decides what is done: what it has."""
        if self.is_first and not self.safeguards.whole_group:
            self.done(self.log.durable)
        if self.is_tail:
            if self.successor is None:
                self.joined = tuple(filter(self.is_caught_up, self.followers()))[:1]
            mine = self.log.durable
            self.done(mine if self.successor is None else min(mine, self.match.get(self.successor, 0)))

    def is_caught_up(self, server: str) -> bool:
        """Whether a server has all that is done, and nothing that this chain does not have: it has an entry
        of this epoch, and so nothing of others behind it."""
        index = self.match.get(server, 0)
        told = self.log.entries[index].epoch == self.view.epoch or not self.safeguards.begin_with_an_entry
        return index >= self.committed and told

    def done(self, index: int) -> None:
        """Everything up to ``index`` is on the disks of the whole chain: the predecessor may know."""
        if index > self.committed:
            self.commit(index)
            predecessor = self.neighbour(-1)
            if predecessor is not None:
                self.at(predecessor).acknowledge(self.view.epoch, index)

    # -- queries: at the tail --------------------------------------------------------------------------------

    @rpc
    async def read(self, key: str) -> Value:
        value = self.machine.data.get(key)
        if not self.answers_reads():
            raise NotLeader(self.view.members[-1] if self.view.members else "")
        await self.confirm_place()
        return value

    def answers_reads(self) -> bool:
        """Only the tail does; when it has a successor that the master is to make the tail, that one will."""
        return (self.is_tail and not self.joined) or not self.safeguards.read_at_tail


class ChainClient(LeaderClient):
    """Sends updates to the head and queries to the tail."""

    async def start(self) -> None:
        await super().start()
        self.tail = self.servers[-1]

    @rpc
    async def get(self, key: str) -> Value:
        async def read(server: Replica) -> Value:
            return await server.read(key)

        value: Value = await self.ask(read, "tail")
        return value


class Chain(Guarded):
    """Servers in a line: writes enter at the head and are done at the tail, which answers reads."""

    name = "chain"
    family = "agreement"
    source = "van Renesse and Schneider, Chain replication, OSDI 2004"
    jobs = (Kv,)
    Safeguards = Safeguards
    claims = (
        "linearizable, if clocks run equally fast up to a factor of 1.5",
        "no single point of failure; but while the master is down the chain is not repaired",
    )
    metrics = {
        "epoch": "the latest view: changes of the chain since the start, and one",
        "members": "servers in the chain",
        "log": "entries in the longest log",
    }

    servers: int = parameter(3, "servers in the chain", least=1)
    lease: float = parameter(
        0.15, "time for which a tail is sure; a server is removed after 1.5 of it", least=0.02, unit="s"
    )
    heartbeat: float = parameter(0.05, "time between heartbeats to the successor", least=0.001, unit="s")

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        master = Monitor(servers=addresses, lease=self.lease)
        times: dict[str, Any] = {"lease": self.lease, "heartbeat": self.heartbeat}
        server = Server(servers=addresses, monitor=master, safeguards=self.safeguards, **times)
        system.role("server", server, count=self.servers)
        system.role("master", master)
        system.clients(ChainClient(servers=addresses))

    async def ready(self, x: Any) -> None:
        await until_it_answers(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await agreement_of(x, Server, self.servers)

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        """The tail: nothing is done without it."""
        tails = [a for a, node in nodes.items() if isinstance(node, Server) and node.is_tail]
        return max(tails, key=lambda a: nodes[a].view.epoch, default=None)
