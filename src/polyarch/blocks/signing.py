"""Signed copies of sessions: what is given to browsers comes back as it was, or is refused.

The key is drawn once and told to all servers.  With a ``period`` there is a new one in each (key rotation):
the keeper tells the key to sign with, the next one, so that nobody who has asked within the last period
meets an unknown one, and the one before, so that what was signed is good for a period at least, and for less
than two.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from polyarch.blocks.sessions import Session
from polyarch.core import Failure, Node, Refused, rpc

__all__ = ["Forged", "KeyKeeper", "Signer", "keys_of"]


class Forged(Refused, code="forged-cookie"):
    """A cookie that no server of ours has made, or that was changed since, or with a key of long ago."""


class Signer:
    """Signs, and knows again what was signed (HMAC-SHA256: RFC 2104)."""

    def __init__(self, key: bytes, *others: bytes) -> None:
        """``others``: keys of which a signature is believed too."""
        self.key = key
        self.others = others

    def tag(self, text: str) -> str:
        """What only who has the key can compute of a text."""
        return _tag(self.key, text)

    def verify(self, text: str, tag: str) -> None:
        """``Forged`` unless the tag is the text's own."""
        # Compared in constant time.
        if not any(
            hmac.compare_digest(_tag(k, text).encode(), tag.encode()) for k in (self.key, *self.others)
        ):
            raise Forged("the signature does not fit")

    def copy(self, session: Session) -> str:
        """A session as a text for cookies and headers."""
        return _text(msgspec.json.encode(session))

    def read(self, copy: str, tag: str) -> Session:
        """The session in a copy, if the tag is its own; ``Forged`` otherwise."""
        self.verify(copy, tag)  # before anything of it is believed
        return session_in(copy)


def session_in(copy: str) -> Session:
    """The session in a copy that was verified."""
    return msgspec.json.decode(urlsafe_b64decode(copy + "=" * (-len(copy) % 4)), type=Session)


def _tag(key: bytes, text: str) -> str:
    return _text(hmac.digest(key, text.encode(), hashlib.sha256))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class KeyKeeper(Node):
    """Draws the keys that all servers sign with, and tells them to those that ask."""

    period: float = 0.0
    """Seconds after which there is a new key; 0: it stays."""

    async def start(self) -> None:
        self.drawn = list(self.disk.get("keys", tuple[bytes, ...], ()))  # the newest first
        if not self.drawn:
            await self.draw()
            if self.period:
                await self.draw()
        if self.period:
            self.every(self.period, self.draw)

    async def draw(self) -> None:
        """A new key; it is on the disk before anybody has it."""
        drawn = [self.secret(32), *self.drawn][:3]
        self.disk.put("keys", tuple(drawn))
        await self.disk.sync()
        self.drawn = drawn

    @rpc
    async def keys(self) -> tuple[bytes, ...]:
        """The key to sign with, and others of which signatures are good: the next one, and the last one."""
        if not self.period:
            return (self.drawn[0],)
        upcoming, now, *last = self.drawn
        return (now, upcoming, *last)


async def keys_of(node: Node, keeper: KeyKeeper) -> Signer:
    """A signer with the servers' keys; waits for as long as the keeper is down."""
    while True:
        try:
            return Signer(*await keeper.keys())
        except Failure:
            await node.sleep(0.1)
