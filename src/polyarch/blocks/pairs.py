"""Pairs of key and value that the nodes of Kademlia keep for others until they expire (Maymounkov and
Mazieres, IPTPS 2002, sections 2.3 and 2.5), and the tokens of BEP 5.

Whoever has something to say under a key stores it at the k closest nodes, and does so again every day;
meanwhile each of them stores it again every hour, so that it comes to those that are closest by then.
Nobody decides: of two values the one that is stored last is what others find, and not everywhere at once.
(For a store in which one peer decides see ``blocks/dht.py``.)
"""

from __future__ import annotations

from collections.abc import Iterator

from polyarch.blocks.overlay import Peer
from polyarch.blocks.ring import identifier
from polyarch.blocks.shortlist import Shortlist
from polyarch.blocks.storing import StoringPeer
from polyarch.core.errors import Failure, Refused
from polyarch.core.messages import rpc
from polyarch.core.records import Record
from polyarch.core.tasks import settle

__all__ = ["Answer", "PairKeeper", "Pairs", "Tokens"]


class Answer(Record, array_like=True):
    """To FIND_VALUE: the value, or who is closer to it."""

    value: str | None
    closest: tuple[Peer, ...]
    token: int
    """Shows to STORE that its sender has asked before (BEP 5)."""


class PairKeeper(StoringPeer):
    """The part of a peer that keeps pairs for others."""

    republish_every: float = 3600.0
    """Seconds after which a pair that nobody has stored again is; 0: never."""
    expire_after: float = 86400.0
    """Seconds that a pair lasts after its publisher has stored it."""
    token_every: float = 0.0
    """Seconds after which the secret of tokens changes; 0: STORE needs none."""

    async def start(self) -> None:
        await super().start()
        self.me = Peer(identifier(self.address, self.bits), self.address)
        self.pairs = Pairs()
        self.tokens = Tokens(self.random.bits64(), self.token_every) if self.token_every else None

    # -- what the overlay fills in -----------------------------------------------------------------------

    async def find_node(self, sender: Peer | None, key: int) -> tuple[Peer, ...]:
        raise NotImplementedError

    async def node_lookup(self, key: int, text: str = "", *, enough: bool = False) -> Shortlist:
        """The k closest nodes to a key, asked by ``find_value(text)`` if a text is given; ``enough``: it ends
        with the first value."""
        raise NotImplementedError

    # -- the messages ------------------------------------------------------------------------------------

    @rpc
    async def find_value(self, sender: Peer, key: str) -> Answer:
        """The value of a key if this node keeps one, and who is closer to the key."""
        closest = await self.find_node(sender, identifier(key, self.bits))
        token = self.tokens.give(sender.address, self.now) if self.tokens else 0
        return Answer(self.pairs.get(key, self.now), closest, token)

    @rpc
    async def store(self, sender: Peer, key: str, value: str, lasts: float, token: int = 0) -> None:
        """Keep a pair for so many seconds."""
        if self.tokens and not self.tokens.good(token, sender.address, self.now):
            raise Refused(f"the token of {sender.address} is not valid, or not any more: ask again")
        self.keep_pair(key, value, lasts)

    @rpc(timeout=10.0)
    async def publish(self, key: str, value: str) -> int:
        """Store a pair at the k closest nodes: at how many.  Its publisher does so again and again."""
        return await self.spread(key, value, self.expire_after)

    @rpc(timeout=10.0)
    async def retrieve(self, key: str) -> str | None:
        """Find the value of a key; None if none of the k closest nodes keeps one."""
        value = self.pairs.get(key, self.now)
        if value is None:
            value = (await self.node_lookup(identifier(key, self.bits), key, enough=True)).value
        return value

    # -- keeping -----------------------------------------------------------------------------------------

    async def spread(self, key: str, value: str, lasts: float) -> int:
        """Store a pair at the k closest nodes."""
        search = await self.node_lookup(identifier(key, self.bits), key)
        others = [n for n in search.closest if n != self.me]
        asked = (self.at(n).store(self.me, key, value, lasts, search.tokens[n.address]) for n in others)
        stored = sum(not isinstance(answer, Failure) for answer in await settle(*asked))
        if len(others) < len(search.closest):
            self.keep_pair(key, value, lasts)
            stored += 1
        return stored

    def keep_pair(self, key: str, value: str, lasts: float) -> None:
        """Keep a pair, and store it again now and then."""
        if not len(self.pairs) and self.republish_every:
            self.after(self.republish_every * self.random.between(0.9, 1.1), self.republish)
        self.pairs.store(key, value, self.now, min(lasts, self.expire_after))

    async def republish(self) -> None:
        """Store again what nobody has stored for a while.  (Who is stored something assumes that the other
        closest nodes were too: section 2.5.)"""
        for key, value, lasts in self.pairs.items(self.now, quiet=0.8 * self.republish_every):
            await self.spread(key, value, lasts)
        if len(self.pairs):
            self.after(self.republish_every * self.random.between(0.9, 1.1), self.republish)


class Pairs:
    """Values under keys that are gone after a while."""

    __slots__ = ("_held", "most")

    def __init__(self, most: int = 10_000) -> None:
        """``most``: values that are kept; when there are more, those that end first go."""
        self.most = most
        self._held: dict[str, tuple[str, float, float]] = {}  # value, its end, when it was stored last

    def __len__(self) -> int:
        return len(self._held)

    def store(self, key: str, value: str, now: float, lasts: float) -> None:
        """Keep a value for so many seconds."""
        self._held[key] = (value, now + lasts, now)
        if len(self._held) > self.most:
            self.expire(now)
        if len(self._held) > self.most:
            del self._held[min(self._held, key=lambda k: self._held[k][1])]

    def get(self, key: str, now: float) -> str | None:
        """The value of a key, if there is one and it has not ended."""
        held = self._held.get(key)
        return held[0] if held and held[1] > now else None

    def expire(self, now: float) -> None:
        """Forget what has ended."""
        for key in [key for key, (_, end, _) in self._held.items() if end <= now]:
            del self._held[key]

    def items(self, now: float, *, quiet: float = 0.0) -> Iterator[tuple[str, str, float]]:
        """Key, value and the seconds that it still lasts, of those which nobody has stored for ``quiet``
        seconds."""
        self.expire(now)
        for key, (value, end, stored) in list(self._held.items()):
            if stored <= now - quiet:
                yield key, value, end - now


class Tokens:
    """Shows that who stores has asked before, from the address that it gives.  A token is a hash of the
    address and a secret that changes; those of the secret before are still good (BEP 5)."""

    __slots__ = ("every", "salt")

    def __init__(self, salt: int, every: float) -> None:
        """``every``: seconds after which the secret changes."""
        self.salt, self.every = salt, every

    def give(self, address: str, now: float) -> int:
        """A token for who asks from this address."""
        return self._of(address, now // self.every)

    def good(self, token: int, address: str, now: float) -> bool:
        """Whether this address was given it, and not too long ago."""
        epoch = now // self.every
        return token in (self._of(address, epoch), self._of(address, epoch - 1))

    def _of(self, address: str, epoch: float) -> int:
        return identifier(f"{self.salt}/{epoch:.0f}/{address}", 63)
