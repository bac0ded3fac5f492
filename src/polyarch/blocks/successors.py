"""Keys at their successors: what a peer that knows its predecessor and a successor list tells the hash table
(``blocks/dht.py``), and where copies go if peers have virtual nodes.

With *virtual nodes* (Chord, section IV-B; Karger et al., STOC 1997) a process stands at several places of the
ring, each a node with an address of its own: ``peer-0``, ``peer-1``, … ``peer-(v-1)`` are the first process.
They fall together, so that two of them are no better than one to hold copies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from polyarch.blocks.overlay import NotAMember, Peer
from polyarch.blocks.ring import identifier, within
from polyarch.blocks.storing import StoringPeer
from polyarch.core.errors import Failure
from polyarch.core.records import Record
from polyarch.core.system import Verdict
from polyarch.core.tasks import settle

__all__ = ["Neighbours", "SuccessorHolding", "one_ring"]


class Neighbours(Record, array_like=True):
    """A node's place in the ring."""

    predecessor: Peer | None
    successors: tuple[Peer, ...]


class SuccessorHolding(StoringPeer):
    """A node on a ring, with its neighbours there.  The protocol keeps them right, and finds keys."""

    length: int = 8
    """r: how many nodes the successor list holds (section IV-E.3)."""
    together: int = 1
    """So many nodes with successive addresses share a process: they are virtual nodes of one."""

    async def start(self) -> None:
        await super().start()
        self.me = Peer(identifier(self.address, self.bits), self.address)
        self.predecessor: Peer | None = None
        # The successor list; its first is "the successor": of who is alone, itself.  Empty: not a member.
        self.successors: tuple[Peer, ...] = ()

    def follow(self, list_: tuple[Peer, ...]) -> None:
        """Take a new successor list: the successor and then *its* list, cut to r entries (section IV-E.3),
        and before it comes round to this node."""
        if self.me in list_:
            list_ = list_[: list_.index(self.me)] or (self.me,)
        before, self.successors = self.successors, tuple(dict.fromkeys(list_))[: self.length]
        if self.successors != before:
            self.neighbours_changed()

    def place(self) -> int:
        if not self.successors:
            raise NotAMember(self.address)
        return self.me.id

    def responsible(self, place: int) -> bool:
        """A key belongs to its successor."""
        if self.predecessor is None:
            return self.successors == (self.me,)
        return bool(self.successors) and within(place, self.predecessor.id, self.me.id)

    def others(self, place: int, count: int) -> tuple[str, ...]:
        return tuple(n.address for n in self.successors[:count] if n != self.me)

    def holders(self, place: int) -> tuple[str, ...]:
        """The next nodes, each of another process."""
        if self.together == 1:
            return self.others(place, self.replicas - 1)
        chosen = {self.process_of(self.me): ""}
        for n in self.successors:
            chosen.setdefault(self.process_of(n), n.address)
        return tuple(chosen.values())[1 : self.replicas]

    def process_of(self, n: Peer) -> int:
        return int(n.address.rpartition("-")[2]) // self.together

    async def missed(self, address: str, failure: Failure) -> None:
        for n in self.successors:
            if n.address == address:
                with suppress(Failure):
                    await self.suspect(n, failure)
                return

    async def suspect(self, n: Peer, failure: Failure) -> None:
        """A neighbour did not answer: if it is dead, it is none any more."""
        raise NotImplementedError


async def one_ring(
    x: Any,
    of: type[Any],
    nodes: int,
    ask: Callable[[tuple[str, ...]], Awaitable[Sequence[Any]]] | None = None,
) -> Verdict:
    """Whether so many nodes of a class, which say their ``neighbours()``, are members, and every member's
    successor is the next member.  ``ask``: who asks members, where they do not tell the experimenter."""

    async def directly(members: tuple[str, ...]) -> Sequence[Any]:
        return await settle(*(x.at(a, of).neighbours() for a in members))

    census = await x.client.census()
    ring = tuple(m.address for m in census.members)
    wrong = 0
    for at in range(0, len(ring), 256):
        views = await (ask or directly)(ring[at : at + 256])
        for i, view in enumerate(views, at + 1):
            told = isinstance(view, Neighbours)
            wrong += not told or view.successors[0].address != ring[i % len(ring)]
    detail = f"{len(ring)} of {nodes} nodes are members, {wrong} with a wrong successor"
    return Verdict("the successors form one ring", len(ring) == nodes and not wrong, detail)
