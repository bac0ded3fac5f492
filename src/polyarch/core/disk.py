"""A node's disk: named values and named logs.  Writing and syncing are separate.

What was written and not yet synced is lost in a crash, on every runtime: the live disk holds it in memory
until ``sync``, so that SIGKILL loses what a power failure would.  A sync covers everything written before
it was called, in order; concurrent syncs share one flush (group commit).

    self.disk.put("term", 7)
    self.disk.append("log", entry)
    await self.disk.sync()
    log = self.disk.entries("log", Entry)        # after a restart
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable
from typing import Any, TypeVar

__all__ = ["Disk"]

T = TypeVar("T")


class Disk(abc.ABC):
    """Durable storage of one node.  Values are what messages can carry: records, numbers, text, bytes,
    tuples, lists and dicts of them."""

    @abc.abstractmethod
    def put(self, name: str, value: Any) -> None:
        """Replace the value called ``name``."""

    @abc.abstractmethod
    def get(self, name: str, of: type[T], default: T) -> T:
        """The value last put (synced or not, as the writer sees it), or the default."""

    @abc.abstractmethod
    def append(self, name: str, *values: Any) -> None:
        """Add entries at the end of the log called ``name``."""

    @abc.abstractmethod
    def truncate(self, name: str, length: int) -> None:
        """Keep the first ``length`` entries of a log."""

    @abc.abstractmethod
    def entries(self, name: str, of: type[T]) -> list[T]:
        """All entries of a log, as the writer sees it."""

    @abc.abstractmethod
    def sync(self) -> Awaitable[None]:
        """Await it: everything written before this call survives a crash from then on."""
