"""A log that one server ships to others, in order: what primary-backup and chain replication share.

Every entry has a place, its *index*, and the epoch of the view in which it was put there.  In one epoch only
one server puts entries into the log, it ships only what is on its own disk, and takes nothing back while it
holds that place; so two logs that have an entry of the same epoch at the same index are equal up to there
(Raft calls it log matching).  A log is made equal to its predecessor's by going back to where they agree.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.replicas import Command, NotLeader, Result, StateMachine
from polyarch.blocks.views import Member
from polyarch.core.disk import Disk
from polyarch.core.errors import Failure, Timeout
from polyarch.core.messages import rpc
from polyarch.core.records import Record
from polyarch.core.system import Verdict
from polyarch.core.tasks import Future, settle

__all__ = ["Entry", "Extended", "Log", "Progress", "Shipper", "agreement_of"]


class Entry(Record, array_like=True):
    """One place of the log."""

    epoch: int
    command: Command | None
    """None: nothing; with it a server begins to be the first."""


class Extended(Record, array_like=True):
    """The answer to ``extend``."""

    success: bool
    index: int
    """If successful: up to where the logs are equal.  If not: where to try next."""
    committed: int
    """How far the answering server knows the log to be committed."""


class Progress(Record):
    """What a server says of itself."""

    epoch: int
    members: tuple[str, ...]
    last: int
    committed: int
    digest: int
    """Of what its state machine holds."""


class Log:
    """A log on disk; the first index is 1."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.entries = [Entry(0, None), *disk.entries("log", Entry)]
        self.durable = self.last
        """Up to where it is on disk."""

    @property
    def last(self) -> int:
        return len(self.entries) - 1

    def append(self, *entries: Entry) -> None:
        self.entries.extend(entries)
        self.disk.append("log", *entries)

    def truncate(self, index: int) -> None:
        """Delete the entry at ``index`` and all that follow it."""
        del self.entries[index:]
        self.disk.truncate("log", index - 1)
        self.durable = min(self.durable, index - 1)

    def agrees(self, index: int, epoch: int) -> bool:
        """Whether there is an entry of that epoch at that index."""
        return index <= self.last and self.entries[index].epoch == epoch

    def conflict(self, index: int) -> int:
        """Where to look next for a place where the logs agree: a whole epoch further back."""
        if index > self.last:
            return self.last + 1
        while index > 1 and self.entries[index - 1].epoch == self.entries[index].epoch:
            index -= 1
        return index


