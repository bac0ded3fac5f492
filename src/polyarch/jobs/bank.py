"""Move money between accounts, for clients that do it at the same time: the sum never changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from polyarch.blocks.popularity import Popularity
from polyarch.checkers.serializability import Deed, check
from polyarch.core.job import Done, Job, Operation, Verdict, Visit
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import parameter

__all__ = ["CONSERVED", "COVERED", "SERIALIZABLE", "Bank", "BankJob", "Receipt", "Statement"]

CONSERVED = "no money was made or lost"
COVERED = "no account was overdrawn"
SERIALIZABLE = (
    "each transfer is atomic and happened as its outcome says, in one order (strictly serializable)"
)


class Statement(Record, array_like=True):
    """What an account tells."""

    entries: int
    """Transfers to and from it so far."""
    balance: int


class Receipt(Record, array_like=True):
    """What came of a transfer."""

    moved: bool
    """Whether the source had enough.  If not, nothing was moved."""
    source: Statement
    """The accounts afterwards."""
    target: Statement | None = None
    """None if nothing was moved."""


class Bank(Node):
    """The port of a bank."""

    timeout = 10.0

    @rpc
    async def open(self, balances: dict[str, int]) -> None:
        """Open the bank with these accounts.  Asked for once, before anything else."""
        raise NotImplementedError

    @rpc
    async def transfer(self, source: str, target: str, amount: int) -> Receipt:
        """Move money from one account to another."""
        raise NotImplementedError

    @rpc
    async def balance(self, account: str) -> Statement:
        """What an account holds."""
        raise NotImplementedError

    @rpc
    async def balances(self, accounts: tuple[str, ...]) -> tuple[Statement, ...]:
        """What several accounts hold, all at one moment."""
        raise NotImplementedError


class BankJob(Job):
    """Move money between accounts: transfers, balances, and totals; the sum never changes.

    What is checked: no money is made or lost, in any total or in the end; no account is overdrawn; and there
    is one order of all operations, each between its call and its return, that explains every answer and what
    the accounts hold in the end.  In it is each transfer that was answered, exactly once; none that was
    refused; and of those of which nobody knows, any.
    """

    name = "bank"
    port = Bank
    small = {"accounts": 4, "each": 20, "totals": 0.1}
    accounts: int = parameter(100, "accounts", least=2, most=10_000)
    each: int = parameter(100, "what each account holds at first", least=0)
    most: int = parameter(20, "largest amount of a transfer", least=1)
    skew: float = parameter(0.0, "Zipf exponent of the accounts' popularity; 0: uniform", least=0, most=4)
    reads: float = parameter(0.3, "share of operations that ask for one balance", least=0, most=1)
    totals: float = parameter(0.02, "share of operations that ask for all balances at once", least=0, most=1)
    budget: int = parameter(1000, "choices that are tried among transfers that never returned", least=1)

    @property
    def opening(self) -> dict[str, int]:
        """What the accounts hold at first."""
        return {f"account-{i}": self.each for i in range(self.accounts)}

    async def prepare(self, client: Any) -> None:
        await client.open(self.opening)

    def visits(self, random: Random) -> Iterator[Visit]:
        popularity, everything = Popularity(self.accounts, self.skew), tuple(self.opening)
        while True:
            kind, account = random.random(), popularity.draw(random)
            if kind < self.totals:
                yield (Operation("balances", (everything,)),)
            elif kind < self.totals + self.reads:
                yield (Operation("balance", (f"account-{account}",)),)
            else:
                other = popularity.draw(random)
                if other == account:
                    other = (account + 1) % self.accounts
                amount = 1 + random.below(self.most)
                yield (Operation("transfer", (f"account-{account}", f"account-{other}", amount)),)

    async def audit(self, client: Any) -> list[tuple[int, int]]:
        statements = await client.balances(tuple(self.opening))
        return [(s.entries, s.balance) for s in statements]

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        everything = self._with_last_look(history, audit)
        outcome = check(list(map(deed, everything)), self.opening, budget=self.budget)
        return [
            self._conserved(everything),
            self._covered(everything),
            Verdict(SERIALIZABLE, outcome.holds is True, outcome.detail, outcome.holds is None),
        ]

    def conflict(self, history: Sequence[Done], audit: Any) -> Sequence[Done]:
        """Few operations that contradict each other."""
        everything = self._with_last_look(history, audit)
        deeds = dict(zip(map(deed, everything), everything))
        outcome = check(list(deeds), self.opening, budget=self.budget)
        return [deeds[d] for d in outcome.culprits]

    def _with_last_look(self, history: Sequence[Done], audit: Any) -> list[Done]:
        """The operations that may have happened; and what the accounts held in the end, as seen by a client
        -1 after all others."""
        happened = [d for d in history if d.outcome != "fail"]
        if audit is not None:
            over = max((d.end for d in history), default=0.0) + 1.0
            last = Done(-1, "balances", (tuple(self.opening),), over, over, over + 1.0, "ok", audit)
            happened.append(last)
        return happened

    def _conserved(self, history: Sequence[Done]) -> Verdict:
        whole, looks = self.accounts * self.each, 0
        for d in history:
            if d.name == "balances" and d.outcome == "ok" and len(d.value) == self.accounts:
                looks += 1
                total = sum(balance for _, balance in d.value)
                if total != whole:
                    when = (
                        "in the end there was" if d.client < 0 else f"at {d.end:.3f} s client {d.client} saw"
                    )
                    return Verdict(CONSERVED, False, f"{when} {total} in all instead of {whole}")
        return Verdict(CONSERVED, True, f"{whole} in all, {looks} times")

    def _covered(self, history: Sequence[Done]) -> Verdict:
        seen = 0
        for d in history:
            for account, (_, balance) in statements(d).items():
                seen += 1
                if balance < 0:
                    return Verdict(COVERED, False, f"{account} held {balance} at {d.end:.3f} s")
        return Verdict(COVERED, True, f"{seen} balances were seen")


def statements(d: Done) -> dict[str, tuple[int, int]]:
    """The accounts that an operation has told of: entries and balance."""
    if d.outcome != "ok":
        return {}
    if d.name == "balance":
        return {d.arguments[0]: tuple(d.value)}
    if d.name == "balances":
        return {account: tuple(told) for account, told in zip(d.arguments[0], d.value)}
    if d.name == "transfer":
        _, source, target = d.value
        told = {d.arguments[0]: tuple(source)}
        return told if target is None else {**told, d.arguments[1]: tuple(target)}
    return {}


def deed(d: Done) -> Deed:
    """An operation as the checker wants it: the accounts as they were before it, and what it has changed."""
    words = f"{d.name}({', '.join(map(str, d.arguments)) if d.name != 'balances' else 'all'})"
    if d.outcome != "ok":
        change = (
            {d.arguments[0]: -d.arguments[2], d.arguments[1]: d.arguments[2]} if d.name == "transfer" else {}
        )
        label = f"client {d.client}: {words} from {d.start:.3f} s, never returned"
        return Deed(label, d.start, math.inf, {}, change)
    label = f"client {d.client}: {words} from {d.start:.3f} to {d.end:.3f} s"
    saw, change = statements(d), {}
    if d.name == "transfer" and d.value[0]:
        source, target, amount = d.arguments
        change = {source: -amount, target: amount}
        saw = {a: (entries - 1, balance - change[a]) for a, (entries, balance) in saw.items()}
    return Deed(label, d.start, d.end, saw, change)
