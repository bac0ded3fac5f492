"""Primary-backup: one server does the work and copies it to others, one of which takes over when it dies.

Alsberg and Day: "A principle for resilient sharing of distributed resources", 1976; Budhiraja, Marzullo,
Schneider and Toueg: "The primary-backup approach", in Distributed Systems, 2nd ed., 1993.

The *primary* is the first member of the view (``blocks/views.py``), the others are its *backups*.  It puts
clients' commands into its log and ships it to the backups (``blocks/shipping.py``).  When does it answer?

* **Synchronous**: when the command is on the disks of all members.  Whoever takes over has everything that
  was ever answered.  One slow backup makes every write slow, until the monitor removes it.
* **Asynchronous**: when it is on the primary's own disk.  Writes are as fast as one server.  If the primary
  dies before it has shipped a command, its successor does not know of it: an answered write is lost, and the
  old primary, when it comes back, deletes it from its log.  That is a promise not made, and not a bug.

A monitor that fails to hear the primary appoints the next member.  It may be wrong: the old primary may live,
cut off.  *Fencing* then keeps it from changing anything: backups refuse the messages of an old epoch.  And it
answers reads only while it holds a *lease*, which has run out before another one is appointed, or else after
asking its backups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, Result, until_it_answers
from polyarch.blocks.safeguards import Guarded
from polyarch.blocks.shipping import Shipper, agreement_of
from polyarch.blocks.views import Monitor, Safeguards
from polyarch.core import System, Verdict, parameter, rpc
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST, Kv, Value

__all__ = ["PrimaryBackup", "Server"]


class Server(Shipper):
    """The primary or a backup, as the view says."""

    servers: tuple[str, ...]
    synchronous: bool = True

    @property
    def primary(self) -> str:
        return self.view.members[0] if self.view.members else ""

    # -- the primary ---------------------------------------------------------------------------------------

    def followers(self) -> list[str]:
        """Everybody: the backups, and those that are to become backups again."""
        return [s for s in self.servers if s != self.address] if self.is_first else []

    def backups(self) -> list[str]:
        """Those that must have a command before it is answered."""
        return list(dict.fromkeys([*self.view.members[1:], *self.joined]))

    def count(self) -> None:
        if not self.is_first:
            return
        for server, index in self.match.items():
            # Who has everything that was ever answered is a backup from now on: no write is without it.
            answered = max(self.committed, self.begun)
            if index >= answered and server not in self.view.members and server not in self.joined:
                self.joined = (*self.joined, server)
        self.commit(min([self.log.durable, *(self.match.get(s, 0) for s in self.must_have())]))

    def must_have(self) -> list[str]:
        """On whose disks, besides our own, a command must be before it is answered."""
        return self.backups() if self.synchronous and self.safeguards.whole_group else []

    @rpc
    async def submit(self, command: Command) -> Result:
        return await self.enter(command)

    @rpc
    async def read(self, key: str) -> Value:
        """Reads are answered from the primary's own state: all that was answered by its predecessors must be
        in it, and that it is the primary is made sure of *after* the value was read: it was right then."""
        value = self.machine.data.get(key)
        if not self.is_first or self.committed < self.begun:
            raise NotLeader(self.primary)
        await self.confirm_place()
        return value

    # -- backups -------------------------------------------------------------------------------------------

    def received(self, index: int, committed: int) -> None:
        self.commit(min(index, committed))


class PrimaryBackup(Guarded):
    """One server does the work and copies it to backups; a monitor appoints another when it dies."""

    name = "primary_backup"
    family = "agreement"
    source = "Budhiraja, Marzullo, Schneider, Toueg, The primary-backup approach, 1993"
    jobs = (Kv,)
    Safeguards = Safeguards
    claims = (
        "linearizable when synchronous, if clocks run equally fast up to a factor of 1.5",
        "asynchronous: a crash of the primary may lose writes that were answered, and reads then miss them",
        "no single point of failure; but while the monitor is down nobody is replaced",
    )
    metrics = {
        "epoch": "the latest view: changes since the start, and one",
        "members": "servers in the latest view",
        "log": "entries in the longest log",
    }

    servers: int = parameter(3, "servers: a primary and its backups", least=1)
    synchronous: bool = parameter(True, "answer when all backups have it; false: when the primary has it")
    lease: float = parameter(
        0.15, "time for which a primary is sure; unheard for 1.5 of it, it is replaced", least=0.02, unit="s"
    )
    heartbeat: float = parameter(0.05, "time between heartbeats to backups", least=0.001, unit="s")

    @property
    def disclaims(self) -> tuple[str, ...]:
        return () if self.synchronous else (LINEARIZABLE, FRESH, NOTHING_LOST)

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        monitor = Monitor(servers=addresses, lease=self.lease)
        server = Server(
            servers=addresses,
            monitor=monitor,
            lease=self.lease,
            heartbeat=self.heartbeat,
            synchronous=self.synchronous,
            safeguards=self.safeguards,
        )
        system.role("server", server, count=self.servers)
        system.role("monitor", monitor)
        system.clients(LeaderClient(servers=addresses))

    async def ready(self, x: Any) -> None:
        await until_it_answers(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await agreement_of(x, Server, self.servers)

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        first = [a for a, node in nodes.items() if isinstance(node, Server) and node.is_first]
        return max(first, key=lambda a: nodes[a].view.epoch, default=None)
