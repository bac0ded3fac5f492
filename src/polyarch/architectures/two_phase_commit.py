"""Two-phase commit: a transaction on several shards happens on all of them, or on none.

Gray: "Notes on data base operating systems", 1978, section 5.8.3.3; Bernstein, Hadzilacos and Goodman:
"Concurrency control and recovery in database systems", 1987, chapter 7 ("BHG"); van Steen and Tanenbaum,
"Distributed systems", 4th ed., section 8.5.

Accounts are spread over *shards*.  A *coordinator* runs a transfer at the two that have its accounts; each
locks them (strict two-phase locking, BHG section 3.2) and remembers what is to change.  Then it asks both to
*prepare* (phase one).  A shard that votes yes has forced its changes to its log, and has given up the right
to decide: it is *in doubt*.  If all vote yes, the coordinator forces the decision to its own log: at this
moment the transaction has happened.  It answers its client, and tells the shards to commit (phase two), until
they have.  Otherwise it tells them to abort, once: *presumed abort* (Mohan, Lindsay and Obermarck,
"Transaction management in the R* distributed database management system", 1986) is that a coordinator which
knows nothing of a transaction answers that it was aborted, so that its log need not mention those.

What if the coordinator dies?  A shard that has not voted aborts.  One in doubt must wait: the decision may be
on the coordinator's disk, and nowhere else.  It keeps its locks, and who wants these accounts waits too: it
*blocks*, and the metrics say for how long.  (Asking the other shards, BHG section 7.4, helps only if one of
them knows.  A coordinator that is itself replicated, as by Gray and Lamport, "Consensus
on transaction commit", 2006, helps always.)  The shards' logs are never shortened: checkpoints are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from polyarch.blocks.accounts import UNOPENED, Aborted, BankClient, BankServer, changed
from polyarch.blocks.commit_safeguards import Safeguards
from polyarch.blocks.locks import Locks
from polyarch.blocks.once import Ticket
from polyarch.blocks.ring import identifier
from polyarch.blocks.safeguards import Guarded
from polyarch.core import Failure, Node, Record, Refused, System, Verdict, gather, parameter, rpc, settle
from polyarch.core.messages import oneway
from polyarch.jobs.bank import BankJob, Receipt, Statement

__all__ = ["Coordinator", "Shard", "TwoPhaseCommit"]


# -- messages --------------------------------------------------------------------------------------------


class Step(Record, array_like=True):
    """What a transaction does to one account."""

    account: str
    change: int | None = None  # None: only read it


class Executed(Record, array_like=True):
    """What came of a transaction's steps at one shard, where its locks are held from now on."""

    enough: bool  # no account would be overdrawn
    before: tuple[Statement, ...]  # what the accounts were, step by step


Vote = Literal["yes", "no", "read"]
"""``read``: nothing is to change here, and the locks have been given up."""


# -- shards: the participants ------------------------------------------------------------------------------


class Entry(Record, array_like=True):
    """One entry of a shard's log."""

    kind: Literal["prepared", "committed", "aborted"]
    transaction: int
    age: int = 0
    changes: dict[str, int] = {}


class Doubt(Record):
    """How long transactions have been in doubt at a shard since it started."""

    longest: float
    account_seconds: float
    now: int  # transactions that hold locks at this moment, in doubt or not


@dataclasses.dataclass
class Work:
    """A transaction at a shard."""

    age: int
    since: float  # when it began, or was prepared
    changes: dict[str, int] = dataclasses.field(default_factory=dict)


