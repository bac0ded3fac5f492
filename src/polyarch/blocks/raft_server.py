"""What every Raft server has and does, in whatever role: the state of figure 2, what is on disk of it, terms,
and applying what is committed.  ``architectures/raft.py`` says what Raft is.

Sections are those of the Raft paper; "thesis" is Ongaro's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from polyarch.blocks.raft_log import Entry, Log, Snapshot
from polyarch.blocks.raft_safeguards import Safeguards
from polyarch.blocks.replicas import NotLeader, Replica, StateMachine
from polyarch.core.errors import Timeout
from polyarch.core.records import Record
from polyarch.core.tasks import Future

__all__ = ["CANDIDATE", "FOLLOWER", "LEADER", "Follower", "RaftServer"]

FOLLOWER, CANDIDATE, LEADER = "follower", "candidate", "leader"


class Ballot(Record, array_like=True):
    """The latest term that a server has seen, and whom it has voted for in it."""

    term: int
    voted_for: str | None


class Follower:
    """What a leader knows of another server (figure 2, volatile state on leaders)."""

    def __init__(self, next_index: int, now: float) -> None:
        self.next_index = next_index
        """The first entry that it has not been sent."""
        self.match_index = 0
        """Up to here its log is known to equal the leader's."""
        self.matched = True
        """Whether the logs are equal before ``next_index``, as far as known: then entries are sent without
        waiting for answers.  If not, heartbeats look for the place up to which they are."""
        self.flying = 0
        """RPCs with entries on their way."""
        self.most = 1 << 30
        """Entries that fit into one message, as far as known."""
        self.attempt = 0
        """Counts the times that sending had to begin again: answers to earlier RPCs then say little."""
        self.installing = False
        self.round = 0
        """The latest round of RPCs in which it has answered,"""
        self.heard = now
        """and when that one was sent."""


