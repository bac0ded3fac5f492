"""Encryption on an overlay: Chord, in which every message between two peers is sealed.

The overlay is ``chord`` (Stoica et al., IEEE/ACM ToN 11(1), 2003), not a line of it changed.  What is sealed,
how, and what that promises is in ``blocks/sealing.py`` and ``blocks/sealed.py``: each peer has a key that an
authority has certified; two peers that meet agree on keys for a session; who has no certificate can neither
read what they say, nor say anything, nor say again what he has recorded.

The encryption is node to node: each peer on the way of a lookup reads it, as it must to pass it on, and a
peer that is a member and lies is believed.  Against that help other means (signed values, several routes).

What is the problem with this?  Two peers that meet need a handshake first: a round trip more, and three
multiplications on the curve on each side (0.3 ms of processor time for both).  Each message carries the
session, a number and a tag, 37 bytes more than without, and costs 7 us to seal and open: a live lookup over 8
peers takes 335 us of all their processors instead of 130 (``benchmarks/encryption.py``, 2026-11-20, 2 cores
that others used too; simulations do not charge for it).  And somebody must decide who is a member.
"""

from __future__ import annotations

from typing import Any

from polyarch.architectures.chord import Chord, ChordClient, ChordRing
from polyarch.blocks.sealed import SEALED, Sealed, admit_all, messages_of, sealing_costs
from polyarch.blocks.sealing import Authority
from polyarch.blocks.successors import Neighbours, one_ring
from polyarch.core import Failure, Verdict, rpc, settle


class SealedChord(Sealed, Chord):
    """A peer of Chord that speaks to members only."""

    inside = Chord
    withheld = messages_of(Chord)


class SealedChordClient(Sealed, ChordClient):
    """A client that is a member."""

    @rpc(timeout=120.0)
    async def neighbours_of(self, peers: tuple[str, ...]) -> tuple[Neighbours | None, ...]:
        """What peers say of their places in the ring; None of those that say nothing."""
        told = await settle(*(self.at(a, Chord).neighbours() for a in peers))
        return tuple(None if isinstance(view, Failure) else view for view in told)


class EncryptedChord(ChordRing):
    """Chord with every message sealed: peers without a certificate neither read nor say anything."""

    name = "encrypted_chord"
    source = "Chord (IEEE/ACM ToN 2003) sealed with X25519 and ChaCha20-Poly1305 (RFC 7748, RFC 8439)"
    claims = (
        "no single point of failure",
        "who has no certificate neither reads nor injects",
        "replay is refused",
    )
    metrics = {**ChordRing.metrics, **SEALED}

    authority: Authority | None = None

    peer = SealedChord
    client = SealedChordClient

    @property
    def everybody(self) -> tuple[str, ...]:
        """All who are to be members."""
        return (*(f"peer-{i}" for i in range(self.places)), "client-0")

    async def ready(self, x: Any) -> None:
        if self.authority is None:
            self.authority = Authority(x.secret(32))
        while not await admit_all(x, self.authority, self.everybody):
            await x.sleep(0.25)
        await super().ready(x)

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        metrics, verdicts = await super().observe(x)
        return {**metrics, **await sealing_costs(x, self.everybody)}, verdicts

    async def is_ring(self, x: Any) -> Verdict:
        """Asked by a member: peers answer nobody else."""
        return await one_ring(x, SealedChord, self.places, x.client.neighbours_of)