class Shard(Node):
    """Keeps some of the accounts."""

    coordinator: str
    patience: float = 1.0  # seconds after which it aborts what it has not voted for
    ask_every: float = 0.1  # seconds between two questions about a transaction in doubt
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        self.accounts: dict[str, Statement] = {}
        self.locks = Locks(self)
        self.working: dict[int, Work] = {}
        self.prepared: dict[int, Work] = {}
        self.outcomes: dict[int, bool] = {}
        self.longest = self.account_seconds = 0.0
        self.recover()
        self.every(self.ask_every, self.look_after)

    def recover(self) -> None:
        """Read the log (BHG section 7.4): what was prepared and not decided is in doubt again, and its
        accounts are locked before anybody can ask for them."""
        for entry in self.disk.entries("log", Entry):
            if entry.kind == "prepared":
                self.prepared[entry.transaction] = Work(entry.age, self.now, entry.changes)
            elif (work := self.prepared.pop(entry.transaction, None)) is not None:
                self.outcomes[entry.transaction] = entry.kind == "committed"
                if entry.kind == "committed":
                    self.apply(work.changes)
        for transaction, work in self.prepared.items():
            self.locks.hold(transaction, work.age, work.changes)

    def apply(self, changes: Mapping[str, int]) -> None:
        for account, change in changes.items():
            self.accounts[account] = changed(self.accounts.get(account, UNOPENED), change)

    @rpc
    async def execute(self, transaction: int, age: int, steps: tuple[Step, ...]) -> Executed:
        """Lock the accounts, and see what is to change."""
        over = transaction in self.outcomes and self.safeguards.remember_outcomes
        if over or transaction in self.working or transaction in self.prepared:
            raise Aborted("a copy of an earlier message")
        work = self.working[transaction] = Work(age, self.now)
        for account in sorted({step.account for step in steps}):
            writes = any(s.change is not None for s in steps if s.account == account)
            await self.locks.acquire(transaction, age, account, exclusive=writes)
            if self.working.get(transaction) is not work:
                raise Aborted("it has been ended meanwhile")
        before = tuple(self.accounts.get(step.account, UNOPENED) for step in steps)
        enough = all(s.balance + min(step.change or 0, 0) >= 0 for s, step in zip(before, steps))
        work.changes.update((step.account, step.change) for step in steps if step.change is not None)
        return Executed(enough, before)

    @rpc
    async def prepare(self, transaction: int) -> Vote:
        """Phase one: can you promise to commit?"""
        work = self.working.pop(transaction, None)
        if work is not None:
            if not work.changes:
                self.locks.release(transaction)
                return "read"
            self.prepared[transaction] = Work(work.age, self.now, work.changes)
            self.disk.append("log", Entry("prepared", transaction, work.age, work.changes))
            if not self.safeguards.locks_until_decision:
                self.locks.release(transaction)
        if transaction in self.prepared and self.safeguards.forced_prepare:
            await self.disk.sync()
        # One that was forgotten in a crash, or given up, cannot be promised any more.
        return "yes" if transaction in self.prepared else "no"

    @rpc
    async def commit(self, transaction: int) -> None:
        """Phase two: it has happened.  Answered when we shall never have to ask again."""
        self.decide(transaction, True)
        await self.disk.sync()

    @oneway
    def abort(self, transaction: int) -> None:
        """Phase two: it has not happened.  (Or it only read, and its locks are not needed any more.)"""
        self.decide(transaction, False)

    def decide(self, transaction: int, committed: bool) -> None:
        work = self.prepared.pop(transaction, None)
        if work is not None:
            seconds = self.now - work.since
            self.longest = max(self.longest, seconds)
            self.account_seconds += seconds * len(work.changes)
            self.disk.append("log", Entry("committed" if committed else "aborted", transaction))
            if committed:
                self.apply(work.changes)
            self.outcomes[transaction] = committed
        elif self.working.pop(transaction, None) is not None:
            self.outcomes[transaction] = False
        self.locks.release(transaction)

    def look_after(self) -> None:
        """Abort what nobody has prepared for long, and ask about what is in doubt."""
        for transaction, work in list(self.working.items()):
            if self.now - work.since > self.patience:
                self.decide(transaction, False)
        for transaction, work in list(self.prepared.items()):
            if self.now - work.since > self.ask_every:
                if not self.safeguards.wait_when_in_doubt:
                    self.decide(transaction, False)
                else:
                    self.spawn(self.ask(transaction))

    async def ask(self, transaction: int) -> None:
        """The coordinator alone can tell (BHG section 7.4, termination)."""
        try:
            coordinator = self.at(self.coordinator, Coordinator, timeout=self.ask_every)
            committed = await coordinator.outcome(transaction)
        except Failure:
            return  # it is dead, or has not decided: we are blocked
        self.decide(transaction, committed)

    @rpc
    def doubt(self) -> Doubt:
        times = [self.now - work.since for work in self.prepared.values()]
        now = len(self.working) + len(self.prepared)
        return Doubt(max([self.longest, *times]), self.account_seconds, now)


