"""Paxos: servers agree on one value, and never on two, whatever is lost and whoever fails.

Lamport: "Paxos made simple", ACM SIGACT News 32(4), 2001.  Sections and names (P1, P2) are the paper's.

Agreement on one thing is a *decree*.  There are three roles, and here each server plays them all:

* **Proposers** try to have a value chosen.  They number their attempts by *ballots*, no two of them equal.
* **Acceptors** vote.  A value is chosen when a majority of them has accepted it in the same ballot.
* **Learners** find out what was chosen.

Phase 1: a proposer asks a majority to promise not to accept anything in an older ballot, and to say what they
have accepted.  Phase 2: it asks them to accept a value: *the one of the newest ballot among those it was told
of*, and its own only if there is none.  As two majorities share an acceptor, whoever comes after a value was
chosen is told of it.

To make a register of it, each version of a key is a decree of its own: whoever writes proposes its command
for the first version that it does not know, until it is its own that was chosen.  Reads are decrees too.
Nobody leads: every server may propose at any time, and each operation costs both phases.  ``multi_paxos.py``
is what becomes of this with a leader and one log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polyarch.blocks.paxos_safeguards import Safeguards
from polyarch.blocks.replicas import (
    Command,
    LeaderClient,
    Replica,
    Result,
    Session,
    StateMachine,
    until_it_answers,
)
from polyarch.blocks.safeguards import Guarded
from polyarch.core import (
    Failure,
    Future,
    Record,
    Refused,
    System,
    Verdict,
    first,
    oneway,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.kv import Kv, Value

__all__ = ["Ballot", "Choice", "Decree", "Paxos", "Promise", "Server", "Vote"]

# -- messages --------------------------------------------------------------------------------------------


class Decree(Record, array_like=True):
    """What is to be agreed on: one version of one key."""

    key: str
    version: int


class Ballot(Record, array_like=True, order=True):
    """The number of an attempt; that of another attempt is never the same."""

    round: int
    proposer: str


class Choice(Record, array_like=True):
    """A value that may be chosen: commands that came to one proposer at the same time (none: only reads)."""

    proposer: str
    number: int
    commands: tuple[Command, ...]


class Vote(Record, array_like=True):
    """All that an acceptor remembers of a decree."""

    promised: Ballot
    """The newest ballot in which it has answered a proposer: it accepts nothing older (P1a)."""
    accepted: Ballot | None
    """The newest ballot in which it has accepted something."""
    choice: Choice | None


class Promise(Record, array_like=True):
    """The answer to a prepare request."""

    vote: Vote
    chosen: tuple[Choice, ...]
    """What was chosen in this decree and in those of later versions, if the acceptor has learned it."""


class Status(Record):
    """What a server says of itself."""

    versions: int
    """Decrees that it has learned."""


NEVER = Ballot(0, "")
NO_VOTE = Vote(NEVER, None, None)


class Superseded(Refused, code="superseded"):
    """An acceptor has promised something to a newer ballot."""


class Server(Replica):
    """A proposer, an acceptor and a learner."""

    servers: tuple[str, ...]
    safeguards: Safeguards = Safeguards()
    backoff: float = 0.02
    """Longest pause, in seconds, after the first attempt that another proposer superseded."""

    async def start(self) -> None:
        self.peers = [s for s in self.servers if s != self.address]
        # The acceptor: on disk before anything is answered.
        self.votes: dict[Decree, Vote] = dict(self.disk.entries("votes", tuple[Decree, Vote]))
        # The learner: what it has on disk is true, what it has not can be learned again.
        self.chosen: dict[Decree, Choice] = dict(self.disk.entries("chosen", tuple[Decree, Choice]))
        self.machines: dict[str, StateMachine] = {}
        self.versions: dict[str, int] = {}  # of each key: all up to this one are applied
        for decree in self.chosen:
            self.apply(decree.key)
        # The proposer: after a restart it is another one, so that its ballots are.
        self.name = f"{self.address}/{self.random.bits64():016x}"
        self.newest_round = max((vote.promised.round for vote in self.votes.values()), default=0)
        self.proposed = 0
        self.waiting: dict[str, list[tuple[Command | None, Future[Any]]]] = {}
        self.proposing: set[str] = set()

    @property
    def majority(self) -> int:
        return max(1, len(self.servers) // 2 + self.safeguards.majority)

    # -- acceptors (section 2.2) ---------------------------------------------------------------------------

    @rpc(timeout=0.3)
    async def prepare(self, decree: Decree, ballot: Ballot) -> Promise:
        """Phase 1: promise to accept nothing older, and say what was accepted."""
        vote = self.votes.get(decree, NO_VOTE)
        if ballot > vote.promised:
            vote = Vote(ballot, vote.accepted, vote.choice)
            self.write_promise(decree, vote)
        await self.durable()
        return Promise(vote, tuple(self.learned_since(decree)))

    @rpc(timeout=0.3)
    async def accept(self, decree: Decree, ballot: Ballot, choice: Choice) -> Ballot:
        """Phase 2: accept, unless something newer was promised; the answer is what is promised now."""
        vote = self.votes.get(decree, NO_VOTE)
        if ballot >= vote.promised:
            vote = Vote(ballot, ballot, choice)
            self.write(decree, vote)
        await self.durable()
        return vote.promised

    def write_promise(self, decree: Decree, vote: Vote) -> None:
        self.votes[decree] = vote
        if self.safeguards.promise_on_disk:
            self.write(decree, vote)

    async def durable(self) -> None:
        if self.safeguards.sync_before_answer:
            await self.disk.sync()

    def write(self, decree: Decree, vote: Vote) -> None:
        self.votes[decree] = vote
        self.disk.append("votes", (decree, vote))

    # -- proposers (section 2.2) ---------------------------------------------------------------------------

    async def propose(self, decree: Decree, mine: Choice) -> None:
        """Have something chosen: ``mine``, if nothing else was or may have been."""
        pause = self.backoff
        while decree not in self.chosen:
            self.newest_round += 1
            ballot = Ballot(self.newest_round, self.name)
            try:
                promises = await first(
                    self.majority, *(self.promised_by(s, decree, ballot) for s in self.servers)
                )
                if decree not in self.chosen:
                    choice = self.may_propose([promise.vote for promise in promises], mine)
                    await first(
                        self.majority, *(self.accepted_by(s, decree, ballot, choice) for s in self.servers)
                    )
                    self.learn(decree, choice)
                    for peer in self.peers:
                        self.at(peer).inform(decree, choice)
            except Failure:
                # Proposers that supersede each other for ever make no progress (section 2.4).
                await self.sleep(self.random.between(0, pause))
                pause = min(2 * pause, 0.3)

    def may_propose(self, votes: Sequence[Vote], mine: Choice) -> Choice:
        """P2c: the value of the newest ballot in which any of a majority has accepted; any if none has."""
        accepted = [(vote.accepted, vote.choice) for vote in votes if vote.accepted and vote.choice]
        return max(accepted, key=lambda a: a[0])[1] if accepted and self.safeguards.adopt_newest else mine

    async def promised_by(self, server: str, decree: Decree, ballot: Ballot) -> Promise:
        promise = await self.at(server).prepare(decree, ballot)
        for version, choice in enumerate(promise.chosen, decree.version):
            self.learn(Decree(decree.key, version), choice)
        self.require(promise.vote.promised, ballot)
        return promise

    async def accepted_by(self, server: str, decree: Decree, ballot: Ballot, choice: Choice) -> None:
        self.require(await self.at(server).accept(decree, ballot, choice), ballot)

    def require(self, promised: Ballot, ballot: Ballot) -> None:
        self.newest_round = max(self.newest_round, promised.round)
        if promised != ballot:
            raise Superseded(promised.proposer)

    # -- learners (section 2.3) ----------------------------------------------------------------------------

    @oneway
    def inform(self, decree: Decree, choice: Choice) -> None:
        """This was chosen."""
        self.learn(decree, choice)

    def learn(self, decree: Decree, choice: Choice) -> None:
        if decree not in self.chosen:
            self.chosen[decree] = choice
            self.disk.append("chosen", (decree, choice))
            self.apply(decree.key)

    def learned_since(self, decree: Decree) -> Iterable[Choice]:
        version = decree.version
        while (choice := self.chosen.get(Decree(decree.key, version))) is not None:
            yield choice
            version += 1

    def apply(self, key: str) -> None:
        """Execute what was chosen, in the order of the versions."""
        machine = self.machines.setdefault(key, StateMachine())
        while (choice := self.chosen.get(Decree(key, self.versions.get(key, 0) + 1))) is not None:
            self.versions[key] = self.versions.get(key, 0) + 1
            for command in choice.commands:
                machine.sessions.setdefault(command.client, Session())
                machine.apply(command)

    # -- clients -------------------------------------------------------------------------------------------

    @rpc
    async def submit(self, command: Command) -> Result:
        if command.name == "register":  # nobody else has this number: there is nothing to agree on
            return self.random.bits64() >> 1
        await self.decided(command.key, command)
        return self.machines[command.key].apply(command)  # executed already: this is its result

    @rpc
    async def read(self, key: str) -> Value:
        value: Value = await self.decided(key, None)
        return value

    async def decided(self, key: str, command: Command | None) -> Value:
        """Have a decree that begins after this call, with the command in it; the key's value then."""
        answer: Future[Value] = self.future()
        self.waiting.setdefault(key, []).append((command, answer))
        if key not in self.proposing:
            self.spawn(self.decide(key))
        return await answer

    async def decide(self, key: str) -> None:
        """One decree after another, for all who wait for this key."""
        self.proposing.add(key)
        while key in self.waiting:
            asked = self.waiting.pop(key)
            self.proposed += 1
            mine = Choice(self.name, self.proposed, tuple(command for command, _ in asked if command))
            chosen = None
            while chosen != mine:
                decree = Decree(key, self.versions.get(key, 0) + 1)
                await self.propose(decree, mine)
                chosen = self.chosen[decree]
            for _, answer in asked:
                answer.set(self.machines[key].data.get(key))
        self.proposing.discard(key)

    @rpc
    def status(self) -> Status:
        return Status(sum(self.versions.values()))


