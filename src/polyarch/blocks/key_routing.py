"""Messages that find their way by a key: from node to node, each of which takes the message over before the
one behind forgets it, until a node finds nobody better than itself.  It answers the origin directly.

(Dabek et al., "Towards a common API for structured peer-to-peer overlays", IPTPS 2003: ``route`` and
``deliver``.)  As every hop is acknowledged, a dead node is found by the node before it, which goes on with
the next best: the message is not lost, even if nobody says that the other one is dead.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.overlay import NotAMember, Participant, Peer
from polyarch.blocks.ring import identifier
from polyarch.core.errors import BadArguments, Failure, Refused, Timeout
from polyarch.core.messages import oneway, rpc
from polyarch.core.records import Record
from polyarch.core.tasks import Future, settle

__all__ = ["STRETCH", "Found", "KeyRouting", "NoRoute", "Question", "stretch"]

MOST_HOPS = 100
"""A message that goes on for longer is in a circle: what nodes know contradicts itself."""

STRETCH = {"stretch": "time that a message takes by its route, over the time that it takes directly"}
"""What ``stretch`` measures."""


class Found(Record, array_like=True):
    """The node at which a message has ended, and what it took."""

    peer: Peer
    hops: int
    """How often it was passed from node to node."""
    timeouts: int
    """How many nodes were tried on the way and were dead."""
    path: tuple[Peer, ...] = ()
    """The nodes on the way, first and last included, for those who asked for them."""


class Question(Record, array_like=True):
    """A message on its way: whose is this key?"""

    key: int
    origin: str
    number: int
    """The origin's number for it."""
    hops: int = 0
    timeouts: int = 0
    path: tuple[Peer, ...] | None = None
    """None: nobody wants to know."""


class NoRoute(Refused, code="no-route"):
    """A message was given up."""


class KeyRouting(Participant):
    """A peer that passes messages on; the protocol says to whom."""

    bits: int = 32

    async def start(self) -> None:
        await super().start()
        self.me = Peer(identifier(self.address, self.bits), self.address)
        self.member = False  # the protocol says when it takes part
        self.asked: dict[int, Future[Found]] = {}
        self.number = self.random.below(1 << 32)  # another one after a restart

    def next_hop(self, key: int) -> Peer:
        """Where a message goes from here; ``self.me`` if it has arrived."""
        raise NotImplementedError

    def lost(self, n: Peer) -> None:
        """A node has failed, or left: it must not be the next hop any more."""
        raise NotImplementedError

    def place(self) -> int:
        if not self.member:
            raise NotAMember(self.address)
        return self.me.id

    @rpc(timeout=4.0)
    async def lookup(self, key: int, trace: bool = False) -> Found:
        """Route a question from this node and wait for the answer; with its path if it is to be traced."""
        if key >> self.bits:
            raise BadArguments(f"the key {key} is not of {self.bits} bits")
        self.number += 1
        number = self.number
        answer: Future[Found] = self.future()
        self.asked[number] = answer
        try:
            await self.route(Question(key, self.address, number, path=() if trace else None))
            return await answer.within(3.0)
        finally:
            del self.asked[number]

    @rpc(timeout=0.5)
    async def route(self, message: Question) -> None:
        """Take a message over: the answer says that it has arrived here, not where it ended."""
        self.place()
        self.handled += 1
        self.spawn(self.forward(message))

    async def forward(self, message: Question) -> None:
        """Pass a message on to the next node that lives, or answer it."""
        hops, timeouts, path = message.hops, message.timeouts, message.path
        if path is not None:
            path = (*path, self.me)
        while True:
            n = self.next_hop(message.key)
            if n is self.me:
                return self.answer(message, Found(self.me, hops, timeouts, path or ()))
            if hops + timeouts == MOST_HOPS:
                return self.answer(message, None)
            try:
                onward = Question(message.key, message.origin, message.number, hops + 1, timeouts, path)
                return await self.at(n).route(onward)
            except Failure as failure:
                timeouts += 1
                await self.suspect(n, failure)

    def answer(self, message: Question, found: Found | None) -> None:
        if message.origin == self.address:
            self.found(message.number, found)
        else:
            self.at(message.origin).found(message.number, found)

    @oneway
    def found(self, number: int, found: Found | None) -> None:
        """Where a message of ours has ended; None: it was given up."""
        answer = self.asked.get(number)
        if answer is not None and found is not None:
            answer.set(found)
        elif answer is not None:
            answer.fail(NoRoute(f"given up after {MOST_HOPS} hops"))

    async def suspect(self, n: Peer, failure: Failure) -> None:
        """A node did not answer as it should: it is presumed to have failed, unless it was only late."""
        if type(failure) is Timeout:
            try:
                return await self.at(n).ping()
            except Failure:
                pass
        self.lost(n)

    @rpc(timeout=0.5)
    async def ping(self) -> None:
        """Answers if it lives and is a member."""
        self.place()

    async def proximity(self, n: Peer) -> float:
        """How near a node is in the network: seconds of a round trip, by our own clock."""
        start = self.now
        await self.at(n).ping()
        return self.now - start

    @rpc(timeout=6.0)
    async def measure(self, key: int) -> tuple[float, float]:
        """Seconds from here to a key's node, by the route and directly, by our own clock."""
        start = self.now
        found = await self.lookup(key)
        took = self.now - start
        direct = await self.proximity(found.peer) / 2
        return took - direct, direct

    async def find(self, place: int) -> str:
        """The address of the responsible peer (for ``blocks/dht.py``)."""
        return (await self.lookup(place)).peer.address


async def stretch(x: Any, nodes: int, bits: int) -> dict[str, float]:
    """``STRETCH``, of 200 messages from any of so many peers to any key; nothing if none left its peer."""
    asked = [(f"peer-{x.random.below(nodes)}", x.random.below(1 << bits)) for _ in range(200)]
    told = await settle(*(x.at(a, KeyRouting).measure(key) for a, key in asked))
    route, direct = (sum(t[i] for t in told if not isinstance(t, Failure)) for i in (0, 1))
    return {"stretch": route / direct} if direct else {}
