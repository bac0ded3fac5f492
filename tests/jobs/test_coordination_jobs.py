"""The jobs of coordination: what their checks say of histories and final states that are made up."""

from __future__ import annotations

from polyarch.blocks.clocks import LamportClock, VectorClock, before
from polyarch.core import Done, Random
from polyarch.jobs.election import Election, Views
from polyarch.jobs.mutex import Mutex, Usage, overtaken
from polyarch.jobs.ordering import Event, Happenings, Ordering, happened_before


def entry(start: float, number: int, outcome: str = "ok") -> Done:
    value = {"number": number, "waited": 0.0} if outcome == "ok" else None
    return Done(0, "enter", (0, 0.0), start, start, start + 1, outcome, value)  # type: ignore[arg-type]


def test_two_inside_and_who_never_gets_in_are_found() -> None:
    history = [entry(0.0, 1), entry(0.1, 2)]
    assert all(v.holds for v in Mutex().check(history, Usage(2, ())))
    alone, all_in = Mutex().check(history, Usage(2, ("entry 2: b came in, and a was inside",)))
    assert not alone.holds
    assert "a was inside" in alone.detail
    assert all_in.holds
    assert not Mutex().check(history, Usage(2, (), last=False))[1].holds


def test_overtaking_counts_who_asked_later_and_was_first() -> None:
    assert overtaken([entry(0.0, 3), entry(0.1, 1), entry(0.2, 2), entry(0.3, 0, "info")]) == [2, 0, 0]


def test_mutex_asks_for_stays_of_the_wanted_mean() -> None:
    visits = Mutex(stay=0.02).visits(Random(1))
    stays = [next(visits)[0].arguments[1] for _ in range(4000)]
    assert abs(sum(stays) / len(stays) - 0.02) < 0.002


def test_a_leader_must_be_one_for_all_and_live() -> None:
    def holds(**views: str) -> bool:
        (verdict,) = Election().check([], Views(views))
        return verdict.holds

    assert holds(a="b", b="b")
    assert not holds(a="a", b="b")
    assert not holds(a="c", b="c")
    assert not holds(a="", b="")
    assert not holds()


def test_happened_before_is_transitive_over_messages() -> None:
    def event(process: int, number: int, kind: str, message: str = "") -> Event:
        return Event(process, number, kind, message, 0, 0, ())

    events = [
        event(0, 0, "send", "m"),
        event(1, 0, "local"),
        event(1, 1, "receive", "m"),
        event(1, 2, "send", "n"),
        event(2, 0, "receive", "n"),
    ]
    assert happened_before(events) == [0, 0, 0b00011, 0b00111, 0b01111]


def test_clocks_that_lie_are_found() -> None:
    sent, received = Event(0, 0, "send", "m", 1, 5, (1, 0)), Event(1, 0, "receive", "m", 0, 5, (1, 1))
    lamport, vector = Ordering().check([], Happenings((sent, received)))
    assert (lamport.holds, vector.holds) == (False, True)
    unordered = Event(1, 0, "local", "", 1, 6, (1, 1))
    lamport, vector = Ordering().check([], Happenings((sent, unordered)))
    assert (lamport.holds, vector.holds) == (True, False)


def test_logical_clocks_tick_and_take_in_what_they_are_told() -> None:
    lamport = LamportClock()
    assert (lamport.tick(), lamport.receive(7), lamport.receive(3)) == (1, 8, 9)
    vector = VectorClock(2, 1)
    assert (vector.tick(), vector.receive((4, 0)), vector.receive((2, 9))) == ((0, 1), (4, 2), (4, 10))
    assert before((0, 1), (0, 2))
    assert not before((0, 1), (0, 1))
    assert not before((1, 0), (0, 1))
