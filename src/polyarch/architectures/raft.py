"""Raft: servers agree on one log of commands, so that they act as one that does not fail.

Ongaro and Ousterhout: "In search of an understandable consensus algorithm (extended version)", 2014.  The
file follows figure 2 of the paper: RequestVote RPC, AppendEntries RPC, rules for followers, candidates and
leaders; then what clients ask for.  The state that figure 2 begins with and the rules for all servers are in
``blocks/raft_server.py``, the log in ``raft_log.py``, snapshots (figure 13) in ``raft_snapshots.py``, changes
of the cluster in ``raft_membership.py``; ``raft_safeguards.py`` lists the rules that exist for safety.
Sections are the paper's; "thesis" is Ongaro's "Consensus: bridging theory and practice", 2014.

One server leads, until others have heard nothing from it for a while and elect another one.  The leader
puts clients' commands into its log and makes the others' logs equal to it; what a majority has on its disks
is *committed*, and is applied, in order, to the state machine: here a key-value store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from polyarch.blocks.raft_invariants import violations
from polyarch.blocks.raft_log import Entry
from polyarch.blocks.raft_membership import Membership
from polyarch.blocks.raft_safeguards import Safeguards
from polyarch.blocks.raft_server import CANDIDATE, LEADER, Follower
from polyarch.blocks.raft_snapshots import Snapshots
from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, Result, until_it_answers
from polyarch.blocks.safeguards import Guarded
from polyarch.core import (
    Failure,
    Future,
    Record,
    Refused,
    System,
    TooLarge,
    Verdict,
    first,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import Kv, Value

# -- messages --------------------------------------------------------------------------------------------


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
    snapshot_index: int
    members: tuple[str, ...]


class Raft(Snapshots, Membership):
    """One server; its configuration and its state are those of ``RaftServer``."""

    async def start(self) -> None:
        await super().start()
        self.watch_election_timer()

    # -- RequestVote RPC ---------------------------------------------------------------------------------

    @rpc(timeout=0.5)
    async def request_vote(
        self, term: int, candidate: str, last_index: int, last_term: int, pre: bool = False
    ) -> Vote:
        """Invoked by candidates to gather votes (section 5.2); ``pre``: would there be one?"""
        safe = self.safeguards
        old = safe.refuse_old_terms and term < self.current_term
        if old or (safe.stick_to_leader and self.follows_a_leader()):
            return Vote(self.current_term, False)
        up_to_date = (last_term, last_index) >= (self.log.last_term, self.log.last_index)  # section 5.4.1
        granted = up_to_date or not safe.up_to_date_candidates
        if not pre:
            self.observe(term)
            if self.voted_for not in (None, candidate) and safe.one_vote_per_term:
                granted = False
            if granted:
                self.voted_for = candidate
                self.write_ballot()
                self.restart_election_timer()
            await self.durable()
        return Vote(self.current_term, granted)

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
        if not self.follow(term, leader):  # 1.
            return Appended(self.current_term, False, 0)
        log, safe = self.log, self.safeguards
        # What the own snapshot includes is committed, and so it is the leader's too.
        other = prev_index > log.start and prev_index <= log.last_index and log.term(prev_index) != prev_term
        if prev_index > log.last_index or (other and safe.check_previous_entry):  # 2.
            refusal = Appended(term, False, self.first_conflict(prev_index))
            await self.durable()
            return refusal
        for index, entry in enumerate(entries, prev_index + 1):
            conflict = log.start < index <= log.last_index and log.term(index) != entry.term
            if conflict and safe.remove_conflicts:  # 3.
                self.truncate(index)
            if index > log.last_index:  # 4.
                self.append(*entries[index - prev_index - 1 :])
                break
        await self.durable()
        if self.current_term != term and safe.refuse_old_terms:
            return Appended(self.current_term, False, 0)
        match = prev_index + len(entries)
        self.commit(min(leader_commit, match))  # 5.
        return Appended(term, True, match)

    def first_conflict(self, prev_index: int) -> int:
        """Where a leader should try next: behind our log, or at our first entry of a term that it does not
        have there, so that one RPC skips a term and not an entry (end of section 5.3)."""
        if prev_index > self.log.last_index:
            return self.log.last_index + 1
        index, term = prev_index, self.log.term(prev_index)
        while index > self.log.start + 1 and self.log.term(index - 1) == term:
            index -= 1
        return index

    # -- followers and candidates: elections (section 5.2) -----------------------------------------------

    def watch_election_timer(self) -> None:
        """If nothing has been heard of a leader, and no vote was granted: become a candidate."""
        if self.now >= self.election_at:
            self.restart_election_timer()
            if self.role != LEADER and self.has_a_say():
                self.spawn(self.elect())
        # What is heard from now on can move the election no nearer than one election timeout from now.
        wait = min(self.election_at - self.now, self.election_timeout)
        self.after(max(wait, 1e-6), self.watch_election_timer)

    def has_a_say(self) -> bool:
        """A server that has been removed may still be needed, until that is committed (thesis, 4.2.2)."""
        return self.address in self.log.members or self.log.members_since > self.commit_index

    async def elect(self) -> None:
        """Vote for ourselves in a new term, and ask all others for their votes."""
        term = self.current_term + 1
        if self.pre_vote and not await self.wins(term, pre=True):
            return
        if self.current_term >= term or self.follows_a_leader():
            return  # things have changed meanwhile
        self.observe(term)
        self.role, self.voted_for = CANDIDATE, self.address
        self.write_ballot()
        await self.durable()
        if await self.wins(term) and self.role == CANDIDATE and self.current_term == term:
            self.lead()

    async def wins(self, term: int, pre: bool = False) -> bool:
        """Whether a majority votes for us."""
        log, members = self.log, self.log.members
        last_index, last_term = log.last_index, log.last_term

        async def ask(peer: str) -> None:
            vote = await self.at(peer).request_vote(term, self.address, last_index, last_term, pre)
            self.observe(vote.term)
            if not vote.granted:
                raise Refused("no vote")

        votes = self.majority(members, self.safeguards.majority_elects) - (self.address in members)
        try:
            await first(max(votes, 0), *(ask(peer) for peer in members if peer != self.address))
        except Failure:
            return False
        return True

    # -- leaders -----------------------------------------------------------------------------------------

    def lead(self) -> None:
        """The election is won: begin the term with an entry (section 8)."""
        self.role, self.leader = LEADER, self.address
        self.followers, self.learners, self.own_match = {}, {}, 0
        self.append(Entry(self.current_term, None))
        self.count_followers()
        self.beat(self.current_term)

    def beat(self, term: int) -> None:
        """Heartbeats, again and again.  Who hears from no majority leads no more (thesis, section 6.2)."""
        if not self.leads(term):
            return
        if self.of_majority(lambda f: f.heard, self.now) < self.now - 3 * self.election_timeout:
            return self.step_down()
        for peer, follower in self.followers.items():
            self.spawn(self.send(peer, follower, follower.next_index, ()))
        self.replicate()
        self.after(self.heartbeat, self.beat, term)

    def replicate(self) -> None:
        """Send what is new to all followers and to the own disk, at the same time (thesis, section 10.2.1).
        What comes while ``window`` batches are on their way is the next batch."""
        for peer, follower in self.followers.items():
            self.feed(peer, follower)
        if not self.flushing:
            self.spawn(self.flush())

    def feed(self, peer: str, follower: Follower) -> None:
        attempt, last = follower.attempt, self.log.last_index
        if self.role != LEADER or follower.next_index > last:
            return
        if follower.next_index <= self.log.start:
            if not follower.installing:
                self.spawn(self.send_snapshot(peer, follower))
            return
        while follower.matched and follower.attempt == attempt and follower.next_index <= last:
            if follower.flying >= self.window:
                return
            at = follower.next_index
            entries = self.log.part(at, min(self.batch, follower.most))
            follower.flying += 1
            follower.next_index += len(entries)
            self.spawn(self.send(peer, follower, at, entries))

    async def send(self, peer: str, follower: Follower, at: int, entries: tuple[Entry, ...]) -> None:
        """One AppendEntries RPC, and what its answer says."""
        term, attempt, sent = self.current_term, follower.attempt, self.now
        self.round = round_ = self.round + 1
        if not entries:  # a heartbeat is not to overtake entries; or it looks for where the logs are equal
            at = max(follower.match_index + 1 if follower.matched else at, self.log.start + 1)
        try:
            reply = await self.at(peer, timeout=self.election_timeout / 2).append_entries(
                term, self.address, at - 1, self.log.term(at - 1), entries, self.commit_index
            )
        except Failure as failure:
            if isinstance(failure, TooLarge):
                follower.most = max(1, len(entries) // 2)
            if entries and attempt == follower.attempt:  # again, with the next heartbeat
                self.try_from(follower, at)
            return
        self.observe(reply.term)
        if not self.leads(term) or reply.term != term:
            return
        follower.round, follower.heard = max(follower.round, round_), max(follower.heard, sent)
        if reply.success:
            if entries and attempt == follower.attempt:
                follower.flying -= 1
            if reply.index > follower.match_index:
                follower.match_index = reply.index
                self.count_replicas()
            if not follower.matched:
                follower.matched, follower.next_index = True, follower.match_index + 1
        elif attempt == follower.attempt:
            self.try_from(follower, max(follower.match_index + 1, min(reply.index, at - 1)))
            if follower.next_index > self.log.start:
                self.spawn(self.send(peer, follower, follower.next_index, ()))
        self.answer_readers()
        self.feed(peer, follower)

    async def flush(self) -> None:
        """Bring the own log to disk: one flush at a time, which takes all that has come meanwhile."""
        self.flushing = True
        try:
            while self.role == LEADER and self.own_match < self.log.last_index:
                term, last = self.current_term, self.log.last_index
                await self.durable()
                if self.leads(term):
                    self.own_match = last
                    self.count_replicas()
        finally:
            self.flushing = False

    def count_replicas(self) -> None:
        """Commit what is on a majority of disks (section 5.3); but by counting only entries of the leader's
        own term, and earlier ones with them (section 5.4.2)."""
        safe = self.safeguards
        index = self.of_majority(lambda f: f.match_index, self.own_match, safe=safe.majority_commits)
        if index <= self.commit_index:
            return
        if self.log.term(index) == self.current_term or not safe.commit_own_term:
            self.commit(index)
            if self.address not in self.log.members and self.log.members_since <= index:
                self.step_down()  # we have led to our own removal (thesis, section 4.2.2)

    # -- clients (section 8) -----------------------------------------------------------------------------

    @rpc
    async def submit(self, command: Command) -> Result:
        """Do what a client wants: its result, once it is committed and applied."""
        result: Result = await self.committed(Entry(self.current_term, command))
        return result

    @rpc
    async def read(self, key: str) -> Value:
        """Read without the log.  What is committed when the read comes is applied already, here; but the
        leader must know that it has everything, and that it has not been deposed meanwhile."""
        self.require_leadership()
        if self.safeguards.read_in_own_term and not self.has_committed_in_term():
            raise NotLeader(self.address)
        if self.safeguards.confirm_before_read and not (self.read_by == "lease" and self.has_a_lease()):
            await self.confirm_leadership()
        return self.machine.data.get(key)

    async def confirm_leadership(self) -> None:
        """A majority answers an RPC that is sent after this moment (thesis, section 6.4).  Reads that come
        while a round is on its way share the next one."""
        reader: Future[None] = self.future()
        self.readers.append((self.round, reader))
        if len(self.readers) == 1:
            self.ask_for_readers()
        self.answer_readers()
        await reader

    def ask_for_readers(self) -> None:
        for peer, follower in self.followers.items():
            self.spawn(self.send(peer, follower, follower.next_index, ()))
        self.asked = self.round

    def answer_readers(self) -> None:
        if self.readers:
            confirmed = self.of_majority(lambda f: f.round, self.round + 1)
            while self.readers and self.readers[0][0] < confirmed:
                self.readers.pop(0)[1].set(None)
            if self.readers and confirmed > self.asked - len(self.followers):
                self.ask_for_readers()

    def has_a_lease(self) -> bool:
        """Whether nobody can have been elected yet since a majority has followed us, by any clock (thesis,
        section 6.4.1)."""
        confirmed = self.of_majority(lambda f: f.heard, self.now)
        lease = self.election_timeout / (1 + self.clock_drift)
        return bool(self.now < confirmed + lease) or not self.safeguards.lease_ends

    @rpc
    async def status(self) -> Status:
        log = self.log
        return Status(
            self.role, self.current_term, log.last_index, self.commit_index, log.snapshot.index, log.members
        )


class RaftStore(Guarded):
    """A replicated log: a majority of servers agrees on every write before it is answered."""

    Safeguards = Safeguards
    name = "raft"
    family = "agreement"
    source = "Ongaro and Ousterhout, In search of an understandable consensus algorithm, 2014"
    jobs = (Kv,)
    claims = ("linearizable", "no single point of failure")
    metrics = {
        "term": "the latest term: elections since the start",
        "log": "entries in the longest log since the start, discarded ones too",
        "snapshot": "entries that are in the latest snapshot",
        "members": "servers in the configuration of the leader",
    }

    servers: int = parameter(5, "servers of the cluster; a majority must live", least=1)
    spares: int = parameter(0, "further servers, which can be added to the cluster", least=0)
    election_timeout: float = parameter(
        0.3, "shortest time without a leader before an election", least=0.001, unit="s"
    )
    election_spread: float = parameter(
        1.0, "random part of the election timeout: up to this many times the shortest, added to it", least=0
    )
    heartbeat: float = parameter(0.1, "time between heartbeats", least=0.0005, unit="s")
    pre_vote: bool = parameter(True, "ask before an election whether it could be won")
    batch: int = parameter(1000, "most entries in one message", least=1)
    window: int = parameter(2, "messages with entries on their way to one follower", least=1)
    read_by: Literal["index", "lease"] = parameter(
        "index", "reads: index, a majority confirms the leader; lease, its clock does"
    )
    clock_drift: float = parameter(
        0.1, "with leases: by what part one clock may run faster than another", least=0
    )
    snapshot_every: int = parameter(10_000, "entries between two snapshots", least=1)
    chunk: int = parameter(1_000_000, "most bytes of a snapshot in one message", least=1, most=8_000_000)
    sessions: int = parameter(10_000, "clients whose last results are remembered", least=1)

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers + self.spares)
        members = addresses[: self.servers]
        shared = [n for n in self.parameters if n not in ("servers", "spares")]
        server = Raft(servers=members, safeguards=self.safeguards, **{n: getattr(self, n) for n in shared})
        system.role("server", server, count=len(addresses))
        system.clients(LeaderClient(servers=addresses, attempt=max(0.1, 2 * self.election_timeout)))

    async def ready(self, x: Any) -> None:
        await until_it_answers(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        addresses = (f"server-{i}" for i in range(self.servers + self.spares))
        asked = await settle(*(x.at(address, Raft).status() for address in addresses))
        servers = [s for s in asked if isinstance(s, Status)]
        leaders = [s for s in servers if s.role == LEADER]
        terms = [s.term for s in leaders]
        metrics = {
            "term": max(s.term for s in servers),
            "log": max(s.last_index for s in servers),
            "snapshot": max(s.snapshot_index for s in servers),
        }
        if leaders:
            metrics["members"] = len(max(leaders, key=lambda s: s.term).members)
        single = len(set(terms)) == len(terms)
        return metrics, [Verdict("at most one leader in a term", single, f"leaders in the terms {terms}")]

    @property
    def not_borne(self) -> tuple[str, ...]:
        """A lease trusts clocks, up to ``clock_drift``."""
        return ("skew", "drift") if self.read_by == "lease" else ()

    async def operate(self, x: Any, random: Any) -> None:
        """Add or remove one server or two, at the leader with the latest term of those who answer."""
        addresses = [f"server-{i}" for i in range(self.servers + self.spares)]
        asked = await settle(*(x.at(a, Raft, timeout=0.02).status() for a in addresses))
        states = [(s, a) for s, a in zip(asked, addresses, strict=True) if isinstance(s, Status)]
        leaders = [(s.term, a, s.members) for s, a in states if s.role == LEADER]
        if leaders:
            _, leader, members = max(leaders)
            at = x.at(leader, Raft, timeout=1.0)
            some = random.sample(addresses, 1 + random.below(min(2, len(addresses))))
            new = [at.add_server(server) for server in some if server not in members]
            old = [at.remove_server(server) for server in some if server in members and len(members) > 2]
            await settle(*new, *old)

    def leader(self, nodes: Mapping[str, Raft]) -> str | None:
        leaders = [(node.current_term, address) for address, node in nodes.items() if node.role == LEADER]
        return max(leaders)[1] if leaders else None

    def invariants(self, nodes: Mapping[str, Raft], seen: dict[Any, Any]) -> Iterable[str]:
        return violations(nodes, seen)