class Paxos(Guarded):
    """Every version of every key is agreed on by itself, in two phases, without a leader."""

    name = "paxos"
    family = "agreement"
    source = "Lamport, Paxos made simple, 2001"
    jobs = (Kv,)
    Safeguards = Safeguards
    claims = ("linearizable", "no single point of failure", "no leader: a crash interrupts nobody else")
    metrics = {"versions": "decrees that were agreed on, reads included"}

    servers: int = parameter(5, "servers; a majority must live", least=1)

    def build(self, system: System) -> None:
        addresses = system.addresses("server", self.servers)
        system.role("server", Server(servers=addresses, safeguards=self.safeguards), count=self.servers)
        system.clients(LeaderClient(servers=addresses))

    async def ready(self, x: Any) -> None:
        await until_it_answers(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        asked = await settle(*(x.at(f"server-{i}", Server).status() for i in range(self.servers)))
        return {"versions": max((s.versions for s in asked if isinstance(s, Status)), default=0)}, []

    def invariants(self, nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterable[str]:
        """Only a single value is chosen (section 2.1)."""
        for address, node in nodes.items():
            if isinstance(node, Server):
                start = seen.get(address, 0) if len(node.chosen) >= seen.get(address, 0) else 0
                for decree, choice in list(node.chosen.items())[start:]:
                    if seen.setdefault(decree, choice) != choice:
                        yield f"one value is chosen for a decree: {address} learned another one for {decree}"
                seen[address] = len(node.chosen)
