"""Raft: servers agree on one log of commands, so that they act as one that does not fail.

Ongaro and Ousterhout: "In search of an understandable consensus algorithm (extended version)", 2014.  The
file follows figure 2 of the paper: state, RequestVote RPC, AppendEntries RPC, rules for servers.  Sections
are the paper's; "thesis" is Ongaro's "Consensus: bridging theory and practice", 2014.

One server leads, until others have heard nothing from it for a while and elect another one.  The leader
puts clients' commands into its log and makes the others' logs equal to it; what a majority has on its disks
is *committed*, and is applied, in order, to the state machine: here a key-value store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, Replica, StateMachine
from polyarch.core import (
    Architecture,
    Failure,
    Future,
    Record,
    System,
    Timeout,
    Verdict,
    first,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import Kv, Value

# -- messages --------------------------------------------------------------------------------------------


class Entry(Record, array_like=True):
    """One place of the log: a command, and the term in which a leader put it there."""

    term: int
    command: Command | None
    """None: nothing; with it a leader begins its term (section 8)."""


class Ballot(Record, array_like=True):
    """The latest term that a server has seen, and whom it has voted for in it."""

    term: int
    voted_for: str | None


class Vote(Record, array_like=True):
    """The answer to a RequestVote RPC."""

    term: int
    granted: bool


class Appended(Record, array_like=True):
    """The answer to an AppendEntries RPC."""

    term: int
    success: bool
    index: int
    """If successful: up to where the logs are equal.  If not: where to try next (end of section 5.3)."""


class Status(Record):
    """What a server says of itself."""

    role: str
    term: int
    last_index: int
    commit_index: int


FOLLOWER, CANDIDATE, LEADER = "follower", "candidate", "leader"


class Raft(Replica):
    """One server."""

    servers: tuple[str, ...]
    election_timeout: float = 0.3
    """A follower waits between this and twice this long without hearing from a leader (section 5.2)."""
    heartbeat: float = 0.05
    """Seconds between two AppendEntries RPCs of an idle leader."""
    batch: int = 1000
    """Most entries in one AppendEntries RPC."""

    async def start(self) -> None:
        self.peers = [s for s in self.servers if s != self.address]
        self.majority = len(self.servers) // 2 + 1
        # Persistent state on all servers, on disk before anything is answered.
        ballot = self.disk.get("ballot", Ballot, Ballot(0, None))
        self.current_term = ballot.term
        self.voted_for = ballot.voted_for
        self.log = [Entry(0, None), *self.disk.entries("log", Entry)]  # the first index is 1
        self.written = self.synced = 0  # changes made to this state, and how many of them are on disk
        # Volatile state on all servers.
        self.commit_index = 0
        self.last_applied = 0
        self.role = FOLLOWER
        self.leader: str | None = None
        self.machine = StateMachine()
        # Volatile state on leaders.
        self.next_index: dict[str, int] = {}
        self.match_index: dict[str, int] = {}
        self.sending: set[str] = set()  # followers to whom an AppendEntries RPC is on its way
        self.flushing = False  # whether the own log is on its way to the disk
        self.waiting: dict[int, Future[Value | bool]] = {}  # clients' answers, by their entry's index
        self.readers: list[Future[None]] = []  # reads that wait for the next round of heartbeats
        self.confirming = False
        self.restart_election_timer()
        self.watch_election_timer()
        self.every(self.heartbeat, self.replicate)

    @property
    def last_index(self) -> int:
        return len(self.log) - 1

    # -- RequestVote RPC ---------------------------------------------------------------------------------

    @rpc(timeout=0.5)
    async def request_vote(self, term: int, candidate: str, last_index: int, last_term: int) -> Vote:
        """Invoked by candidates to gather votes (section 5.2)."""
        self.observe(term)
        granted = False
        if term == self.current_term and self.voted_for in (None, candidate):
            granted = self.is_up_to_date(last_index, last_term)
            if granted:
                self.voted_for = candidate
                self.write_ballot()
                self.restart_election_timer()
        await self.durable()
        return Vote(self.current_term, granted)

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a candidate's log is at least as up-to-date as ours (section 5.4.1)."""
        return (last_term, last_index) >= (self.log[-1].term, self.last_index)

    # -- AppendEntries RPC -------------------------------------------------------------------------------

    @rpc(timeout=0.5)
    async def append_entries(
        self,
        term: int,
        leader: str,
        prev_index: int,
        prev_term: int,
        entries: tuple[Entry, ...],
        leader_commit: int,
    ) -> Appended:
        """Invoked by the leader to replicate entries (section 5.3); also its heartbeat (section 5.2)."""
        self.observe(term)
        if term < self.current_term:  # 1.
            await self.durable()
            return Appended(self.current_term, False, 0)
        self.role, self.leader = FOLLOWER, leader
        self.restart_election_timer()
        if prev_index > self.last_index or self.log[prev_index].term != prev_term:  # 2.
            await self.durable()
            return Appended(self.current_term, False, self.first_conflict(prev_index))
        for i, entry in enumerate(entries):
            index = prev_index + 1 + i
            if index <= self.last_index and self.log[index].term != entry.term:  # 3.
                self.truncate(index)
            if index > self.last_index:  # 4.
                self.append(*entries[i:])
                break
        await self.durable()
        if self.current_term != term:
            return Appended(self.current_term, False, 0)
        match = prev_index + len(entries)
        self.commit(min(leader_commit, match))  # 5.
        return Appended(term, True, match)

    def first_conflict(self, prev_index: int) -> int:
        """Where a leader should try next: behind our log, or at our first entry of a term that it does not
        have there, so that one RPC skips a term and not an entry (end of section 5.3)."""
        if prev_index > self.last_index:
            return self.last_index + 1
        index = prev_index
        while index > 1 and self.log[index - 1].term == self.log[prev_index].term:
            index -= 1
        return index

    # -- persistent state --------------------------------------------------------------------------------

    def write_ballot(self) -> None:
        self.disk.put("ballot", Ballot(self.current_term, self.voted_for))
        self.written += 1

    def append(self, *entries: Entry) -> None:
        self.log.extend(entries)
        self.disk.append("log", *entries)
        self.written += 1

    def truncate(self, index: int) -> None:
        """Delete the entry at ``index`` and all that follow it."""
        del self.log[index:]
        self.disk.truncate("log", index - 1)
        self.written += 1

    async def durable(self) -> None:
        """Wait until everything written so far is on disk; one flush serves all who wait for it."""
        written = self.written
        if self.synced < written:
            await self.disk.sync()
            self.synced = max(self.synced, written)

    # -- rules for all servers ---------------------------------------------------------------------------

    def observe(self, term: int) -> None:
        """A request or an answer with a newer term: become a follower in it (section 5.1)."""
        if term > self.current_term:
            self.current_term, self.voted_for = term, None
            self.write_ballot()
            self.role, self.leader = FOLLOWER, None
            waiting, self.waiting = self.waiting, {}
            for answer in waiting.values():
                answer.fail(Timeout("the leader was deposed: the command may be committed yet"))

    def commit(self, index: int) -> None:
        """Everything up to ``index`` is committed: apply it to the state machine (section 5.3)."""
        self.commit_index = max(self.commit_index, index)
        while self.last_applied < self.commit_index:
            self.last_applied += 1
            command = self.log[self.last_applied].command
            result = None if command is None else self.machine.apply(command)
            if self.last_applied in self.waiting:
                self.waiting.pop(self.last_applied).set(result)

    # -- followers and candidates: elections (section 5.2) -----------------------------------------------

    def restart_election_timer(self) -> None:
        self.election_at = self.now + self.election_timeout * (1 + self.random.random())

    def watch_election_timer(self) -> None:
        """If nothing has been heard of a leader, and no vote was granted: become a candidate."""
        if self.now >= self.election_at:
            self.restart_election_timer()
            if self.role != LEADER:
                self.spawn(self.elect())
        self.after(max(self.election_at - self.now, 0.001), self.watch_election_timer)

    async def elect(self) -> None:
        """Vote for ourselves in a new term, and ask all others for their votes."""
        self.observe(self.current_term + 1)
        self.role, self.voted_for = CANDIDATE, self.address
        self.write_ballot()
        term = self.current_term
        await self.durable()
        votes = {self.address}

        async def ask(peer: str) -> None:
            vote = await self.at(peer).request_vote(term, self.address, self.last_index, self.log[-1].term)
            self.observe(vote.term)
            if vote.granted:
                votes.add(peer)
                count()

        def count() -> None:
            if self.role == CANDIDATE and self.current_term == term and len(votes) >= self.majority:
                self.lead()

        count()
        if self.role == CANDIDATE and self.current_term == term:
            for peer in self.peers:
                self.spawn(ask(peer))

    # -- leaders -----------------------------------------------------------------------------------------

    def lead(self) -> None:
        """The election is won."""
        self.role, self.leader = LEADER, self.address
        self.next_index = dict.fromkeys(self.peers, self.last_index + 1)
        self.match_index = dict.fromkeys(self.servers, 0)
        self.sending = set()
        self.append(Entry(self.current_term, None))
        self.replicate()

    def replicate(self) -> None:
        """Send what is new to all followers and to the own disk, at the same time (thesis, section 10.2.1);
        without anything new it is a heartbeat.  What comes while one batch is on its way is the next."""
        if self.role == LEADER:
            for peer in self.peers:
                if peer not in self.sending:
                    self.spawn(self.send_entries(peer, self.sending))
            if not self.flushing and self.match_index[self.address] < self.last_index:
                self.spawn(self.flush())

    async def send_entries(self, peer: str, sending: set[str]) -> None:
        """Bring one follower up to date.  What fails is tried again with the next heartbeat."""
        term = self.current_term
        sending.add(peer)
        try:
            while True:
                at = self.next_index[peer]
                entries = tuple(self.log[at : at + self.batch])
                reply = await self.at(peer, timeout=self.election_timeout / 2).append_entries(
                    term, self.address, at - 1, self.log[at - 1].term, entries, self.commit_index
                )
                self.observe(reply.term)
                if self.role != LEADER or self.current_term != term:
                    return
                if not reply.success:
                    self.next_index[peer] = max(self.match_index[peer] + 1, min(reply.index, at - 1))
                    continue
                self.next_index[peer] = reply.index + 1
                self.match_index[peer] = reply.index
                self.count_replicas()
                if reply.index == self.last_index:
                    return
        except Failure:
            pass
        finally:
            sending.discard(peer)

    async def flush(self) -> None:
        """Bring the own log to disk: one flush at a time, which takes all that has come meanwhile."""
        self.flushing = True
        while self.role == LEADER and self.match_index[self.address] < self.last_index:
            term, last = self.current_term, self.last_index
            await self.durable()
            if self.role == LEADER and self.current_term == term:
                self.match_index[self.address] = last
                self.count_replicas()
        self.flushing = False

    def count_replicas(self) -> None:
        """Commit what is on a majority of disks (sections 5.3 and 5.4)."""
        index = sorted(self.match_index.values(), reverse=True)[self.majority - 1]
        if index > self.commit_index and self.may_count(index):
            self.commit(index)

    def may_count(self, index: int) -> bool:
        """Only entries of the leader's own term are committed by counting; earlier ones with them
        (section 5.4.2, figure 8)."""
        return self.log[index].term == self.current_term

    # -- clients (section 8) -----------------------------------------------------------------------------

    @rpc
    async def submit(self, command: Command) -> bool | None:
        """Do what a client wants: its result, once it is committed and applied."""
        if self.role != LEADER:
            raise NotLeader(self.leader or "")
        self.append(Entry(self.current_term, command))
        answer = self.waiting[self.last_index] = self.future()
        self.replicate()
        result: bool | None = await answer
        return result

    @rpc
    async def read(self, key: str) -> Value:
        """Read without the log.  What is committed when the read comes is applied already, here; but the
        leader must know that it has everything, and that it has not been deposed meanwhile."""
        if self.role != LEADER:
            raise NotLeader(self.leader or "")
        term = self.current_term
        if self.log[self.commit_index].term != term:
            raise NotLeader(self.address)  # the entry that begins the term is not committed yet
        await self.confirm_leadership()
        if self.role != LEADER or self.current_term != term:
            raise NotLeader(self.leader or "")
        return self.machine.data.get(key)

    async def confirm_leadership(self) -> None:
        """Exchange heartbeats with a majority.  A round serves all reads that came before it began."""
        round_ = self.future()
        self.readers.append(round_)
        if not self.confirming:
            self.spawn(self.confirm())
        await round_

    async def confirm(self) -> None:
        self.confirming = True
        while self.readers:
            readers, self.readers = self.readers, []
            try:
                await first(self.majority - 1, *map(self.acknowledged, self.peers))
            except Failure:
                for reader in readers:
                    reader.fail(NotLeader(""))
            for reader in readers:
                reader.set(None)
        self.confirming = False

    async def acknowledged(self, peer: str) -> None:
        """Returns if ``peer`` still follows us in this term."""
        term, at = self.current_term, self.match_index.get(peer, 0)
        if self.role != LEADER:
            raise NotLeader("")
        reply = await self.at(peer, timeout=self.election_timeout / 2).append_entries(
            term, self.address, at, self.log[at].term, (), self.commit_index
        )
        self.observe(reply.term)
        if reply.term != term:
            raise NotLeader("")

    @rpc
    async def status(self) -> Status:
        return Status(self.role, self.current_term, self.last_index, self.commit_index)