# -- the coordinator ---------------------------------------------------------------------------------------


class Decision(Record, array_like=True):
    """One entry of the coordinator's log: committed, and whom to tell; nobody: all have been told."""

    transaction: int
    shards: tuple[str, ...]


class Coordinator(BankServer):
    """Executes transactions, and decides what becomes of them."""

    shards: tuple[str, ...]
    patience: float = 1.0  # seconds that it waits for a shard, and tries again what was aborted
    safeguards: Safeguards = Safeguards()

    async def start(self) -> None:
        await super().start()
        self.next_transaction = self.life << 32  # after all those of earlier lives
        self.undecided: dict[int, None] = {}
        self.committed: dict[int, tuple[str, ...]] = {}
        for decision in self.disk.entries("log", Decision):
            if decision.shards:
                self.committed[decision.transaction] = decision.shards
            else:
                self.committed.pop(decision.transaction, None)
        for transaction, shards in list(self.committed.items()):
            self.spawn(self.finish(transaction, shards))

    async def transact(self, steps: tuple[Step, ...]) -> tuple[bool, dict[str, Statement]]:
        """Try until it is no matter of luck: whether there was enough, and what the accounts held."""
        age, give_up, pause = self.next_transaction, self.now + self.patience, 0.002
        while True:
            try:
                return await self.attempt(steps, age)
            except Aborted:
                if self.now >= give_up:
                    raise
            await self.sleep(pause * self.random.between(0.5, 1.5))
            pause = min(2 * pause, 0.1)

    async def attempt(self, steps: tuple[Step, ...], age: int) -> tuple[bool, dict[str, Statement]]:
        parts: dict[str, tuple[Step, ...]] = {}
        for step in steps:
            shard = self.shards[identifier(step.account, 32) % len(self.shards)]
            parts[shard] = (*parts.get(shard, ()), step)
        transaction, self.next_transaction = self.next_transaction, self.next_transaction + 1
        self.undecided[transaction] = None
        voters: list[str] = []
        try:
            executed = await self.at_all(parts, lambda s: s.execute(transaction, age, parts[s.address]))
            enough = all(done.enough for done in executed)
            # What was read at one place needs no more; and if there is not enough, nothing is to be done.
            if enough and (len(parts) > 1 or steps[0].change is not None):
                votes = await self.at_all(parts, lambda s: s.prepare(transaction))
                if "no" in votes:
                    raise Aborted("a shard cannot promise it any more")
                voters = [shard for shard, vote in zip(parts, votes) if vote == "yes"]
        except Aborted:
            self.end(transaction, parts)
            raise
        if voters:
            self.committed[transaction] = tuple(voters)
            self.disk.append("log", Decision(transaction, tuple(voters)))
            if self.safeguards.forced_decision:
                await self.disk.sync()
            del self.undecided[transaction]
            self.spawn(self.finish(transaction, tuple(voters)))
        else:
            self.end(transaction, parts)
        held = zip(parts.values(), executed)
        return enough, {s.account: b for part, done in held for s, b in zip(part, done.before)}

    def end(self, transaction: int, shards: Iterable[str]) -> None:
        """It changes nothing: told once, and forgotten."""
        del self.undecided[transaction]
        for shard in shards:
            self.at(shard, Shard).abort(transaction)

    async def at_all(self, parts: Iterable[str], ask: Any) -> list[Any]:
        """Ask all shards at the same time; if one fails, the transaction does."""
        answers = await settle(*(ask(self.at(shard, Shard, timeout=self.patience)) for shard in parts))
        for shard, answer in zip(parts, answers):
            if isinstance(answer, Failure):
                raise Aborted(f"{shard}: {answer}")
        return answers

    async def finish(self, transaction: int, shards: tuple[str, ...]) -> None:
        """Tell all until all have it; then it may be forgotten."""
        left = [self.at(shard, Shard, timeout=self.patience) for shard in shards]
        while left:
            told = await settle(*(shard.commit(transaction) for shard in left))
            left = [shard for shard, answer in zip(left, told) if isinstance(answer, Failure)]
            if left:
                await self.sleep(0.05)
        del self.committed[transaction]
        if self.committed:
            self.disk.append("log", Decision(transaction, ()))
        else:
            self.disk.truncate("log", 0)

    @rpc
    async def outcome(self, transaction: int) -> bool:
        """Asked by a shard in doubt: was it committed?  What we know nothing of was not: presumed abort."""
        if transaction in self.undecided:
            raise Refused("not decided yet")
        return transaction in self.committed

    # -- what clients ask for ----------------------------------------------------------------------------

    @rpc
    async def open(self, ticket: Ticket, balances: dict[str, int]) -> None:
        steps = tuple(Step(account, amount) for account, amount in balances.items())
        await self.once(ticket, lambda: self.transact(steps))

    @rpc
    async def transfer(self, ticket: Ticket, source: str, target: str, amount: int) -> Receipt:
        if amount < 1 or source == target:
            raise Refused("a transfer is of something, between two accounts")
        steps = (Step(source, -amount), Step(target, amount))
        enough, before = await self.once(ticket, lambda: self.transact(steps))
        if not enough:
            return Receipt(False, before[source])
        return Receipt(True, changed(before[source], -amount), changed(before[target], amount))

    @rpc
    async def balances(self, accounts: tuple[str, ...]) -> tuple[Statement, ...]:
        _, held = await self.transact(tuple(map(Step, accounts)))
        return tuple(held[account] for account in accounts)


