"""The rules of two-phase commit that exist for safety, each as a switch (``blocks/safeguards.py``).

BHG: Bernstein, Hadzilacos and Goodman, "Concurrency control and recovery in database systems", 1987.
"""

from __future__ import annotations

from polyarch.core.records import Record

__all__ = ["Safeguards"]


class Safeguards(Record):
    """The rules that exist for safety."""

    forced_prepare: bool = True
    """A shard's changes are on its disk before it votes yes (BHG section 7.4)."""
    forced_decision: bool = True
    """The decision is on the coordinator's disk before anybody hears of it."""
    locks_until_decision: bool = True
    """Locks are held until the transaction is decided: strict two-phase locking."""
    wait_when_in_doubt: bool = True
    """Who has voted yes does not decide alone, however long it takes."""
    remember_outcomes: bool = True
    """A late copy of a message cannot begin a transaction again that is over."""
