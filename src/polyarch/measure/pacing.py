"""Open-loop pacing: operations start when they are meant to, whatever the system under test does.

The caller counts latency from the *intended* time that `due` is given, not from when the request left.
Otherwise a system that stalls also stalls the generator, and the operations that would have suffered are
never measured (coordinated omission; Gil Tene, "How NOT to Measure Latency").

All times are nanoseconds of `time.perf_counter_ns`, which on Linux is CLOCK_MONOTONIC, the clock that
`loop.time()` and timerfd count by too.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from polyarch.measure.histogram import Histogram

__all__ = ["LoopTimer", "Pacer", "Timer", "TimerFd", "poisson", "precise_timer", "steady"]

_SECOND = 1_000_000_000


def steady(rate: float, duration: float) -> Iterator[int]:
    """Intended offsets in ns from the start: `rate` per second at equal distances for `duration` seconds."""
    return (int(i * _SECOND / rate) for i in range(round(rate * duration)))


def poisson(rate: float, duration: float, rng: random.Random) -> Iterator[int]:
    """Intended offsets in ns from the start: independent arrivals, `rate` per second on average."""
    offset, end = 0.0, duration * _SECOND
    while (offset := offset + rng.expovariate(rate) * _SECOND) < end:
        yield int(offset)


class Timer(Protocol):
    """Something that calls back once at an absolute time, or at once when that time has passed."""

    def arm(self, at: int) -> None:
        """Call back at `at`, instead of at the time armed before."""

    def close(self) -> None:
        """Never call back again."""


class LoopTimer:
    """The event loop's own timer.  Works everywhere; uvloop's and asyncio's resolution is 1 ms."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: int) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0, at - time.perf_counter_ns()) / _SECOND, self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class TimerFd:
    """A Linux timerfd watched by the event loop: wakes within some 100 µs on an idle machine.

    OSError where the system has no timerfd or the loop cannot watch descriptors.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._fd = _timerfd_create()
        try:
            self._loop.add_reader(self._fd, self._expired)
        except NotImplementedError as error:  # a loop without descriptors
            os.close(self._fd)
            raise OSError("this event loop cannot watch a timerfd") from error

    def arm(self, at: int) -> None:
        _timerfd_arm(self._fd, max(1, at))  # zero would disarm it

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)  # the number of expirations; reading resets it
        except BlockingIOError:
            return  # armed anew between the loop's poll and now: it will expire again
        self._wake()


def precise_timer(wake: Callable[[], None]) -> Timer:
    """The most precise timer that the running loop offers."""
    try:
        return TimerFd(wake)
    except OSError:
        return LoopTimer(wake)


class Pacer:
    """Calls ``due(i, intended)`` for operation i of a schedule, never before its intended time.

    A late pacer (its process was not scheduled, a callback took long) calls for everything that is due
    at once and skips nothing.  `lateness` holds how late every call was, in nanoseconds: when it is not
    small beside the latencies measured, the generator did not keep up, and the run says so.
    """

    def __init__(
        self,
        offsets: Iterable[int],
        due: Callable[[int, int], None],
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        timer: Callable[[Callable[[], None]], Timer] = precise_timer,
    ) -> None:
        """`offsets` are the intended times in ns after the start, ascending; a generator may be endless."""
        self.lateness = Histogram()
        self.sent = 0
        self._offsets = iter(offsets)
        self._due = due
        self._clock = clock
        self._new_timer = timer
        self._timer: Timer | None = None
        self._begin = 0
        self._next = 0
        self._done: asyncio.Future[None] | None = None

    def start(self, at: int | None = None) -> None:
        """Begin now, or at an absolute time.  Needs the running loop; returns at once."""
        if self._timer is not None:
            raise RuntimeError("a pacer runs once")
        self._begin = self._clock() if at is None else at
        self._done = asyncio.get_running_loop().create_future()
        self._timer = self._new_timer(self._wake)
        if self._advance():
            self._timer.arm(self._next)

    async def wait(self) -> None:
        """Until the schedule has ended or was stopped; raises what `due` raised."""
        if self._done is None:
            raise RuntimeError("the pacer was not started")
        await asyncio.shield(self._done)

    async def run(self, at: int | None = None) -> None:
        """Start, and wait for the end; a cancelled run stops."""
        self.start(at)
        try:
            await self.wait()
        finally:
            self.stop()

    def stop(self) -> None:
        """Call `due` no more.  What it has begun goes on."""
        if self._timer is not None:
            self._timer.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _advance(self) -> bool:
        """Whether there is a next operation."""
        offset = next(self._offsets, None)
        if offset is None:
            self.stop()
            return False
        self._next = self._begin + offset
        return True

    def _wake(self) -> None:
        if self._timer is None or self._done is None or self._done.done():
            return
        # The clock is read once for the whole batch: what falls due while the batch is sent waits for the
        # next turn of the loop, so that a pacer that is behind does not keep the loop from its sockets.
        now = self._clock()
        try:
            while self._next <= now:
                intended, i = self._next, self.sent
                self.lateness.record(max(0, self._clock() - intended))
                self.sent = i + 1
                self._due(i, intended)
                if not self._advance() or self._done.done():
                    return
            self._timer.arm(self._next)
        except Exception as error:
            if not self._done.done():
                self._done.set_exception(error)
            self.stop()


# --- timerfd(2): in Python from 3.13 on; before, straight from the C library ---------------------------

if sys.platform == "linux" and sys.version_info >= (3, 13):

    def _timerfd_create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _timerfd_arm(fd: int, at: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=at)

elif sys.platform == "linux":

    class _ItimerSpec(ctypes.Structure):
        _fields_ = [
            ("interval_s", ctypes.c_long),
            ("interval_ns", ctypes.c_long),
            ("value_s", ctypes.c_long),
            ("value_ns", ctypes.c_long),
        ]

    _ABSOLUTE = 1  # TFD_TIMER_ABSTIME
    _libc = ctypes.CDLL(None, use_errno=True)

    def _timerfd_create() -> int:
        if not hasattr(_libc, "timerfd_create"):
            raise OSError("this C library has no timerfd")
        fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        return fd

    def _timerfd_arm(fd: int, at: int) -> None:
        spec = _ItimerSpec(0, 0, *divmod(at, _SECOND))
        if _libc.timerfd_settime(fd, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

else:

    def _timerfd_create() -> int:
        raise OSError("timerfd is a Linux system call")

    def _timerfd_arm(fd: int, at: int) -> None:
        raise OSError("timerfd is a Linux system call")
