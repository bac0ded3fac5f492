"""Who is responsible for a key, by each rule; and what the check makes of wrong answers."""

from __future__ import annotations

import pytest

from polyarch.blocks.ring import identifier
from polyarch.core import Done, Random
from polyarch.jobs.lookup import Census, Holder, Lookup, Member, Responsible, Rule, holders

BITS = 16
IDENTIFIED: tuple[Rule, ...] = ("successor", "closest", "xor")
PEERS = tuple(f"peer-{i}" for i in range(20))


def members(count: int, seed: int, bits: int = BITS) -> list[Member]:
    random = Random(seed)
    ids = sorted({random.below(1 << bits) for _ in range(count)})
    return [Member(id, f"peer-{id}", 1) for id in ids]


def verdict(census: Census, key: str, address: str, after: Census | None = None) -> bool:
    job = Lookup()
    job.before = census
    done = Done(0, "lookup", (key,), 0.0, 0.0, 1.0, "ok", Holder(address))
    return job.check([done], after or census)[0].holds


@pytest.mark.parametrize("rule", IDENTIFIED)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_the_responsible_member_is_the_one_at_the_least_distance(rule: Rule, count: int) -> None:
    for seed in range(4):
        truth = Responsible(BITS, members(count, seed), rule)
        places = [*(m.id for m in truth.members), 0, (1 << BITS) - 1]
        places += [Random(seed).fork("places").below(1 << BITS) for _ in range(200)]
        for place in places:
            nearest = min(truth.members, key=lambda m: truth.distance(place, m.id))
            assert truth.of(place) == nearest, (rule, place)


def test_hashed_keys_that_follow_one_another_are_strangers() -> None:
    """40 arcs of a ring, exponential ones: both keys are in the same one with probability 2/41."""
    few, one = (Census(BITS, tuple(members(count, 1))) for count in (40, 1))
    assert Lookup(keys=1000).figures((), few)["neighbours"] == pytest.approx(2 / 41, abs=0.02)
    assert "neighbours" not in Lookup().figures((), one)
    assert "neighbours" not in Lookup().figures((), Census(BITS, few.members, "holders", PEERS))


def test_distances_are_those_of_the_papers() -> None:
    few = [Member(id, str(id), 1) for id in (2, 6, 12)]
    successor, closest, xor = (Responsible(4, few, rule) for rule in IDENTIFIED)
    assert [successor.of(k).id for k in (2, 3, 6, 7, 12, 13, 15, 0)] == [2, 6, 6, 12, 12, 2, 2, 2]
    # 4 lies between 2 and 6, 9 between 6 and 12, 15 between 12 and 2 (and 0): the lower identifier has it.
    assert [closest.of(k).id for k in (3, 4, 5, 9, 10, 14, 15, 0)] == [2, 2, 6, 6, 12, 12, 2, 2]
    assert [xor.of(k).id for k in (0, 3, 4, 7, 8, 15, 12)] == [2, 2, 6, 6, 12, 12, 12]


@pytest.mark.parametrize("rule", IDENTIFIED)
def test_only_the_responsible_member_passes(rule: Rule) -> None:
    everybody = tuple(members(20, seed=1))
    census = Census(BITS, everybody, rule)
    truth = Responsible(BITS, everybody, rule)
    for key in ("a", "b", "c", "d"):
        passed = [m.address for m in everybody if verdict(census, key, m.address)]
        assert passed == [truth.of(key).address]
    best = truth.of("a").address
    # Had it restarted meanwhile, nothing could be said against the next best.
    again = Census(
        BITS, tuple(Member(m.id, m.address, m.life + (m.address == best)) for m in everybody), rule
    )
    assert sum(verdict(census, "a", m.address, again) for m in everybody) == 2


def test_content_has_as_many_different_holders_as_copies_or_all_there_are() -> None:
    for place in range(300):
        held = holders(place, PEERS, 3)
        assert len(set(held)) == 3
        assert held == holders(place, PEERS, 3)
        assert held[:2] == holders(place, PEERS, 2)
    assert sorted(holders(7, PEERS[:2], 5)) == ["peer-0", "peer-1"]
    assert holders(7, (), 3) == []


def test_every_holder_is_a_right_answer_and_nobody_else() -> None:
    everybody = tuple(Member(i, a, 1) for i, a in enumerate(PEERS))
    census = Census(BITS, everybody, "holders", PEERS, 3)
    passed = [a for a in PEERS if verdict(census, "a", a)]
    assert sorted(passed) == sorted(holders(identifier("a", BITS), PEERS, 3))


def test_who_is_in_no_census_is_neither_right_nor_wrong() -> None:
    job = Lookup()
    job.before = Census(BITS, tuple(members(5, seed=2)))
    done = Done(0, "lookup", ("a",), 0.0, 0.0, 1.0, "ok", Holder("peer-of-nowhere"))
    (found,) = job.check([done], job.before)
    assert found.holds
    assert "0 right, 0 wrong, 1 unverifiable" in found.detail


def test_a_lookup_that_found_nobody_has_failed() -> None:
    job = Lookup()
    job.before = Census(BITS, tuple(members(5, seed=2)))
    lost = Done(0, "lookup", ("a",), 0.0, 0.0, 1.0, "fail", None, "nobody-found")
    assert "0.00% of 1 lookups answered" in job.check([lost], job.before)[0].detail
    assert "nobody-found" not in Lookup.answers
