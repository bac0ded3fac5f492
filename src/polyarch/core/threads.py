"""Threads of a node's process, for work that the node itself need not stand still for."""

from __future__ import annotations

import abc

from polyarch.core.tasks import Suspension

__all__ = ["BUSY", "Thread"]

BUSY = "a thread does one thing at a time"


class Thread(abc.ABC):
    """A thread beside the node's own: it computes and waits while the node goes on handling messages.

    It does one thing at a time (``RuntimeError`` otherwise), and only what is said here: a node's state is
    touched by its own thread alone, so there is nothing to lock.

    On ``local`` it is a thread of the operating system, which computes without Python's global lock.  In a
    simulation the threads that compute share the cores of their host equally (processor sharing: the limit
    of time slices that get short); starting and switching threads cost nothing there, and the node's own
    thread is not slowed down by the others.
    """

    __slots__ = ()

    @abc.abstractmethod
    def work(self, seconds: float) -> Suspension:
        """``await thread.work(0.002)``: compute for so long on a core; longer if cores are shared."""

    @abc.abstractmethod
    def blocking_call(self, seconds: float) -> Suspension:
        """``await thread.blocking_call(0.010)``: wait for something else; it needs no core."""

    @abc.abstractmethod
    def end(self) -> None:
        """It is not needed any more."""
