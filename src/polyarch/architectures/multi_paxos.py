"""Multi-Paxos: a leader runs the first phase of Paxos once, for all places of a log that are to come.

Lamport: "Paxos made simple", 2001, section 3, and "The part-time parliament", 1998, section 3 (the
multi-decree parliament).  ``paxos.py`` says what one decree is.

Each place (*slot*) of the log is a decree.  A promise of phase 1 says nothing about values, so one promise
can be made for all slots at once; a proposer who has it from a majority is the *leader*: each command then
costs phase 2 only, one round trip to a majority.  What the acceptors had accepted before, the leader has
accepted again in its own ballot, the newest of each slot; slots of which nobody knows anything, between
others, it fills with *no-ops* (section 3), so that what comes behind them can be executed.

Unlike Raft's, a leader here need not have the longest log: it is told in phase 1 what it lacks.  And
acceptors may accept slots in any order.  How a leader is found is not the paper's business: here, whoever
has not heard of one for a while tries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polyarch.blocks.paxos_safeguards import LogSafeguards as Safeguards
from polyarch.blocks.replicas import Command, LeaderClient, NotLeader, Replica, Result, StateMachine
from polyarch.blocks.replicas import until_it_answers as until_a_client_is_answered
from polyarch.blocks.rounds import Rounds
from polyarch.blocks.safeguards import Guarded
from polyarch.core import (
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

__all__ = ["Accepted", "Ballot", "MultiPaxos", "Promise", "Server", "Vote"]

# -- messages --------------------------------------------------------------------------------------------


class Ballot(Record, array_like=True, order=True):
    """The number of a leadership; two leaders never have the same."""

    round: int
    leader: str


class Vote(Record, array_like=True):
    """What an acceptor has accepted in a slot, and in which ballot."""

    slot: int
    ballot: Ballot
    command: Command | None
    """None: a no-op."""


class Promise(Record, array_like=True):
    """The answer to a prepare request: what is promised now, and all votes from a slot on."""

    promised: Ballot
    votes: tuple[Vote, ...]


class Accepted(Record, array_like=True):
    """The answer to an accept request."""

    promised: Ballot
    through: int
    """Every slot up to this one is chosen, or accepted in the leader's ballot."""


class Status(Record):
    """What a server says of itself."""

    leads: bool
    round: int
    chosen: int
    digest: int