class Shipper(Member):
    """A server with such a log.  Those who build on it say to whom they ship it (``followers``), and what is
    committed (``count``)."""

    heartbeat: float = 0.05
    batch: int = 1000

    async def start(self) -> None:
        await super().start()
        self.log = Log(self.disk)
        self.machine = StateMachine()
        self.committed = self.applied = 0
        self.begun = 0  # the last index of the log when this view began
        self.match: dict[str, int] = {}  # up to where followers' disks equal ours, in this epoch
        self.shipping: set[tuple[int, str]] = set()  # (epoch, follower): on its way
        self.flushing = False
        self.waiting: dict[int, Future[Result]] = {}  # clients' answers, by their entry's index
        self.every(self.heartbeat, self.ship, True)

    # -- to be said by those who build on it -------------------------------------------------------------

    def followers(self) -> list[str]:
        """To whom we ship the log in this view."""
        raise NotImplementedError

    def count(self) -> None:
        """Commit what may be committed."""
        raise NotImplementedError

    def learned(self, follower: str, committed: int) -> None:
        """A follower has told how far it knows the log to be committed."""

    # -- views ---------------------------------------------------------------------------------------------

    @property
    def is_first(self) -> bool:
        """Whether we are the one that puts clients' commands into the log."""
        return self.view.members[:1] == (self.address,)

    def adopt(self) -> None:
        self.match = {}
        if not self.is_first:
            waiting, self.waiting = self.waiting, {}
            for answer in waiting.values():
                answer.fail(Timeout("another server is the first now: the command may be executed yet"))
        elif self.safeguards.begin_with_an_entry:
            # An entry of the new epoch, which says nothing: whoever has it has nothing left of what others
            # had put behind the same place.
            self.log.append(Entry(self.view.epoch, None))
        self.begun = self.log.last
        self.count()
        self.ship()

    # -- receiving -----------------------------------------------------------------------------------------

    @rpc(timeout=0.3)
    async def extend(
        self, epoch: int, index: int, index_epoch: int, entries: tuple[Entry, ...], committed: int
    ) -> Extended:
        """Put ``entries`` behind the entry at ``index``; nothing yet is a heartbeat."""
        await self.check_epoch(epoch)
        if not self.follows(index, index_epoch):
            return Extended(False, self.log.conflict(index), self.committed)
        for i, entry in enumerate(entries, index + 1):
            if not self.log.agrees(i, entry.epoch):
                if i <= self.log.last:
                    self.give_up(i)
                self.log.append(*entries[i - index - 1 :])
                break
        await self.flush()
        await self.check_epoch(epoch)
        end = index + len(entries)
        self.received(end, committed)
        return Extended(True, end, self.committed)

    def follows(self, index: int, epoch: int) -> bool:
        """Whether what is sent comes right behind what we have."""
        if not self.safeguards.in_order:
            self.log.append(*[Entry(0, None)] * (index - self.log.last))
            return True
        return self.log.agrees(index, epoch)

    def received(self, index: int, committed: int) -> None:
        """Our log equals the sender's up to ``index``, on disk."""
        self.count()
        self.ship()

    def give_up(self, index: int) -> None:
        """Delete what another server's log does not have.  If it was applied, begin again without it."""
        self.log.truncate(index)
        if self.applied >= index:
            self.machine = StateMachine()
            self.committed, self.applied = min(self.committed, index - 1), 0
            self.apply()

    async def flush(self) -> None:
        """Wait until the log as it is now is on disk.  It may be cut and grow while we wait."""
        last, epoch = self.log.last, self.log.entries[-1].epoch
        if self.log.durable < last:
            if self.safeguards.sync_before_answer:
                await self.disk.sync()
            if self.log.agrees(last, epoch):
                self.log.durable = max(self.log.durable, last)

    # -- sending -------------------------------------------------------------------------------------------

    def ship(self, heartbeat: bool = False) -> None:
        """Bring the log to our disk, and what is there to the followers; what comes meanwhile follows.  A
        heartbeat is sent even if there is nothing new."""
        if self.log.durable < self.log.last and not self.flushing:
            self.spawn(self.flush_all())
        for follower in self.followers():
            new = self.match.get(follower) != self.log.durable
            if (new or heartbeat) and (self.view.epoch, follower) not in self.shipping:
                self.spawn(self.ship_to(follower))

    async def flush_all(self) -> None:
        self.flushing = True
        while self.log.durable < self.log.last:
            await self.flush()
            self.count()
            self.ship()
        self.flushing = False

    def resume_from(self, follower: str) -> int:
        """From which index on a follower is sent the log: from where it is known to have it, or else we try
        from the end and go back."""
        return self.match.get(follower, self.log.durable) + 1

    async def ship_to(self, follower: str) -> None:
        """Bring one follower up to date.  What fails is tried again with the next heartbeat."""
        epoch = self.view.epoch
        self.shipping.add((epoch, follower))
        try:
            at = self.resume_from(follower)
            while True:
                entries = tuple(self.log.entries[at : min(at + self.batch, self.log.durable + 1)])
                index_epoch = self.log.entries[at - 1].epoch
                answer = await self.at(follower, type(self)).extend(
                    epoch, at - 1, index_epoch, entries, self.committed
                )
                if self.view.epoch != epoch:
                    return
                if not answer.success:
                    at = max(1, min(answer.index, at - 1))
                    continue
                self.match[follower] = answer.index
                at = answer.index + 1
                self.learned(follower, answer.committed)
                self.count()
                if answer.index >= self.log.durable:
                    return
        except Failure as failure:
            if failure.code == "fenced":
                await self.renew()
        finally:
            self.shipping.discard((epoch, follower))

    # -- the state machine -----------------------------------------------------------------------------------

    def commit(self, index: int) -> None:
        """Everything up to ``index`` is committed."""
        if index > self.committed:
            self.committed = index
            self.apply()

    def apply(self) -> None:
        while self.applied < self.committed:
            self.applied += 1
            command = self.log.entries[self.applied].command
            self.machine.answer(command, self.waiting.pop(self.applied, None))

    async def enter(self, command: Command) -> Result:
        """Put a client's command into the log, and wait until it is committed."""
        if not self.is_first:
            raise NotLeader(self.view.members[0] if self.view.members else "")
        self.log.append(Entry(self.view.epoch, command))
        answer = self.waiting[self.log.last] = self.future()
        self.ship()
        result: Result = await answer
        return result

    @rpc
    def progress(self) -> Progress:
        epoch, members = self.view.epoch, self.view.members
        return Progress(epoch, members, self.log.last, self.committed, self.machine.digest())


async def agreement_of(x: Any, kind: type[Shipper], servers: int) -> tuple[dict[str, Any], list[Verdict]]:
    """Wait until it is quiet; do all servers then hold the same?  Those that were away take their time."""
    told: list[Progress] = []
    for _ in range(100):
        asked = await settle(*(x.at(f"server-{i}", kind).progress() for i in range(servers)))
        told = [p for p in asked if isinstance(p, Progress)]
        if len(told) == servers and len({(p.epoch, p.last, p.committed, p.digest) for p in told}) == 1:
            break
        await x.sleep(0.1)
    states = {(p.last, p.committed, p.digest) for p in told}
    agree = len(told) == servers and len(states) == 1
    latest = max(told, key=lambda p: p.epoch)
    metrics = {"epoch": latest.epoch, "members": len(latest.members), "log": max(p.last for p in told)}
    words = f"{len(told)} of {servers} servers answer, with {len(states)} different states"
    return metrics, [Verdict("all replicas agree when it is quiet", agree, words)]
