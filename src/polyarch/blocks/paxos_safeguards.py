"""The rules of Paxos that exist for safety, each as a switch (``blocks/safeguards.py``).  Sections
are those of "Paxos made simple".
"""

from __future__ import annotations

from polyarch.core.records import Record

__all__ = ["LogSafeguards", "Safeguards"]


class Safeguards(Record):
    """Those of a single decree."""

    promise_on_disk: bool = True
    """An acceptor remembers its promises even if it fails and then restarts (section 2.2)."""
    adopt_newest: bool = True
    """A proposer proposes what was accepted in the newest ballot that it is told of (P2c)."""
    majority: bool = True
    """Any two quorums share an acceptor; without: one acceptor less makes a quorum."""
    sync_before_answer: bool = True
    """What an acceptor answers is on its disk."""


class LogSafeguards(Safeguards):
    """Those of Multi-Paxos: one more."""

    confirm_before_read: bool = True
    """A leader hears from a majority before it answers a read."""