class TwoPhaseCommit(Guarded):
    """Transactions over shards: all of them commit or none, and all wait while the coordinator is dead."""

    name = "two_phase_commit"
    family = "agreement"
    source = "Gray, Notes on data base operating systems, 1978; Bernstein et al., 1987, chapter 7"
    jobs = (BankJob,)
    gaps = {"kv": "an operation on one key is at one shard, and has nothing to commit together: see sharded"}
    claims = (
        "every transfer is atomic and serializable, whatever crashes",
        "the coordinator is a single point of failure, and while it is dead accounts stay locked",
    )
    metrics = {
        "in_doubt_longest_s": "longest time that a shard's locks were held in doubt, since its last start",
        "in_doubt_account_s": "the same for all accounts together: account seconds",
    }
    Safeguards = Safeguards

    shards: int = parameter(3, "shards", least=1)
    patience: float = parameter(1.0, "time that they wait for each other", least=0.01, unit="s")
    ask_every: float = parameter(0.1, "time between two questions of a shard in doubt", least=0.005, unit="s")

    def build(self, system: System) -> None:
        addresses, safeguards = system.addresses("shard", self.shards), self.safeguards
        coordinator = Coordinator(shards=addresses, patience=self.patience, safeguards=safeguards)
        times = {"patience": self.patience, "ask_every": self.ask_every}
        shard = Shard(coordinator="coordinator-0", safeguards=safeguards, **times)
        system.role("coordinator", coordinator)
        system.role("shard", shard, count=self.shards)
        system.clients(BankClient(bank=coordinator, attempt=2 * self.patience))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        shards = [x.at(f"shard-{i}", Shard) for i in range(self.shards)]
        for _ in range(100):
            told = await gather(*(shard.doubt() for shard in shards))
            if not any(d.now for d in told):
                break
            await x.sleep(0.05)
        left, longest = sum(d.now for d in told), max(d.longest for d in told)
        blocked = sum(d.account_seconds for d in told)
        metrics = {"in_doubt_longest_s": round(longest, 4), "in_doubt_account_s": round(blocked, 3)}
        words = f"{left} hold locks; the longest was in doubt for {longest:.3f} s"
        return metrics, [Verdict("no transaction is in doubt when all is healed", not left, words)]

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        return "coordinator-0"

    def invariants(self, nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterable[str]:
        """AC1 of BHG section 7.3: all processes that reach a decision reach the same one."""
        for address, node in nodes.items():
            for transaction, committed in node.outcomes.items() if isinstance(node, Shard) else ():
                first, other = seen.setdefault(transaction, (committed, address))
                if first != committed:
                    words = f"{transaction:#x} is, {'' if committed else 'not '}at {address}, unlike {other}"
                    yield f"a transaction is committed everywhere or nowhere: {words}"
