"""The log of a Raft server, in memory and on disk: entries, and in place of those that were discarded a
snapshot of what they led to (Raft, section 7; thesis, chapter 5).

The log knows the cluster's configuration too: it is the one of the latest configuration entry, committed or
not (thesis, section 4.1).

Nothing here waits or sends.  What is written survives a crash when the server has synced its disk; and if a
crash keeps only the first of several writes, then these alone are a valid state too.  A disk can forget the
end of a log and not its beginning, so entries move to another log when the beginning is discarded.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyarch.blocks.replicas import Command
from polyarch.core.disk import Disk
from polyarch.core.records import Record

__all__ = ["Entry", "Log", "Snapshot"]

Members = tuple[str, ...]


class Entry(Record, array_like=True):
    """One place of the log: a command, and the term in which a leader put it there."""

    term: int
    command: Command | None
    """None: nothing; with it a leader begins its term (section 8)."""
    members: Members | None = None
    """The servers of the cluster from here on, if this entry changes them."""


class Snapshot(Record, array_like=True):
    """A state machine, and which entries have led to it (figure 12)."""

    index: int
    """The last entry that is included."""
    term: int
    members: Members
    """The configuration as of that entry."""
    state: bytes


class _Start(Record, array_like=True):
    """Where the entries that are kept begin: after this place."""

    index: int
    term: int
    members: Members
    name: str
    """Which of two logs of the disk they are in."""


class Log:
    """Entries ``start + 1`` to ``last_index``; those before are in the snapshot alone."""

    def __init__(self, disk: Disk, members: Members) -> None:
        """What is on the disk; ``members``: the configuration if nothing is."""
        self._disk = disk
        self.snapshot = disk.get("snapshot", Snapshot, Snapshot(0, 0, members, b""))
        self._begin(disk.get("start", _Start, _Start(0, 0, members, "log-0")))
        self._take(disk.entries(self._start.name, Entry))
        last = self.snapshot.index
        if self.last_index < last or (self.start < last and self.term(last) != self.snapshot.term):
            self.replace(self.snapshot)  # a crash came between its writes

    def _begin(self, start: _Start) -> None:
        self._start = start
        self.start = start.index
        self._entries: list[Entry] = []
        self._configurations = [(start.index, start.members)]

    def _take(self, entries: Sequence[Entry]) -> None:
        for index, entry in enumerate(entries, self.last_index + 1):
            if entry.members is not None:
                self._configurations.append((index, entry.members))
        self._entries.extend(entries)

    # -- reading -----------------------------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        return self.start + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self._start.term

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index - self.start - 1]

    def term(self, index: int) -> int:
        """The term of an entry, or of the place where the log begins."""
        if index <= self.start:
            if index < self.start:
                raise IndexError(f"entry {index} has been discarded")
            return self._start.term
        return self._entries[index - self.start - 1].term

    def part(self, first: int, most: int) -> tuple[Entry, ...]:
        """Entries from ``first`` on."""
        at = first - self.start - 1
        return tuple(self._entries[at : at + most])

    @property
    def members(self) -> Members:
        """The latest configuration."""
        return self._configurations[-1][1]

    @property
    def members_since(self) -> int:
        """The index of the entry that made it the latest."""
        return self._configurations[-1][0]

    def members_at(self, index: int) -> Members:
        """The configuration as of an entry."""
        return next(members for since, members in reversed(self._configurations) if since <= index)

    # -- writing -----------------------------------------------------------------------------------------

    def append(self, *entries: Entry) -> None:
        self._take(entries)
        self._disk.append(self._start.name, *entries)

    def truncate(self, index: int) -> None:
        """Delete the entry at ``index`` and all that follow it."""
        length = index - self.start - 1
        del self._entries[length:]
        self._disk.truncate(self._start.name, length)
        while self._configurations[-1][0] >= index:
            self._configurations.pop()

    def compact(self, snapshot: Snapshot, keep: int = 0) -> None:
        """Entries up to the snapshot's are no longer needed; but the last ``keep`` of them stay, for
        followers that are a little behind."""
        self.snapshot = snapshot
        self._disk.put("snapshot", snapshot)
        first = max(self.start, snapshot.index - keep)
        self._restart(first, self.term(first), self.members_at(first), self.part(first + 1, self.last_index))

    def replace(self, snapshot: Snapshot) -> None:
        """The snapshot is all that there is: what the log held is not what it includes."""
        self.snapshot = snapshot
        self._disk.put("snapshot", snapshot)
        self._restart(snapshot.index, snapshot.term, snapshot.members, ())

    def _restart(self, index: int, term: int, members: Members, entries: tuple[Entry, ...]) -> None:
        before = self._start.name
        start = _Start(index, term, members, "log-1" if before == "log-0" else "log-0")
        self._begin(start)
        self._disk.truncate(start.name, 0)
        self.append(*entries)
        self._disk.put("start", start)
        self._disk.truncate(before, 0)
