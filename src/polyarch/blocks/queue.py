"""A message queue: the port through which services hand work to each other without waiting for it.

Delivery is at least once: a message that was taken and not acknowledged within ``ack_wait`` seconds is
given to somebody again.  A consumer that must act once remembers what it has done by the message's id.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Generic, TypeVar

from polyarch.core.records import Record

__all__ = ["Delivery", "Queue"]

M = TypeVar("M", bound=Record)


class Delivery(abc.ABC, Generic[M]):
    """One message taken from a queue, to be acknowledged."""

    id: str
    """The publisher's id of the message; the same on every redelivery."""
    message: M
    attempt: int
    """1 on the first delivery."""

    @abc.abstractmethod
    async def ack(self) -> None:
        """Done: never deliver it again.  Safe to repeat."""


class Queue(abc.ABC):
    """A durable queue with named topics; each consumer group gets every message of a topic."""

    @abc.abstractmethod
    async def publish(self, topic: str, message: Record, *, id: str) -> None:
        """Returns once the queue has stored the message.  A second publish with the same id is
        ignored.  ``Unreachable`` if the queue could not be reached, ``Timeout`` if it did not answer:
        publish again with the same id."""

    @abc.abstractmethod
    async def take(
        self, topic: str, group: str, of: type[M], *, at_most: int = 16, wait: float = 1.0
    ) -> Sequence[Delivery[M]]:
        """Up to ``at_most`` messages of type ``of``, waiting up to ``wait`` seconds for the first one;
        an empty sequence when none came.  ``Unreachable`` when the queue cannot be reached."""
