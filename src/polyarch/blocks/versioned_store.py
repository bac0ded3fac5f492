"""A store of versions on several servers, which become equal in the end: what each server keeps, and how it
finds out what others have and it has not.

A key's *homes* are the first N servers clockwise from it on a ring.  What a server holds for a home that was
away it hands off when that is back; and servers compare Merkle trees of what they share.  DeCandia et al.:
"Dynamo", SOSP 2007, sections 4.6 and 4.7.
"""

from __future__ import annotations

from typing import Any

from polyarch.blocks.merkle import Merkle, is_leaf, leaf_of
from polyarch.blocks.ring import Ring
from polyarch.blocks.versions import Policy, Version, reconcile
from polyarch.core.errors import Failure
from polyarch.core.messages import rpc
from polyarch.core.node import Node
from polyarch.core.records import Record

__all__ = ["Hint", "Holdings", "Safeguards", "Stored", "VersionedStore", "Versions"]

Versions = tuple[Version, ...]
"""What a server has of a key: siblings; of last writer wins one, of an unknown key none."""


class Stored(Record, array_like=True):
    """What a server has of a key."""

    key: str
    versions: Versions


class Holdings(Record):
    """What a server says of itself."""

    hints: int
    """Writes held for others."""
    stored: tuple[Stored, ...]
    """What it has of the keys to which it is home."""


class Hint(Record, array_like=True):
    """A write that was taken in for a home that did not answer."""

    home: str
    key: str
    versions: Versions


class Safeguards(Record):
    """The rules that exist for safety, each as a switch (``blocks/safeguards.py``)."""

    quorums_meet: bool = True
    """Reads wait for R and writes for W; without: for one."""
    sync_before_answer: bool = True
    """What is acknowledged is on disk."""
    new_writer_each_life: bool = True
    """A server that restarts counts its writes under another name."""
    write_once: bool = True
    """A write that may have happened is not sent again."""


class VersionedStore(Node):
    """The storage of one server."""

    servers: tuple[str, ...]
    n: int
    safeguards: Safeguards = Safeguards()
    policy: Policy = "vectors"
    expanding: bool = True
    """Whether what was written spreads by itself."""
    anti_entropy: float = 1.0
    """Seconds between two comparisons with another server; 0: never."""
    patience: float = 0.15
    """Seconds that a coordinator waits for a server before it turns to another."""

    async def start(self) -> None:
        self.ring = Ring(self.servers)
        self.data: dict[str, Versions] = {}
        for stored in self.disk.entries("data", Stored):
            self.data[stored.key] = stored.versions
        self.hints: dict[tuple[str, str], Versions] = {}  # by home and key
        for hint in self.disk.entries("hints", Hint):
            self.hints[hint.home, hint.key] = hint.versions
        self.hints = {where: versions for where, versions in self.hints.items() if versions}
        # A writer's count must never come twice: each life of a server is a writer of its own.
        life = self.disk.get("life", int, 0) + 1
        self.disk.put("life", life)
        await self.disk.sync()
        self.writer = f"{self.address}.{life if self.safeguards.new_writer_each_life else 0}"
        if self.anti_entropy and self.expanding:
            self.every(self.anti_entropy, self.compare_with_another)
            self.every(self.anti_entropy / 4, self.hand_off)

    def homes(self, key: str) -> list[str]:
        return self.ring.walk(key)[: self.n]

    # -- storing -------------------------------------------------------------------------------------------

    @rpc(timeout=0.15)
    async def store(self, key: str, versions: Versions) -> None:
        """Take these versions in, beside what we have; on disk before the answer."""
        if self.merge(key, versions):
            self.disk.append("data", Stored(key, self.data[key]))
        if self.safeguards.sync_before_answer:
            await self.disk.sync()

    @rpc(timeout=0.15)
    async def store_for(self, home: str, key: str, versions: Versions) -> None:
        """Take them in for a home that does not answer (hinted handoff, section 4.6)."""
        kept = reconcile((*self.hints.get((home, key), ()), *versions), self.policy)
        self.hints[home, key] = kept
        self.disk.append("hints", Hint(home, key, kept))
        await self.disk.sync()

    @rpc(timeout=0.15)
    async def load(self, key: str) -> Versions:
        """What we have of a key, for ourselves or for others."""
        held = [v for (_, k), versions in self.hints.items() if k == key for v in versions]
        return reconcile((*self.data.get(key, ()), *held), self.policy) if held else self.data.get(key, ())

    def merge(self, key: str, versions: Versions) -> bool:
        """Whether that changed anything."""
        had = self.data.get(key, ())
        self.data[key] = reconcile((*had, *versions), self.policy)
        return self.data[key] != had

    # -- becoming equal again --------------------------------------------------------------------------------

    async def hand_off(self) -> None:
        """Give what we hold for others to them, when they are back (section 4.6)."""
        for (home, key), versions in list(self.hints.items()):
            try:
                await self.at(home).store(key, versions)
            except Failure:
                continue
            if self.hints.get((home, key)) == versions:
                del self.hints[home, key]
                self.disk.append("hints", Hint(home, key, ()))

    async def compare_with_another(self) -> None:
        """Anti-entropy (section 4.7): follow the digests that differ down to the keys, and exchange those."""
        if len(self.servers) == 1:
            return
        peer = self.at(self.random.choice([s for s in self.servers if s != self.address]))
        mine = Merkle(self.shared_with(peer.address)).digests
        nodes: tuple[int, ...] = (1,)
        try:
            while nodes:
                theirs = await peer.digests(self.address, nodes)
                differ = [node for node, digest in zip(nodes, theirs) if digest != mine[node]]
                leaves = tuple(node for node in differ if is_leaf(node))
                nodes = tuple(c for node in differ if not is_leaf(node) for c in (2 * node, 2 * node + 1))
                if leaves:
                    await self.exchange(peer, leaves)
        except Failure:
            return  # another time, or with another one

    async def exchange(self, peer: Any, leaves: tuple[int, ...]) -> None:
        theirs = {stored.key: stored.versions for stored in await peer.contents(self.address, leaves)}
        for key, versions in theirs.items():
            await self.store(key, versions)
        for key, versions in self.shared_with(peer.address).items():
            if leaf_of(key) in leaves and versions != theirs.get(key):
                await peer.store(key, versions)

    def shared_with(self, peer: str) -> dict[str, Versions]:
        """What we have of the keys to which both of us are home."""
        both = {self.address, peer}
        return {key: versions for key, versions in self.data.items() if both <= set(self.homes(key))}

    @rpc
    async def digests(self, peer: str, nodes: tuple[int, ...]) -> tuple[int, ...]:
        tree = Merkle(self.shared_with(peer)).digests
        return tuple(tree[node] for node in nodes)

    @rpc
    async def contents(self, peer: str, leaves: tuple[int, ...]) -> tuple[Stored, ...]:
        shared = self.shared_with(peer).items()
        return tuple(Stored(key, versions) for key, versions in shared if leaf_of(key) in leaves)

    @rpc
    def holdings(self) -> Holdings:
        mine = [Stored(k, v) for k, v in sorted(self.data.items()) if self.address in self.homes(k)]
        return Holdings(len(self.hints), tuple(mine))
