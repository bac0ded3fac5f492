"""Sealed messages between two nodes that know nothing of each other but who vouches for both.

What is promised.  A *member* is a node whose public key an *authority* has certified, with its address.  What
two members say to each other nobody else can read, change, or send in their name, and no message is taken
twice.  What was said stays secret when long-term keys are stolen later (each session has keys of its own,
which are forgotten).  Not hidden: who talks to whom, how often, and how much.  Not prevented: that messages
are dropped or delayed by who can do that.

The parts are libsodium's (PyNaCl): X25519, ChaCha20-Poly1305 (RFC 8439), Ed25519; and BLAKE2b (RFC 7693).

* **Handshake.**  Each side sends its certificate and a fresh public key.  Three Diffie-Hellman secrets (fresh
  with fresh, and each side's long-term key with the other's fresh one) are hashed together with all that
  was sent: only who has the long-term keys gets the session's keys, and two nodes that saw different
  messages get different ones.  (Kudla and Paterson, "Modular security proofs for key agreement protocols",
  ASIACRYPT 2005; the triple Diffie-Hellman of Signal's X3DH.)
* **Messages.**  A session is for calls in one direction and their answers, with one key for each.  A call's
  number is its nonce, and its answer's: it is never used twice under a key, and needs no randomness.
* **Replay.**  Who receives keeps the numbers that it has seen (a sliding window, RFC 4303, section 3.4.3);
  and both sides' fresh keys are in the session's, so that what was recorded is worthless after a restart.

The only randomness is ``Node.secret``: keys.  In a simulation it is the seed's, so that runs repeat to the
byte; live it is the operating system's.  No nonce is drawn, and nothing secret comes from ``Node.random``,
whose seed is in the record of a run.
"""

from __future__ import annotations

from hashlib import blake2b

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from polyarch.core.errors import Refused
from polyarch.core.messages import encode
from polyarch.core.records import Record

__all__ = [
    "ANSWER", "CALL", "TELL", "Authority", "Certificate", "Envelope", "Forged", "Hello", "Keys", "Replayed",
    "Window", "agree_called", "agree_calling", "public_key",
]  # fmt: skip

CALL, TELL, ANSWER = b"call", b"tell", b"answer"
"""What an envelope holds; one cannot be taken for the other."""

_PROTOCOL = "polyarch sealed messages 1"
_WIDTH = 1024  # numbers that the window covers


class Forged(Refused, code="forged-message"):
    """It was not made by who is said to have made it, or was changed on its way."""


class Replayed(Refused, code="replayed"):
    """It has been received before, or is too old to know."""


class Certificate(Record, array_like=True):
    """Somebody vouches that this public key is the node's at this address."""

    address: str
    public: bytes
    signature: bytes

    def check(self, authority: bytes) -> None:
        """``Forged`` unless the authority with this public key has signed it."""
        try:
            VerifyKey(authority).verify(_claim(self.address, self.public), self.signature)
        except (CryptoError, ValueError, TypeError):
            raise Forged(f"the certificate of {self.address} is not the authority's") from None


def _claim(address: str, public: bytes) -> bytes:
    return encode((_PROTOCOL, "certificate", address, public))


class Authority:
    """Who says which nodes are members; kept away from all of them."""

    def __init__(self, secret: bytes) -> None:
        """``secret``: 32 bytes from ``Node.secret``."""
        self._key = SigningKey(secret)
        self.public = bytes(self._key.verify_key)

    def certify(self, address: str, public: bytes) -> Certificate:
        """Make the node at an address a member."""
        return Certificate(address, public, self._key.sign(_claim(address, public)).signature)


def public_key(secret: bytes) -> bytes:
    """The public key of a secret one (32 bytes from ``Node.secret``)."""
    return crypto_scalarmult_base(secret)


# -- agreeing on keys ---------------------------------------------------------------------------------------


class Hello(Record, array_like=True):
    """What each side of a handshake sends."""

    certificate: Certificate
    fresh: bytes
    """A public key for this session alone."""


class Envelope(Record, array_like=True):
    """A sealed message."""

    session: bytes
    number: int
    box: bytes


def agree_calling(secret: bytes, fresh: bytes, mine: Hello, other: Hello) -> Keys:
    """The session's keys for the side that calls, from its own secret keys and both hellos."""
    return _keys(
        (
            _shared(fresh, other.fresh),
            _shared(secret, other.fresh),
            _shared(fresh, other.certificate.public),
        ),
        mine,
        other,
    )


def agree_called(secret: bytes, fresh: bytes, mine: Hello, other: Hello) -> Keys:
    """The same keys for the side that is called."""
    return _keys(
        (
            _shared(fresh, other.fresh),
            _shared(fresh, other.certificate.public),
            _shared(secret, other.fresh),
        ),
        other,
        mine,
    )


def _shared(secret: bytes, public: bytes) -> bytes:
    try:
        return crypto_scalarmult(secret, public)
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise Forged("that is no public key") from None


def _keys(secrets: tuple[bytes, bytes, bytes], calling: Hello, called: Hello) -> Keys:
    transcript = blake2b(encode((_PROTOCOL, calling, called))).digest()
    material = blake2b(b"".join(secrets), key=transcript).digest()
    return Keys(transcript[:8], material[:32], material[32:])


class Keys:
    """A session: calls in one direction, and their answers."""

    def __init__(self, session: bytes, calls: bytes, answers: bytes) -> None:
        self.session = session
        self._calls = calls
        self._answers = answers

    def seal(self, kind: bytes, number: int, text: bytes) -> Envelope:
        """No number may be given twice for calls, nor for answers."""
        key = self._answers if kind == ANSWER else self._calls
        nonce = number.to_bytes(12, "big")
        box = crypto_aead_chacha20poly1305_ietf_encrypt(text, self.session + kind, nonce, key)
        return Envelope(self.session, number, box)

    def open(self, kind: bytes, envelope: Envelope) -> bytes:
        """The text; ``Forged`` if it is not what the other side has sealed under this number."""
        key = self._answers if kind == ANSWER else self._calls
        try:
            nonce = envelope.number.to_bytes(12, "big")
            return crypto_aead_chacha20poly1305_ietf_decrypt(envelope.box, self.session + kind, nonce, key)
        except (CryptoError, OverflowError, ValueError, TypeError):
            raise Forged("the seal is broken") from None


class Window:
    """The numbers that have been received, as far as they are not too old."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit i: the number highest - i

    def accept(self, number: int) -> None:
        """``Replayed`` if it was there already.  Only for what was opened: a forger must not move it."""
        ahead = number - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, _WIDTH) | 1) & ((1 << _WIDTH) - 1)
            self._highest = number
        elif -ahead >= _WIDTH or self._seen >> -ahead & 1:
            raise Replayed(f"number {number}")
        else:
            self._seen |= 1 << -ahead