class Server(Replica):
    """An acceptor and a learner, and at times the leader."""

    servers: tuple[str, ...]
    safeguards: Safeguards = Safeguards()
    election_timeout: float = 0.3
    """Without a leader for this to twice this long, a server tries to be the leader."""
    heartbeat: float = 0.05
    batch: int = 1000
    """Most slots in one accept request."""

    async def start(self) -> None:
        self.peers = [s for s in self.servers if s != self.address]
        # The acceptor: on disk before anything is answered.
        self.promised = self.disk.get("promised", Ballot, Ballot(0, ""))
        self.votes = {vote.slot: vote for vote in self.disk.entries("votes", Vote)}
        self.written = self.synced = 0
        self.through = 0  # every slot up to this one is chosen, or accepted in the ballot promised
        # The learner: the number on disk is never too large, as the votes were written before it.
        self.chosen = 0  # every slot up to this one is chosen, and executed
        self.machine = StateMachine()
        self.waiting: dict[int, Future[Result]] = {}  # clients' answers, by slot
        self.learn(self.disk.get("chosen", int, 0))
        # The leader.
        self.leads = False
        self.last = 0  # the last slot in use
        self.recovered = 0  # the last slot that was in use before we led
        self.match: dict[str, int] = {}  # each acceptor's ``through``, in our ballot
        self.sending: set[str] = set()
        self.flushing = False
        self.readers = Rounds(self, self.confirm)
        self.restart_timer()
        self.watch_timer()
        self.every(self.heartbeat, self.replicate)

    @property
    def majority(self) -> int:
        return max(1, len(self.servers) // 2 + self.safeguards.majority)

    # -- acceptors -----------------------------------------------------------------------------------------

    @rpc(timeout=0.5)
    async def prepare(self, ballot: Ballot, slot: int) -> Promise:
        """Phase 1, for ``slot`` and all that follow it."""
        if ballot > self.promised:
            self.promise(ballot)
            self.restart_timer()
        promised, last = self.promised, max(self.votes, default=0)
        votes = tuple(self.votes[s] for s in range(slot, last + 1) if s in self.votes)
        await self.durable()
        return Promise(promised, votes)

    @rpc(timeout=0.5)
    async def accept(
        self, ballot: Ballot, slot: int, commands: tuple[Command | None, ...], chosen: int
    ) -> Accepted:
        """Phase 2, for ``slot`` and those behind it; without commands it is a heartbeat.  ``chosen``: of
        every slot up to this one the leader knows what was chosen."""
        if ballot < self.promised:
            await self.durable()
            return Accepted(self.promised, 0)
        if ballot > self.promised:
            self.promise(ballot)
        self.restart_timer()
        self.vote(ballot, slot, commands)
        through = self.through
        await self.durable()
        if self.promised == ballot:
            self.learn(min(chosen, through))
        return Accepted(self.promised, through)

    def promise(self, ballot: Ballot) -> None:
        """Accept nothing older from now on.  Whoever led does not any more."""
        self.promised = ballot
        self.write_promise()
        self.through = self.chosen
        self.leads = False
        waiting, self.waiting = self.waiting, {}
        for answer in waiting.values():
            answer.fail(Timeout("another server leads: the command may be chosen yet"))

    def vote(self, ballot: Ballot, slot: int, commands: tuple[Command | None, ...]) -> None:
        for i, command in enumerate(commands, slot):
            if i > self.chosen:
                vote = self.votes[i] = Vote(i, ballot, command)
                self.disk.append("votes", vote)
                self.written += 1
        if slot <= self.through + 1:
            self.through = max(self.through, slot + len(commands) - 1)

    def write_promise(self) -> None:
        if self.safeguards.promise_on_disk:
            self.disk.put("promised", self.promised)
            self.written += 1

    async def durable(self) -> None:
        """Wait until everything written so far is on disk."""
        written = self.written
        if self.synced < written and self.safeguards.sync_before_answer:
            await self.disk.sync()
            self.synced = max(self.synced, written)

    # -- learners ------------------------------------------------------------------------------------------

    def learn(self, slot: int) -> None:
        """Our votes up to ``slot`` are what was chosen: execute them, in order."""
        if slot > self.chosen:
            self.disk.put("chosen", slot)
        while self.chosen < slot:
            self.chosen += 1
            command = self.votes[self.chosen].command
            self.machine.answer(command, self.waiting.pop(self.chosen, None))
        self.through = max(self.through, self.chosen)

    # -- becoming the leader: phase 1 ----------------------------------------------------------------------

    def restart_timer(self) -> None:
        self.try_at = self.now + self.election_timeout * (1 + self.random.random())

    def watch_timer(self) -> None:
        if self.now >= self.try_at:
            self.restart_timer()
            if not self.leads:
                self.spawn(self.campaign())
        self.after(max(self.try_at - self.now, 0.001), self.watch_timer)

    async def campaign(self) -> None:
        """Ask all acceptors for their promises, in a ballot of our own that is newer than any known."""
        ballot = Ballot(self.promised.round + 1, self.address)
        self.promise(ballot)
        slot = self.chosen + 1
        promises = await first(self.majority, *(self.promised_by(s, ballot, slot) for s in self.servers))
        if self.promised == ballot:
            self.lead(ballot, [vote for promise in promises for vote in promise.votes])

    async def promised_by(self, server: str, ballot: Ballot, slot: int) -> Promise:
        promise = await self.at(server, timeout=self.election_timeout).prepare(ballot, slot)
        if promise.promised != ballot:
            raise NotLeader(promise.promised.leader)
        return promise

    def lead(self, ballot: Ballot, votes: list[Vote]) -> None:
        """A majority has promised: propose again, in our ballot, what may have been chosen before."""
        self.leads = True
        begin = self.chosen + 1
        self.last = self.recovered = max([self.chosen, *(vote.slot for vote in votes)])
        commands = [self.may_propose([v for v in votes if v.slot == s]) for s in range(begin, self.last + 1)]
        self.vote(ballot, begin, tuple(commands))
        self.match, self.sending = {}, set()
        self.replicate()

    def may_propose(self, votes: list[Vote]) -> Command | None:
        """What to propose in a slot of which these votes are known: the newest; in a gap, a no-op."""
        if not votes or not self.safeguards.adopt_newest:
            return None
        return max(votes, key=lambda vote: vote.ballot).command

    # -- leading: phase 2 ----------------------------------------------------------------------------------

    def replicate(self) -> None:
        """Send what is new to all acceptors, our own disk among them; without anything it is a heartbeat."""
        if self.leads:
            for peer in self.peers:
                if peer not in self.sending:
                    self.spawn(self.send(peer, self.sending))
            if not self.flushing:
                self.spawn(self.flush())

    async def send(self, peer: str, sending: set[str]) -> None:
        """Bring one acceptor up to date: it says how far it is, and is sent what is missing, also what was
        chosen long ago: that is proposed again."""
        ballot = self.promised
        sending.add(peer)
        try:
            while True:
                slot = self.match.get(peer, self.last) + 1
                end = min(slot + self.batch, self.last + 1)
                commands = tuple(self.votes[s].command for s in range(slot, end))
                answer = await self.accepted_by(peer, ballot, slot, commands)
                self.match[peer] = answer.through
                self.count()
                if answer.through >= self.last:
                    return
        except Failure:
            pass
        finally:
            sending.discard(peer)

    async def accepted_by(
        self, peer: str, ballot: Ballot, slot: int, commands: tuple[Command | None, ...]
    ) -> Accepted:
        at = self.at(peer, timeout=self.election_timeout / 2)
        answer = await at.accept(ballot, slot, commands, self.chosen)
        if answer.promised > self.promised:
            self.promise(answer.promised)
        if not self.leads or self.promised != ballot or answer.promised != ballot:
            raise NotLeader(self.promised.leader)
        return answer

    async def flush(self) -> None:
        self.flushing = True
        while self.leads and self.match.get(self.address, 0) < self.last:
            ballot, last = self.promised, self.last
            await self.durable()
            if self.leads and self.promised == ballot:
                self.match[self.address] = last
                self.count()
        self.flushing = False

    def count(self) -> None:
        """A slot is chosen when a majority has accepted it in our ballot."""
        through = sorted((self.match.get(s, 0) for s in self.servers), reverse=True)
        self.learn(through[self.majority - 1])

    # -- clients -------------------------------------------------------------------------------------------

    @rpc
    async def submit(self, command: Command) -> Result:
        if not self.leads:
            raise NotLeader(self.promised.leader if self.promised.leader != self.address else "")
        self.last += 1
        self.vote(self.promised, self.last, (command,))
        answer = self.waiting[self.last] = self.future()
        self.replicate()
        result: Result = await answer
        return result

    @rpc
    async def read(self, key: str) -> Value:
        """What was chosen when the read came is executed here already, if we still lead."""
        ballot = self.promised
        if not self.leads:
            raise NotLeader(ballot.leader if ballot.leader != self.address else "")
        if self.chosen < self.recovered:
            raise NotLeader(self.address)
        await self.still_leading()
        if not self.leads or self.promised != ballot:
            raise NotLeader(self.promised.leader)
        return self.machine.data.get(key)

    async def still_leading(self) -> None:
        """A majority has promised nothing newer, at some time after this call."""
        if self.safeguards.confirm_before_read:
            await self.readers.served()

    async def confirm(self) -> None:
        if not self.leads:
            raise NotLeader("")
        ballot, last = self.promised, self.last
        await first(self.majority - 1, *(self.accepted_by(p, ballot, last + 1, ()) for p in self.peers))

    @rpc
    def status(self) -> Status:
        return Status(self.leads, self.promised.round, self.chosen, self.machine.digest())


class MultiPaxos(Guarded):
    """A log agreed on by Paxos: a leader runs phase 1 once, and phase 2 for each command."""

    name = "multi_paxos"
    family = "agreement"
    source = "Lamport, Paxos made simple, 2001, section 3"
    jobs = (Kv,)
    Safeguards = Safeguards
    claims = ("linearizable", "no single point of failure")
    metrics = {"round": "of the newest ballot: attempts to lead since the start", "chosen": "slots chosen"}

    servers: int = parameter(5, "servers; a majority must live", least=1)
    election_timeout: float = parameter(
        0.3, "time without a leader before another tries: this to twice this", least=0.01, unit="s"
    )
    heartbeat: float = parameter(0.05, "time between heartbeats", least=0.001, unit="s")

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        times: dict[str, Any] = {"election_timeout": self.election_timeout, "heartbeat": self.heartbeat}
        server = Server(servers=addresses, safeguards=self.safeguards, **times)
        system.role("server", server, count=self.servers)
        system.clients(LeaderClient(servers=addresses))

    async def ready(self, x: Any) -> None:
        await until_a_client_is_answered(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        asked = await settle(*(x.at(f"server-{i}", Server).status() for i in range(self.servers)))
        told = [s for s in asked if isinstance(s, Status)]
        states: dict[int, set[int]] = {}
        for s in told:
            states.setdefault(s.chosen, set()).add(s.digest)
        equal = all(len(digests) == 1 for digests in states.values())
        metrics = {"round": max(s.round for s in told), "chosen": max(s.chosen for s in told)}
        words = f"{len(told)} servers, with {sorted(states)} slots"
        return metrics, [Verdict("replicas that have executed as many slots hold the same", equal, words)]

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        leaders = [a for a, node in nodes.items() if isinstance(node, Server) and node.leads]
        return max(leaders, key=lambda a: nodes[a].promised, default=None)

    def invariants(self, nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterable[str]:
        """Only a single value is chosen for a slot."""
        for address, node in nodes.items():
            if isinstance(node, Server):
                for slot in range(max(1, node.chosen - 50), node.chosen + 1):
                    command = node.votes[slot].command
                    if seen.setdefault(slot, command) != command:
                        yield f"one value is chosen for a slot: {address} learned another one for slot {slot}"
