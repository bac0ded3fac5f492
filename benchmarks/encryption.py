"""What sealing costs: processor time of a message and of a handshake, and of a lookup on live peers.

1. **A message**: sealed on one side, opened and looked up in the window on the other; texts of several
   lengths.
2. **A handshake**: both sides, certificates checked.
3. **Live**: lookups on `chord` and on `encrypted_chord`, the same peers and keys, interleaved: processor time
   of all peers for each lookup (the upkeep of the same time taken off), and the bytes of a message.

Times of 1 and 2 are processor times of one core.

    python benchmarks/encryption.py [--json FILE|-] [--runs N] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from common import arguments, emit, environment, shown
from polyarch.architectures.chord import ChordRing
from polyarch.architectures.encrypted_chord import EncryptedChord
from polyarch.blocks.sealing import CALL, Authority, Hello, Window, agree_called, agree_calling, public_key
from polyarch.core import Random, settle
from polyarch.measure.statistics import Spread, spread
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter, Session

SIZES = (20, 200, 2_000, 20_000)
PEERS = 8


def each(work: Callable[[int], Any], count: int) -> float:
    """Microseconds of processor time of one of ``count`` times."""
    begun = time.process_time()
    for number in range(1, count + 1):
        work(number)
    return (time.process_time() - begun) / count * 1e6


class Pair:
    """Two members that have met."""

    def __init__(self) -> None:
        random = Random(1)

        def secret() -> bytes:
            return random.bytes(32)

        self.authority = Authority(secret())
        self.a, self.b, self.fresh_a, self.fresh_b = (secret() for _ in range(4))
        self.hello_a = self.hello("a", self.a, self.fresh_a)
        self.hello_b = self.hello("b", self.b, self.fresh_b)

    def hello(self, address: str, secret: bytes, fresh: bytes) -> Hello:
        return Hello(self.authority.certify(address, public_key(secret)), public_key(fresh))

    def shake_hands(self) -> Any:
        """All that both sides compute: fresh public keys, certificates, keys."""
        public_key(self.fresh_a)
        self.hello_a.certificate.check(self.authority.public)
        public_key(self.fresh_b)
        called = agree_called(self.b, self.fresh_b, self.hello_b, self.hello_a)
        self.hello_b.certificate.check(self.authority.public)
        calling = agree_calling(self.a, self.fresh_a, self.hello_a, self.hello_b)
        return calling, called

    def message_us(self, size: int, count: int) -> float:
        calling, called = self.shake_hands()
        window, text = Window(), bytes(size)

        def carry(number: int) -> None:
            envelope = calling.seal(CALL, number, text)
            called.open(CALL, envelope)
            window.accept(number)

        return each(carry, count)


async def lookups(x: Experimenter, count: int) -> None:
    for at in range(0, count, 20):
        answers = await settle(*(x.client.lookup(f"key-{i}") for i in range(at, at + 20)))
        assert not any(isinstance(a, Exception) for a in answers), answers


def live(session: Session, count: int) -> dict[str, float]:
    """Microseconds of all peers for a lookup, and bytes of a message of lookups."""

    async def used(x: Experimenter) -> tuple[float, int, int]:
        parts = await x.control.resources()
        traffic = await x.control.traffic()
        cpu = sum(r["cpu_s"] for name, r in parts.items() if name.startswith("peer"))
        return cpu, traffic.messages, traffic.bytes

    async def experiment(x: Experimenter) -> dict[str, float]:
        await lookups(x, 100)
        begun, before = x.now, await used(x)
        await lookups(x, count)
        took, after = x.now - begun, await used(x)
        await x.sleep(took)
        quiet = await used(x)
        work, messages, size = ((b - a) - (c - b) for a, b, c in zip(before, after, quiet))
        return {"us_per_lookup": work / count * 1e6, "bytes_per_message": size / messages}

    return session.perform(experiment)


def compared(runs: int, count: int) -> dict[str, dict[str, Spread]]:
    """Both architectures, in turn."""
    found: dict[str, list[dict[str, float]]] = {}
    kinds = (ChordRing, EncryptedChord)
    architectures = [kind(nodes=PEERS, formation="converged") for kind in kinds]
    sessions = [open_session("local", a, seed=1) for a in architectures]
    try:
        for architecture, session in zip(architectures, sessions):
            session.perform(architecture.ready)
        for _ in range(runs):
            for architecture, session in zip(architectures, sessions):
                found.setdefault(type(architecture).name, []).append(live(session, count))
    finally:
        for session in sessions:
            session.close()
    return {
        name: {figure: spread([one[figure] for one in some]) for figure in some[0]}
        for name, some in found.items()
    }


def main() -> None:
    options = arguments(__doc__.partition("\n")[0]).parse_args()
    count, asked = (500, 200) if options.quick else (20_000, 2_000)
    pair = Pair()
    record: dict[str, Any] = {"environment": environment("pynacl"), "message_us": {}, "live": {}}
    rows = []
    for size in SIZES:
        figure = spread([pair.message_us(size, count) for _ in range(options.runs)])
        record["message_us"][size] = figure.median
        rows.append([f"a message of {size:,} bytes: seal, open, look up", shown(figure), "us"])
    hands = spread([each(lambda _: pair.shake_hands(), count // 20) for _ in range(options.runs)])
    record["handshake_us"] = hands.median
    rows.append(["a handshake, both sides", shown(hands), "us"])
    units = {"us_per_lookup": "us", "bytes_per_message": "bytes"}
    for name, figures in compared(1 if options.quick else options.runs, asked).items():
        record["live"][name] = {figure: value.median for figure, value in figures.items()}
        for figure, value in figures.items():
            rows.append([f"live {name}: {figure.replace('_', ' ')}", shown(value), units[figure]])
    emit(options, record, "Encryption on an overlay", ("what", "median (lowest .. highest)", "unit"), rows)


if __name__ == "__main__":
    main()
