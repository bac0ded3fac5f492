"""Who belongs to a group, decided in one place: a monitor that removes members which it no longer hears, and
takes in those that have caught up.

The group goes through *views*, numbered by *epochs*: an ordered list of members, of which the architecture
says what each place means.  Two rules keep an old view from acting beside a new one:

* **Fencing**: every message between members carries its epoch, and is refused in any other one.
* **Leases**: a member that answers from its own state alone may do so only for ``lease`` seconds after it
  asked the monitor, and the monitor removes nobody whom it has heard in the last ``lease * PATIENCE``
  seconds.  That needs clocks which run equally fast, up to this factor; what they show does not matter.
  Without a lease (the monitor does not answer) it may ask all other members: as long as none of them has seen
  a newer view, nobody can have acted in one, as the members of the next view come from this one.

A view service as in Budhiraja et al., "The primary-backup approach", 1993, and the master of van Renesse and
Schneider's chains, 2004.  There it is itself replicated; here it is one process with a disk: while it is down
no member can be replaced, and reads cost a round trip more.
"""

from __future__ import annotations

from polyarch.blocks.replicas import NotLeader, Replica
from polyarch.blocks.rounds import Rounds
from polyarch.core.errors import Failure, Refused
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record
from polyarch.core.tasks import gather

__all__ = ["PATIENCE", "Fenced", "Member", "Monitor", "Safeguards", "View"]

PATIENCE = 1.5


class View(Record, array_like=True):
    """The members of the group in one epoch, in their order."""

    epoch: int
    members: tuple[str, ...]


class Fenced(Refused, code="fenced"):
    """A message of another epoch."""


class Monitor(Node):
    """Decides on views.  Its word is final because it is the only one."""

    servers: tuple[str, ...]
    """Who may become a member; all are, in the first view."""
    lease: float

    async def start(self) -> None:
        self.view = self.disk.get("view", View, View(1, self.servers))
        self.heard = dict.fromkeys(self.servers, self.now)  # after a restart everybody gets a new chance
        self.changing = False
        self.every(self.lease / 4, self.examine)

    @rpc(timeout=0.5)
    async def ping(self, server: str, epoch: int, joined: tuple[str, ...]) -> View:
        """A server is alive, and asks for the view.  ``joined``: servers that it has brought up to date, and
        to which it holds itself bound until the next view, with them or without."""
        self.heard[server] = self.now
        if joined and epoch == self.view.epoch:
            await self.change([*self.view.members, *filter(self.alive, joined)])
        return self.view

    def alive(self, server: str) -> bool:
        return self.now - self.heard[server] <= self.lease * PATIENCE

    async def examine(self) -> None:
        """Remove the members that are not heard any more; never the last ones, which have the data."""
        alive = [member for member in self.view.members if self.alive(member)]
        if alive and len(alive) < len(self.view.members):
            await self.change(alive)

    async def change(self, members: list[str]) -> None:
        """A new view: nobody hears of it before it is on disk."""
        if not self.changing:
            self.changing = True
            view = View(self.view.epoch + 1, tuple(dict.fromkeys(members)))
            self.disk.put("view", view)
            await self.disk.sync()
            self.view, self.changing = view, False


class Safeguards(Record):
    """The rules that exist for safety, each as a switch (``blocks/safeguards.py``)."""

    fencing: bool = True
    """What belongs to another epoch is refused."""
    certain_before_read: bool = True
    """Who answers reads holds a lease, or has asked the others."""
    sync_before_answer: bool = True
    """What is acknowledged is on disk."""
    in_order: bool = True
    """The log is extended only behind an entry that is the sender's too."""
    begin_with_an_entry: bool = True
    """Whoever begins to be the first puts an entry of the new epoch into the log: who has it has nothing that
    the others do not have."""
    whole_group: bool = True
    """A command is answered when every member has it."""


class Member(Replica):
    """A server that lives by the monitor's views.  It knows none after a restart, until the monitor tells it:
    so it cannot forget an epoch that it had seen."""

    monitor: Monitor
    lease: float
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        self.view = View(0, ())
        self.leased_until = 0.0
        self.asking = Rounds(self, self.ask_members)
        self.joined: tuple[str, ...] = ()
        """Servers that we have brought up to date in this epoch."""
        self.every(self.lease / 4, self.renew)

    async def renew(self) -> None:
        """Ask the monitor for the view, and for a new lease, which counts from the question."""
        asked = self.now
        try:
            view = await self.monitor.ping(self.address, self.view.epoch, self.joined)
        except Failure:
            return
        if view.epoch > self.view.epoch:
            self.view, self.joined = view, ()
            self.adopt()
        if view.epoch == self.view.epoch:
            self.leased_until = max(self.leased_until, asked + self.lease)

    def adopt(self) -> None:
        """A new view has come."""

    def leased(self) -> bool:
        """Whether nobody can have taken our place yet."""
        return self.now < self.leased_until or not self.safeguards.certain_before_read

    async def confirm_place(self) -> None:
        """Returns if nobody had taken our place when this was called; else, or in doubt, ``NotLeader``."""
        epoch = self.view.epoch
        if not self.leased():
            try:
                await self.asking.served()
            except Failure as failure:
                raise NotLeader("") from failure
            if self.view.epoch != epoch:  # the members of another view know nothing of our place in this one
                raise NotLeader("")

    async def ask_members(self) -> None:
        others = [m for m in (*self.view.members, *self.joined) if m != self.address]
        await gather(*(self.at(member).is_in(self.view.epoch) for member in others))

    @rpc(timeout=0.3)
    async def is_in(self, epoch: int) -> None:
        """Answers if we have seen no newer view."""
        if self.is_fenced(epoch):
            raise Fenced(f"epoch {epoch} is not {self.view.epoch}")

    def is_fenced(self, epoch: int) -> bool:
        """Whether a message of this epoch is to be refused."""
        return epoch != self.view.epoch and self.safeguards.fencing

    async def check_epoch(self, epoch: int) -> None:
        """Refuse what belongs to another view; first find out whether it is we who are late."""
        if epoch > self.view.epoch:
            await self.renew()
        if self.is_fenced(epoch):
            raise Fenced(f"epoch {epoch} is not {self.view.epoch}")
