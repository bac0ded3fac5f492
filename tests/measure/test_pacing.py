import asyncio
import random
import sys
import time
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from polyarch.measure.pacing import LoopTimer, Pacer, Timer, TimerFd, poisson, precise_timer, steady

MS = 1_000_000


class FakeTime:
    """A clock that moves when told to, and the timer that goes with it."""

    def __init__(self) -> None:
        self.now = 5_000 * MS
        self.armed: int | None = None
        self.closed = False

    def timer(self, wake: Callable[[], None]) -> "FakeTime":
        self.wake = wake
        return self

    def arm(self, at: int) -> None:
        self.armed = at

    def close(self) -> None:
        self.closed = True

    def fire(self, late: int = 0) -> None:
        """The armed time comes, or has passed by `late` ns."""
        assert self.armed is not None
        self.now = max(self.now, self.armed) + late
        self.armed = None
        self.wake()


def drive(
    offsets: list[int], stalls: list[int], slow: int = 0
) -> tuple[FakeTime, Pacer, list[tuple[int, int, int]]]:
    """Pace a schedule while wake-ups come late by `stalls` in turn, and every call takes `slow` ns."""
    fake = FakeTime()
    calls: list[tuple[int, int, int]] = []

    def due(i: int, intended: int) -> None:
        calls.append((i, intended, fake.now))
        fake.now += slow

    async def main() -> Pacer:
        pacer = Pacer(offsets, due, clock=lambda: fake.now, timer=fake.timer)
        pacer.start()
        late = iter(stalls)
        while not fake.closed:
            fake.fire(next(late, 0))
        await pacer.wait()
        return pacer

    return fake, asyncio.run(main()), calls


@given(
    st.lists(st.integers(0, 100 * MS), max_size=50).map(sorted),
    st.lists(st.integers(0, 300 * MS), max_size=50),
    st.integers(0, 3 * MS),
)
def test_it_skips_nothing_and_never_calls_early_however_it_stalls(
    offsets: list[int], stalls: list[int], slow: int
) -> None:
    _, pacer, calls = drive(offsets, stalls, slow)
    begin = 5_000 * MS
    assert [(i, intended) for i, intended, _ in calls] == [(i, begin + at) for i, at in enumerate(offsets)]
    assert all(intended <= now for _, intended, now in calls)
    assert pacer.sent == pacer.lateness.count == len(offsets)
    assert pacer.lateness.sum == sum(now - intended for _, intended, now in calls)


def test_after_a_stall_everything_due_goes_out_at_once_with_its_intended_time() -> None:
    _, pacer, calls = drive([0, 10 * MS, 20 * MS, 30 * MS, 40 * MS], [0, 15 * MS])
    begin = 5_000 * MS
    assert [now - begin for _, _, now in calls] == [0, 25 * MS, 25 * MS, 30 * MS, 40 * MS]
    assert [intended - begin for _, intended, _ in calls] == [0, 10 * MS, 20 * MS, 30 * MS, 40 * MS]
    assert pacer.lateness.max == 15 * MS


def test_a_pacer_that_is_behind_lets_the_loop_run_between_batches() -> None:
    batches = 0
    fake = FakeTime()

    def due(i: int, intended: int) -> None:
        fake.now += 2 * MS  # every call takes longer than the distance to the next

    async def main() -> None:
        nonlocal batches
        pacer = Pacer(range(0, 20 * MS, MS), due, clock=lambda: fake.now, timer=fake.timer)
        pacer.start()
        while not fake.closed:
            fake.fire()
            batches += 1
        assert pacer.sent == 20

    asyncio.run(main())
    assert batches > 3


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("timer", [precise_timer, LoopTimer])
def test_it_paces_a_real_loop(run: Callable[..., None], timer: Callable[[Callable[[], None]], Timer]) -> None:
    calls: list[tuple[int, int]] = []

    async def main() -> None:
        pacer = Pacer(steady(500, 0.1), lambda i, at: calls.append((at, time.perf_counter_ns())), timer=timer)
        await pacer.run()
        assert pacer.sent == 50

    run(main())
    assert all(intended <= now for intended, now in calls)
    assert calls[-1][0] - calls[0][0] == 98 * MS


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is a Linux system call")
def test_on_linux_the_timer_is_a_timerfd_and_a_time_in_the_past_fires_at_once() -> None:
    async def main() -> None:
        fired = asyncio.Event()
        timer = precise_timer(fired.set)
        assert isinstance(timer, TimerFd)
        timer.arm(0)
        await asyncio.wait_for(fired.wait(), 5)
        timer.close()
        timer.close()

    uvloop.run(main())


def test_it_stops_when_told_and_an_endless_schedule_is_fine() -> None:
    async def main() -> None:
        def due(i: int, intended: int) -> None:
            if i == 9:
                pacer.stop()

        pacer = Pacer((i * MS for i in iter(int, 1)), due)
        await asyncio.wait_for(pacer.run(), 5)
        assert pacer.sent == 10

    uvloop.run(main())


def test_what_the_callback_raises_ends_the_run() -> None:
    async def main() -> None:
        def due(i: int, intended: int) -> None:
            raise LookupError("no such operation")

        with pytest.raises(LookupError):
            await Pacer(steady(1000, 1), due).run()

    uvloop.run(main())


def test_steady_arrivals_do_not_drift() -> None:
    offsets = list(steady(3, 10))
    assert len(offsets) == 30
    assert offsets[27] == 9_000 * MS


def test_poisson_arrivals_come_from_the_seed_at_the_rate_asked_for() -> None:
    offsets = list(poisson(1000, 10, random.Random(5)))
    assert offsets == list(poisson(1000, 10, random.Random(5))) == sorted(offsets)
    assert 9_500 < len(offsets) < 10_500
    assert offsets[-1] < 10_000 * MS
