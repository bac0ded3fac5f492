"""The bank: its workload, and what its checks find."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from polyarch.core import Done, Random
from polyarch.jobs.bank import CONSERVED, COVERED, SERIALIZABLE, BankJob, Receipt, Statement

JOB = BankJob(accounts=3, each=10)
A, B, C = ACCOUNTS = tuple(JOB.opening)


class Books:
    """Writes a history as a correct bank would, unless it is told otherwise."""

    def __init__(self) -> None:
        self.accounts = {name: Statement(0, 10) for name in ACCOUNTS}
        self.history: list[Done] = []

    def done(
        self, name: str, *arguments: Any, at: float, value: Any, takes: float = 0.5, outcome: Any = "ok"
    ) -> Done:
        number = len(self.history)
        done = Done(number, name, arguments, at, at, at + takes, outcome, msgspec.to_builtins(value))
        self.history.append(done)
        return done

    def change(self, account: str, amount: int) -> None:
        before = self.accounts[account]
        self.accounts[account] = Statement(before.entries + 1, before.balance + amount)

    def transfer(self, source: str, target: str, amount: int, at: float, **more: Any) -> Done:
        self.change(source, -amount)
        self.change(target, amount)
        value = Receipt(True, self.accounts[source], self.accounts[target])
        return self.done("transfer", source, target, amount, at=at, value=value, **more)

    def all(self, at: float, **more: Any) -> Done:
        return self.done("balances", ACCOUNTS, at=at, value=tuple(self.accounts.values()), **more)

    def broken(self) -> list[str]:
        audit = [(s.entries, s.balance) for s in self.accounts.values()]
        return [v.name for v in JOB.check(self.history, audit) if not v.holds]


def test_the_same_seed_asks_for_the_same_and_another_for_something_else() -> None:
    def first(seed: int) -> list[Any]:
        return list(itertools.islice(BankJob().visits(Random(seed)), 500))

    assert first(1) == first(1)
    assert first(1) != first(2)
    names = [operation.name for (operation,) in first(1)]
    assert 50 < names.count("balance") < 250
    assert 1 <= names.count("balances") < 40
    assert all(o.arguments[0] != o.arguments[1] for (o,) in first(1) if o.name == "transfer")


def test_a_skewed_bank_has_favourites() -> None:
    visits = itertools.islice(BankJob(skew=1.2).visits(Random(1)), 2000)
    sources = [o.arguments[0] for (o,) in visits if o.name == "transfer"]
    assert sources.count("account-0") > 10 * sources.count("account-50")


def test_a_correct_history_passes() -> None:
    books = Books()
    books.transfer(A, B, 5, 0.0)
    books.done("balance", B, at=1.0, value=books.accounts[B])
    books.done("transfer", B, C, 16, at=2.0, value=Receipt(False, books.accounts[B]))
    books.all(3.0)
    assert books.broken() == []


@pytest.mark.parametrize("happened", [True, False])
def test_a_transfer_of_which_nobody_knows_may_have_happened_or_not(happened: bool) -> None:
    books = Books()
    if happened:
        books.change(A, -5)
        books.change(B, 5)
    books.done("transfer", A, B, 5, at=0.0, value=None, outcome="info")
    books.transfer(B, C, 2, 1.0)
    assert books.broken() == []


def test_of_many_unknown_transfers_those_are_found_that_happened() -> None:
    books = Books()
    for i, (source, target) in enumerate([(A, B), (B, C), (C, A), (A, C)] * 5):
        amount = i % 2 + 1
        if i % 2:
            books.change(source, -amount)
            books.change(target, amount)
        books.done("transfer", source, target, amount, at=i / 10, value=None, outcome="info")
    books.all(9.0)
    assert books.broken() == []
    books.change(C, -2)
    books.change(B, 3)
    assert books.broken() == [CONSERVED, SERIALIZABLE]


@pytest.mark.parametrize("outcome", ["fail", "info"])
def test_a_transfer_that_was_refused_must_not_have_happened(outcome: str) -> None:
    books = Books()
    books.transfer(A, B, 5, 0.0, outcome=outcome)
    assert books.broken() == ([SERIALIZABLE] if outcome == "fail" else [])


def test_half_a_transfer_is_found_even_if_nobody_knows_of_it() -> None:
    books = Books()
    books.done("transfer", A, B, 5, at=0.0, value=None, outcome="info")
    books.change(A, -5)
    assert books.broken() == [CONSERVED, SERIALIZABLE]


def test_a_transfer_that_was_answered_and_is_not_there_is_found() -> None:
    books = Books()
    books.transfer(A, B, 5, 0.0)
    books.accounts = Books().accounts
    assert books.broken() == [SERIALIZABLE]
    verdict = JOB.check(books.history, [(0, 10)] * 3)[-1]
    assert "transfer(account-0, account-1, 5)" in verdict.detail


def test_a_transfer_that_happened_twice_is_found() -> None:
    books = Books()
    books.transfer(A, B, 5, 0.0)
    books.change(A, -5)
    books.change(B, 5)
    assert books.broken() == [SERIALIZABLE]
    assert (
        "nobody made change 2 of account-0" in JOB.check(books.history, [(2, 0), (2, 20), (0, 10)])[-1].detail
    )


def test_an_update_that_was_lost_is_found() -> None:
    books, same = Books(), Statement(1, 9)
    books.done("transfer", A, B, 1, at=0.0, value=Receipt(True, same, Statement(1, 11)))
    books.done("transfer", A, C, 1, at=0.1, value=Receipt(True, same, Statement(1, 11)))
    assert "both made change 1 of account-0" in JOB.check(books.history, None)[-1].detail


def test_an_overdrawn_account_is_found() -> None:
    books = Books()
    books.transfer(A, B, 11, 0.0)
    assert books.broken() == [COVERED]


def test_a_total_that_saw_half_a_transfer_is_found() -> None:
    books = Books()
    before = books.accounts[B]
    books.transfer(A, B, 5, 0.0, takes=5.0)
    books.done("balances", ACCOUNTS, at=1.0, value=(books.accounts[A], before, books.accounts[C]))
    assert books.broken() == [CONSERVED, SERIALIZABLE]


def test_two_reads_that_saw_two_transfers_in_opposite_orders_are_found() -> None:
    """Each of them alone is right, and no money is lost."""
    books = Books()
    a, b, c = (books.accounts[name] for name in ACCOUNTS)
    books.transfer(A, B, 1, 0.0, takes=9.0)
    books.transfer(C, A, 2, 0.0, takes=9.0)
    books.done("balance", B, at=1.0, value=books.accounts[B])
    books.done("balance", C, at=2.0, value=c)
    assert books.broken() == []
    books.done("balance", C, at=3.0, value=books.accounts[C])
    books.done("balance", B, at=4.0, value=b)
    assert books.broken() == [SERIALIZABLE]
    told = JOB.conflict(books.history, None)
    assert {d.name for d in told} == {"transfer", "balance"}
    assert a.balance == 10


def test_a_balance_read_after_a_transfer_was_answered_must_show_it() -> None:
    books = Books()
    before = books.accounts[A]
    books.transfer(A, B, 5, 0.0)
    late = books.done("balance", A, at=1.0, value=before)
    assert books.broken() == [SERIALIZABLE]
    assert late in JOB.conflict(books.history, None)


def test_thousands_of_operations_that_overlap_are_judged_quickly() -> None:
    books, random = Books(), Random(1)
    for i in range(3000):
        source, target = random.sample(ACCOUNTS, 2)
        if books.accounts[source].balance > 0:
            books.transfer(source, target, 1, i / 100, takes=5.0)
        else:
            refused = Receipt(False, books.accounts[source])
            books.done("transfer", source, target, 1, at=i / 100, value=refused, takes=5.0)
    assert books.broken() == []


def test_what_is_too_much_to_search_is_said_to_be_undecided() -> None:
    books = Books()
    for i in range(40):
        books.done("transfer", A, B, 7 * i + 1, at=0.0, value=None, outcome="info")
        if i % 2:
            books.change(A, -7 * i - 1)
            books.change(B, 7 * i + 1)
    books.change(C, -1)
    audit = [(s.entries, s.balance) for s in books.accounts.values()]
    verdict = BankJob(accounts=3, each=10, budget=5).check(books.history, audit)[-1]
    assert verdict.undecided
    assert not verdict.holds
