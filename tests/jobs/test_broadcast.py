"""Broadcast: what its checks say of accounts that are made up, and that members deliver once."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import pytest

from polyarch.blocks.broadcast import BroadcastClient, News, Teller
from polyarch.core import Done, Failure, Random, System, oneway
from polyarch.jobs.broadcast import Account, Broadcast, Delivery, Members, text
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

REACHED, AGREED, ONCE, INVENTED = range(4)


def published(message: int, outcome: str = "ok") -> Done:
    return Done(0, "publish", (message, f"text {message}"), 0.0, 0.0, 1.0, outcome)  # type: ignore[arg-type]


def account(address: str, messages: Sequence[int], life: int = 1) -> Account:
    deliveries = tuple(Delivery(m, 1.0, crc32(f"text {m}".encode())) for m in messages)
    return Account(address, life, 0.0, deliveries, 0, 0)


def verdicts(history: Sequence[Done], *accounts: Account, before: dict[str, int] | None = None) -> list[bool]:
    job = Broadcast()
    job.before = Members(before or {"a": 1, "b": 1})
    return [verdict.holds for verdict in job.check(history, accounts)]


def test_all_that_was_published_delivered_everywhere_once_is_right() -> None:
    history = [published(1), published(2)]
    assert all(verdicts(history, account("a", [1, 2]), account("b", [2, 1])))  # in any order


def test_a_member_that_stayed_and_missed_a_message_is_found() -> None:
    found = verdicts([published(1), published(2)], account("a", [1, 2]), account("b", [2]))
    assert found == [False, False, True, True]


def test_who_was_away_for_a_while_may_miss_messages() -> None:
    assert all(verdicts([published(1)], account("a", [1]), account("b", [], life=2)))
    assert all(verdicts([published(1)], account("a", [1]), account("c", [], life=2)))


def test_what_may_have_been_published_is_delivered_by_all_or_by_none() -> None:
    history = [published(1, "info")]
    assert all(verdicts(history, account("a", []), account("b", [])))
    assert all(verdicts(history, account("a", [1]), account("b", [1])))
    found = verdicts(history, account("a", [1]), account("b", []))
    assert found == [True, False, True, True]


def test_a_second_delivery_is_found_even_at_a_member_that_was_away() -> None:
    found = verdicts([published(1)], account("a", [1]), account("b", [1, 1], life=2))
    assert found == [True, True, False, True]


def test_what_nobody_published_and_what_was_changed_on_the_way_are_found() -> None:
    assert not verdicts([published(1)], account("a", [1, 7]), account("b", [1, 7]))[INVENTED]
    changed = Account("b", 1, 0.0, (Delivery(1, 1.0, crc32(b"another text")),), 0, 0)
    assert not verdicts([published(1)], account("a", [1]), changed)[INVENTED]


def test_the_detail_says_which_share_was_reached_and_who_missed_what() -> None:
    job = Broadcast()
    job.before = Members({"a": 1, "b": 1})
    detail = job.check([published(1), published(2)], (account("a", [1, 2]), account("b", [2])))[0].detail
    assert "75.000000% of 4 deliveries" in detail
    assert "1 of 0.000 s not by b" in detail


def test_messages_have_the_size_that_was_asked_for_and_differ() -> None:
    visits = Broadcast(size=20).visits(Random(1))
    bodies = [next(visits)[0].arguments[1] for _ in range(100)]
    assert {len(body) for body in bodies} == {20}
    assert len(set(bodies)) == 100
    assert len(text(1, 1)) == 1


class Shouting(Teller):
    """Tells everybody twice."""

    addresses: tuple[str, ...]

    def spread(self, news: News) -> None:
        for other in self.addresses:
            self.at(other).told(news)
            self.at(other).told(news)

    @oneway
    def told(self, news: News) -> None:
        self.receive(news)


def shouting() -> SimSession:
    system = System()
    addresses = system.addresses("peer", 3)
    system.role("peer", Shouting(addresses=addresses), count=3)
    system.clients(BroadcastClient(addresses=addresses))
    return SimSession(system, seed=1)


def test_copies_are_counted_and_delivered_once() -> None:
    async def experiment(x: Experimenter) -> list[Account]:
        await x.client.publish(5, "news")
        for i in range(3):  # again: known, whoever is asked
            await x.at(f"peer-{i}", Teller).publish(News(5, "news"))
        await x.client.quiet()
        return [await x.client.account(f"peer-{i}") for i in range(3)]

    accounts = shouting().perform(experiment)
    assert [[d.message for d in a.deliveries] for a in accounts] == [[5], [5], [5]]
    assert [a.copies for a in accounts] == [2, 2, 2]


def test_with_all_members_dead_publishing_fails_at_once_and_the_rest_too() -> None:
    async def experiment(x: Experimenter) -> dict[str, int]:
        for i in range(3):
            await x.control.crash(f"peer-{i}")
        with pytest.raises(Failure, match="unreachable"):
            await x.client.publish(5, "news")
        await x.client.quiet()
        members: Members = await x.client.members()
        return members.lives

    assert shouting().perform(experiment) == {}
