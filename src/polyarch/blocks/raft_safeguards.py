"""The rules of Raft that exist for safety, each as a switch.  All are on, unless a test wants to see what
happens without one: ``RaftStore(without="vote_on_disk")``.

Sections are those of the Raft paper; "thesis" is Ongaro's.
"""

from __future__ import annotations

from polyarch.core.records import Record

__all__ = ["Safeguards"]


class Safeguards(Record):
    """One field for each rule."""

    # -- terms and votes
    refuse_old_terms: bool = True
    """What comes from an older term is refused: a deposed leader can do nothing (section 5.1)."""
    one_vote_per_term: bool = True
    """A server votes for one candidate in a term, first come first served (section 5.2)."""
    vote_on_disk: bool = True
    """The vote is remembered across a crash (figure 2, persistent state)."""
    up_to_date_candidates: bool = True
    """A vote is given only to a candidate whose log is as up-to-date as the voter's (section 5.4.1)."""
    majority_elects: bool = True
    """It takes the votes of a majority; without: of one server less."""

    # -- the log
    sync_before_answer: bool = True
    """What an answer promises is on disk before it is given (figure 2)."""
    check_previous_entry: bool = True
    """Entries are appended only after an entry that is the leader's too (AppendEntries RPC, 2)."""
    remove_conflicts: bool = True
    """An entry that conflicts with the leader's is deleted, and all that follow it (AppendEntries RPC, 3)."""
    majority_commits: bool = True
    """An entry is committed when it is on a majority of disks; without: on one less."""
    commit_own_term: bool = True
    """Only entries of the leader's own term are committed by counting (section 5.4.2, figure 8)."""

    # -- clients
    deduplicate: bool = True
    """A command that is sent again is not executed again (section 8)."""
    confirm_before_read: bool = True
    """A leader hears from a majority before it answers a read (section 8)."""
    read_in_own_term: bool = True
    """A leader knows what is committed only when an entry of its own term is (section 8)."""
    stick_to_leader: bool = True
    """No vote while a leader has been heard of: what a lease rests on (thesis, sections 4.2.3 and 6.4.1)."""
    lease_ends: bool = True
    """A lease is over a shortest election timeout after it was confirmed (thesis, section 6.4.1)."""

    # -- snapshots
    keep_log_after_snapshot: bool = True
    """A snapshot that is installed takes nothing back that follows it in the log (figure 13, 6)."""
    sessions_in_snapshot: bool = True
    """What is remembered of clients is part of the state (thesis, section 6.3)."""
    members_in_snapshot: bool = True
    """The configuration is part of a snapshot (thesis, section 5.1)."""

    # -- membership
    one_change_at_a_time: bool = True
    """No change before the last one is committed (thesis, section 4.1)."""
    change_in_own_term: bool = True
    """No change before the leader has committed an entry of its term (Ongaro, raft-dev, July 2015)."""
