"""The rules of sharding that exist for safety, each as a switch (``blocks/safeguards.py``)."""

from __future__ import annotations

from polyarch.core.records import Record

__all__ = ["Safeguards"]


class Safeguards(Record):
    """One field for each rule."""

    check_ownership: bool = True
    """A shard refuses keys that it does not own."""
    stop_before_copy: bool = True
    """The source serves nothing of a region any more when its content is read."""
    take_on_disk: bool = True
    """The target has the content on its disk before the map says so."""
    log_moves: bool = True
    """A move is on the directory's disk before it begins."""
    refuse_old_moves: bool = True
    """A late copy of a message of an earlier move changes nothing."""
