"""The contacts that one lookup of Kademlia has heard of, and whom it asks next (Maymounkov and Mazieres,
IPTPS 2002, section 2.3)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Literal

from polyarch.blocks.overlay import Peer
from polyarch.core.tasks import Future

__all__ = ["Shortlist"]

State = Literal["heard of", "asked", "answered"]


class Shortlist:
    """Contacts in the order of their distance from ``key``; those that failed are off it."""

    __slots__ = (
        "_entries", "_order", "alpha", "asked", "done", "enough", "failures", "idle", "k", "key", "open",
        "text", "tokens", "value", "widen",
    )  # fmt: skip

    def __init__(
        self,
        done: Future[None],
        key: int,
        k: int,
        alpha: int,
        widen: bool = True,
        text: str = "",
        enough: bool = False,
    ) -> None:
        """``done``: set when the lookup has ended; ``alpha``: how many are asked at the same time; ``widen``:
        when nobody closer turns up, all of the ``k`` closest; ``text``: the key whose value is wanted, which
        may be ``enough``."""
        self.done, self.key, self.k, self.alpha, self.widen = done, key, k, alpha, widen
        self.text, self.enough = text, enough
        self.value: str | None = None
        self.tokens: dict[str, int] = {}
        """By address: what to show who is asked to store."""
        self._entries: dict[int, tuple[Peer, int, State]] = {}  # by distance: it names a contact
        self._order: list[int] = []
        self.asked = self.failures = 0
        self.open = 0
        """Questions that are on the way."""
        self.idle = 0
        """Answers in a row that brought nobody closer than the closest known."""

    def hear_of(self, contacts: Iterable[Peer], hops: int = 0, *, answered: bool = False) -> None:
        """Somebody named these: the node itself (0 hops), or one that is ``hops - 1`` from it."""
        entries, key = self._entries, self.key
        for contact in contacts:
            distance = contact.id ^ key
            if distance not in entries:
                entries[distance] = (contact, hops, "answered" if answered else "heard of")
                insort(self._order, distance)

    def next(self) -> Peer | None:
        """The closest contact that was not asked yet, of the ``k`` closest; None if it is not time to ask,
        or there is none."""
        width = self.k if self.widen and self.idle >= self.alpha else self.alpha
        if self.open >= width:
            return None
        for distance in self._order[: self.k]:
            contact, hops, state = self._entries[distance]
            if state == "heard of":
                self._entries[distance] = (contact, hops, "asked")
                self.asked += 1
                self.open += 1
                return contact
        return None

    def answered(self, contact: Peer, told: Iterable[Peer]) -> None:
        """A contact that was asked has named others."""
        self.open -= 1
        distance = contact.id ^ self.key
        _, hops, _ = self._entries[distance]
        self._entries[distance] = (contact, hops, "answered")
        closest = self._order[0]
        self.hear_of(told, hops + 1)
        self.idle = 0 if self._order[0] < closest else self.idle + 1

    def failed(self, contact: Peer) -> None:
        """A contact that was asked has not answered: it is not considered any more."""
        self.open -= 1
        self.failures += 1
        self._order.remove(contact.id ^ self.key)

    @property
    def closest(self) -> list[Peer]:
        """The ``k`` closest that have answered, the closest first."""
        entries = (self._entries[distance] for distance in self._order)
        return [contact for contact, _, state in entries if state == "answered"][: self.k]

    @property
    def hops(self) -> int:
        """How often the question was passed on until the closest was named."""
        for distance in self._order:
            _, hops, state = self._entries[distance]
            if state == "answered":
                return hops
        return 0