class RaftStore(Architecture):
    """A replicated log: a majority of servers agrees on every write before it is answered."""

    name = "raft"
    family = "agreement"
    source = "Ongaro and Ousterhout, In search of an understandable consensus algorithm, 2014"
    jobs = (Kv,)
    claims = ("linearizable", "no single point of failure")
    metrics = {"term": "the latest term: elections since the start", "log": "entries in the longest log"}

    servers: int = parameter(5, "servers; a majority must live", least=1)
    election_timeout: float = parameter(
        0.3, "time without a leader before an election: this to twice this", least=0.01, unit="s"
    )
    heartbeat: float = parameter(0.05, "time between heartbeats", least=0.001, unit="s")

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        server = Raft(servers=addresses, election_timeout=self.election_timeout, heartbeat=self.heartbeat)
        system.role("server", server, count=self.servers)
        system.clients(LeaderClient(servers=addresses))

    async def ready(self, x: Any) -> None:
        answered = False
        while not answered:  # by a leader
            try:
                await x.client.get("")
                answered = True
            except Failure:
                await x.sleep(0.1)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        asked = await settle(*(x.at(f"server-{i}", Raft).status() for i in range(self.servers)))
        servers = [s for s in asked if isinstance(s, Status)]
        leaders = [s.term for s in servers if s.role == LEADER]
        metrics = {"term": max(s.term for s in servers), "log": max(s.last_index for s in servers)}
        single = len(set(leaders)) == len(leaders)
        return metrics, [Verdict("at most one leader in a term", single, f"leaders in the terms {leaders}")]

    def leader(self, nodes: Mapping[str, Raft]) -> str | None:
        leaders = [(node.current_term, a) for a, node in nodes.items() if node.role == LEADER]
        return max(leaders)[1] if leaders else None

    def invariants(self, nodes: Mapping[str, Raft], seen: dict[Any, Any]) -> Iterator[str]:
        """Figure 3 of the paper: what holds at all times."""
        for address, node in nodes.items():
            term = node.current_term
            if node.role == LEADER and seen.setdefault(("leader", term), address) != address:
                yield f"election safety: {seen['leader', term]} and {address} both lead in term {term}"
            for index in range(seen.get(address, 0) + 1, node.last_applied + 1):
                if seen.setdefault(("applied", index), node.log[index]) != node.log[index]:
                    yield f"state machine safety: {address} has applied another entry {index} than others"
            seen[address] = node.last_applied
        for a, b in pairwise(nodes.values()):
            last = min(a.last_index, b.last_index)
            while last and a.log[last].term != b.log[last].term:
                last -= 1
            first = max(1, last - 20)  # further down it was looked at before
            if a.log[first:last] != b.log[first:last]:
                yield f"log matching: {a.address} and {b.address} agree on entry {last}, not on those before"
