"""Named values on a disk, changed several at a time: all of a change survives a crash, or nothing.

Each change is one entry of a log, and says what the values are afterwards (redo; Gray and Reuter,
"Transaction processing", 1993, section 10.3).  Such entries can be applied again without harm, so that a
checkpoint needs no care: what is applied twice is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from polyarch.core.disk import Disk

__all__ = ["Value", "Values"]

Value = str | int | None
"""What a name stands for; None: nothing."""


class Values:
    """The values as the latest change has left them; ``durable`` says when they are on the disk."""

    def __init__(self, disk: Disk, *, checkpoint: int = 20_000) -> None:
        """``checkpoint``: entries of the log after which all values are written, and the log begins anew."""
        self.disk = disk
        self.checkpoint = checkpoint
        self.data: dict[str, Value] = dict(disk.get("values", dict[str, Value], {}))
        changes = disk.entries("changes", dict[str, Value])
        for change in changes:
            self.data.update(change)
        self.logged = len(changes)
        self.written = self.synced = 0

    def change(self, values: Mapping[str, Value]) -> None:
        """Set some values, all in one."""
        self.data.update(values)
        self.disk.append("changes", dict(values))
        self.logged += 1
        self.written += 1
        if self.logged >= self.checkpoint:
            self.disk.put("values", self.data)
            self.disk.truncate("changes", 0)
            self.logged = 0

    async def durable(self) -> None:
        """Wait until everything changed so far is on the disk."""
        written = self.written
        if self.synced < written:
            await self.disk.sync()
            self.synced = max(self.synced, written)