class RaftServer(Replica):
    """One server: its state."""

    servers: tuple[str, ...]
    """The cluster as it is at first."""
    election_timeout: float = 0.3
    election_spread: float = 1.0
    """A follower waits for ``election_timeout`` without hearing from a leader, and up to this part of it
    longer, at random (section 5.2)."""
    heartbeat: float = 0.1
    """Seconds between two AppendEntries RPCs of an idle leader."""
    batch: int = 1000
    """Most entries in one AppendEntries RPC."""
    window: int = 2
    """Most AppendEntries RPCs with entries on their way to one follower (thesis, section 10.2.1)."""
    pre_vote: bool = True
    """Whether to ask, before an election, if it could be won (thesis, section 9.6)."""
    read_by: Literal["index", "lease"] = "index"
    clock_drift: float = 0.1
    """With leases: by how much one server's clock may run faster than another's."""
    snapshot_every: int = 10_000
    """Entries that are applied between two snapshots."""
    chunk: int = 1_000_000
    """Most bytes of a snapshot in one InstallSnapshot RPC."""
    sessions: int = 10_000
    """Clients that are remembered."""
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        # Persistent state on all servers, on disk before anything is answered.
        ballot = self.disk.get("ballot", Ballot, Ballot(0, None))
        self.current_term = ballot.term
        self.voted_for = ballot.voted_for
        self.log = Log(self.disk, self.servers)
        self.written = self.synced = 0  # changes made to this state, and how many of them are on disk
        # Volatile state on all servers.
        self.machine = StateMachine(self.sessions, deduplicate=self.safeguards.deduplicate)
        self.commit_index = self.last_applied = 0
        self.restore(self.log.snapshot)
        self.role = FOLLOWER
        self.leader: str | None = None
        # When a leader was heard of: perhaps just before a crash, which matters to its lease.
        self.heard = self.now if self.read_by == "lease" else float("-inf")
        self.incoming: tuple[int, bytes] = (0, b"")  # of which snapshot how much has come
        # Volatile state on leaders.
        self.followers: dict[str, Follower] = {}
        self.learners: dict[str, None] = {}  # servers to be, not yet in the configuration
        self.own_match = 0  # up to where the own log is on disk
        self.flushing = False
        self.round = 0  # counts all AppendEntries RPCs
        self.waiting: dict[int, Future[Any]] = {}  # clients' answers, by their entry's index
        self.readers: list[tuple[int, Future[None]]] = []  # reads, each with the round that was the latest
        self.asked = 0  # the round that was begun for reads
        self.restart_election_timer()

    # -- persistent state --------------------------------------------------------------------------------

    def write_ballot(self) -> None:
        vote = self.voted_for if self.safeguards.vote_on_disk else None
        self.disk.put("ballot", Ballot(self.current_term, vote))
        self.written += 1

    def append(self, *entries: Entry) -> None:
        self.log.append(*entries)
        self.written += 1

    def truncate(self, index: int) -> None:
        """Delete the entry at ``index`` and all that follow it."""
        self.log.truncate(index)
        self.written += 1

    async def durable(self) -> None:
        """Wait until everything written so far is on disk; one flush serves all who wait for it."""
        written = self.written
        if self.synced < written and self.safeguards.sync_before_answer:
            await self.disk.sync()
            self.synced = max(self.synced, written)

    def restore(self, snapshot: Snapshot) -> None:
        if snapshot.index:
            self.machine.restore(snapshot.state)
            self.commit_index = self.last_applied = snapshot.index

    # -- rules for all servers ---------------------------------------------------------------------------

    def observe(self, term: int) -> None:
        """A request or an answer with a newer term: become a follower in it (section 5.1)."""
        if term > self.current_term:
            self.current_term, self.voted_for = term, None
            self.write_ballot()
            self.step_down()

    def step_down(self) -> None:
        self.role, self.leader = FOLLOWER, None
        waiting, self.waiting = self.waiting, {}
        for answer in waiting.values():
            answer.fail(Timeout("the leader was deposed: the command may be committed yet"))
        readers, self.readers = self.readers, []
        for _, reader in readers:
            reader.fail(NotLeader(""))

    def follow(self, term: int, leader: str) -> bool:
        """A leader has sent something: whether it leads still (section 5.2)."""
        self.observe(term)
        if term < self.current_term and self.safeguards.refuse_old_terms:
            return False
        if self.role != FOLLOWER:
            self.step_down()
        self.leader, self.heard = leader, self.now
        self.restart_election_timer()
        return True

    def commit(self, index: int) -> None:
        """Everything up to ``index`` is committed: apply it to the state machine (section 5.3)."""
        self.commit_index = max(self.commit_index, index)
        while self.last_applied < self.commit_index:
            self.last_applied += 1
            command = self.log[self.last_applied].command
            self.machine.answer(command, self.waiting.pop(self.last_applied, None))
        if self.last_applied - self.log.snapshot.index >= self.snapshot_every:
            self.compact()

    def restart_election_timer(self) -> None:
        share = 1 + self.election_spread * self.random.random()
        self.election_at = self.now + self.election_timeout * share

    def follows_a_leader(self) -> bool:
        """Whether a leader has been heard of so lately that there need not be another (thesis, 4.2.3)."""
        return self.role == LEADER or self.now < self.heard + self.election_timeout

    # -- leaders and their followers ---------------------------------------------------------------------

    def leads(self, term: int) -> bool:
        return self.role == LEADER and self.current_term == term

    def count_followers(self) -> None:
        """They are the others of the configuration, and the learners."""
        now, before = self.now, self.followers
        addresses = dict.fromkeys((*self.log.members, *self.learners))
        addresses.pop(self.address, None)
        self.followers = {a: before.get(a) or Follower(self.log.last_index, now) for a in addresses}

    def majority(self, members: tuple[str, ...], safe: bool) -> int:
        return len(members) // 2 + (1 if safe else 0)

    def of_majority(self, of: Callable[[Follower], Any], own: Any, *, safe: bool = True) -> Any:
        """The most that a majority of the configuration has reached."""
        members = self.log.members
        values = [own if m == self.address else of(self.followers[m]) for m in members]
        values.sort(reverse=True)
        return values[max(self.majority(members, safe) - 1, 0)]

    def try_from(self, follower: Follower, index: int) -> None:
        follower.attempt += 1
        follower.flying, follower.matched, follower.next_index = 0, False, index

    def committed(self, entry: Entry) -> Future[Any]:
        """Put an entry into the log: what it results in, once it is committed and applied."""
        self.require_leadership()
        self.append(entry)
        if entry.members is not None:
            self.count_followers()
        answer: Future[Any] = self.future()
        self.waiting[self.log.last_index] = answer
        self.replicate()
        return answer

    def require_leadership(self) -> None:
        if self.role != LEADER:
            raise NotLeader(self.leader or "")

    def has_committed_in_term(self) -> bool:
        """Without that a leader does not know what is committed (section 8)."""
        return self.log.term(self.commit_index) == self.current_term

    def replicate(self) -> None:
        """Send what is new to the followers and to the own disk."""
        raise NotImplementedError

    def feed(self, peer: str, follower: Follower) -> None:
        """Send a follower what it has not been sent."""
        raise NotImplementedError

    def compact(self) -> None:
        """Take a snapshot, and discard the log before it."""
        raise NotImplementedError
