"""Who has no certificate neither reads, nor injects, nor replays; and what sealing costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from polyarch.architectures.chord import Chord, ChordRing
from polyarch.architectures.encrypted_chord import EncryptedChord
from polyarch.blocks import sealing
from polyarch.blocks.sealed import NoSession, NotAdmitted, Sealed
from polyarch.blocks.sealing import (
    ANSWER,
    CALL,
    Authority,
    Certificate,
    Envelope,
    Forged,
    Hello,
    Replayed,
    public_key,
)
from polyarch.core import BadArguments, Failure, Refused, settle
from polyarch.core.errors import UnknownMethod
from polyarch.core.messages import encode
from polyarch.jobs.lookup import Holder
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

Tap = list[tuple[str, str, str, Any]]  # kind, to, message, arguments or answer


def started(nodes: int = 8, seed: int = 1, **parameters: Any) -> tuple[EncryptedChord, SimSession, Tap]:
    """Members that are up; and all that crosses their links from then on."""
    architecture = EncryptedChord(nodes=nodes, formation="converged", **parameters)
    session = SimSession(architecture, seed=seed)
    session.perform(architecture.ready)
    tap: Tap = []
    session.kernel.observer = lambda kind, _now, _from, to, method, value, _arrivals: tap.append(
        (kind, to, method.name, value)
    )
    return architecture, session, tap


async def lookups(x: Experimenter, count: int = 40) -> list[Any]:
    return await settle(*(x.client.lookup(f"key-{i}") for i in range(count)))


def refused(session: SimSession, ask: Callable[[Experimenter], Any]) -> type[Failure] | None:
    """How a question was refused; None: it was answered."""

    async def asked(x: Experimenter) -> Any:
        return (await settle(ask(x)))[0]

    answer = session.perform(asked)
    return type(answer) if isinstance(answer, Failure) else None


def envelopes(tap: Tap, message: str = "sealed") -> list[tuple[str, Envelope]]:
    """Sealed messages that were recorded, and to whom they went."""
    kinds = {"sealed": "call", "told": "send"}
    return [(to, value[0]) for kind, to, name, value in tap if (kind, name) == (kinds[message], message)]


# -- members ------------------------------------------------------------------------------------------------


def test_members_look_keys_up_as_they_do_without_encryption() -> None:
    _, session, _ = started(nodes=20)
    plain = SimSession(ChordRing(nodes=20, formation="converged"), seed=1)
    assert [a.address for a in session.perform(lookups)] == [a.address for a in plain.perform(lookups)]
    with pytest.raises(BadArguments, match="is not of 32 bits"):
        session.perform(lambda x: x.client.lookup(-1))
    assert not session.kernel.bugs


def test_members_survive_crashes_and_restarts_with_their_keys() -> None:
    architecture, session, _ = started(nodes=12)

    async def experiment(x: Experimenter) -> list[Any]:
        for i in (2, 5, 7):
            await x.control.crash(f"peer-{i}")
        await x.sleep(4)
        answers = await lookups(x)
        for i in (2, 5, 7):
            await x.control.restart(f"peer-{i}")
        await x.sleep(5)
        assert (await architecture.is_ring(x)).holds
        return answers + await lookups(x)

    assert all(isinstance(a, Holder) for a in session.perform(experiment))


def test_values_are_kept_by_members_too() -> None:
    _, session, tap = started(nodes=8)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put("who", "the secret value")
        return await x.client.get("who")

    assert session.perform(experiment) == "the secret value"
    assert tap


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def record(seed: int) -> tuple[str, list[Any]]:
        _, session, tap = started(seed=seed)
        session.perform(lookups)
        return session.kernel.trace_hash, envelopes(tap)

    assert record(1) == record(1)
    assert record(1) != record(2)


# -- outsiders ----------------------------------------------------------------------------------------------


def test_an_outsider_reads_nothing_but_who_talks_to_whom() -> None:
    _, session, tap = started()
    session.perform(lookups)
    sealed = b"".join(encode(value) for _, _, name, value in tap if name in ("sealed", "told"))
    assert len(sealed) > 10_000
    for word in (b"find_successor", b"neighbours", b"notify", b"peer-", b"key-"):
        assert word not in sealed
    # The same observer on plain Chord sees all of it.
    plain = SimSession(ChordRing(nodes=8, formation="converged"), seed=1)
    names: list[str] = []
    plain.kernel.observer = lambda kind, _now, _from, to, method, value, _arrivals: names.append(method.name)
    plain.perform(lookups)
    assert "find_successor" in names


def test_an_outsider_can_ask_for_nothing_and_say_nothing() -> None:
    _, session, _ = started()
    for ask in (
        lambda x: x.at("peer-1", Chord).find_successor(7),
        lambda x: x.at("peer-1", Chord).neighbours(),
        lambda x: x.at("peer-1", Chord).leave(),
    ):
        assert refused(session, ask) is UnknownMethod
    assert (
        refused(session, lambda x: x.at("peer-1", Sealed).sealed(Envelope(b"12345678", 1, b""))) is NoSession
    )


def test_who_certifies_himself_is_no_member() -> None:
    _, session, _ = started()
    secret = bytes(32)
    mine = Authority(bytes(range(32))).certify("experimenter", public_key(secret))
    assert refused(session, lambda x: x.at("peer-1", Sealed).hello(Hello(mine, public_key(secret)))) is Forged
    own = Authority(bytes(range(32)))

    async def take_over(x: Experimenter) -> Any:
        key = await x.at("peer-1", Sealed).introduce()
        return await x.at("peer-1", Sealed).admit(own.public, own.certify("peer-1", key))

    assert refused(session, take_over) is Refused


def test_a_stolen_certificate_is_worthless_without_its_key() -> None:
    _, session, tap = started()
    session.perform(lookups)
    # Certificates cross the links in the open.
    stolen = next(v[0].certificate for k, _, name, v in tap if (k, name) == ("call", "hello"))
    fresh = bytes(range(32))
    mine = Hello(stolen, public_key(fresh))

    async def pose(x: Experimenter) -> Any:
        other = await x.at("peer-1", Sealed).hello(mine)
        keys = sealing.agree_calling(bytes(range(1, 33)), fresh, mine, other)  # with a guess at the key
        return await x.at("peer-1", Sealed).sealed(keys.seal(sealing.CALL, 1, encode(("ping", ()))))

    assert refused(session, pose) is Forged
    # And it cannot be used for another key or address.
    changed = Certificate("peer-1", public_key(fresh), stolen.signature)
    assert refused(session, lambda x: x.at("peer-2", Sealed).hello(Hello(changed, mine.fresh))) is Forged


def test_who_was_not_admitted_waits_outside() -> None:
    session = SimSession(EncryptedChord(nodes=4))

    async def alone(x: Experimenter) -> Any:
        await x.sleep(2)
        return await settle(x.client.lookup("a"))

    assert isinstance(session.perform(alone)[0], NotAdmitted)


# -- what was recorded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"\xc1", encode(7), encode([]), encode(["ping"]), encode(["ping", 7])])
def test_a_member_that_seals_nonsense_is_told_so_and_believed_by_nobody(text: bytes) -> None:
    _, session, _ = started()
    liar: Any = session.kernel.directory["peer-0"].node

    async def lie() -> Any:
        outbound = await liar.session("peer-1")
        outbound.numbers += 1
        return await liar.unsealed("peer-1").sealed(outbound.keys.seal(CALL, outbound.numbers, text))

    async def experiment(x: Experimenter) -> Any:
        return await settle(liar.spawn(lie()))

    (answer,) = session.perform(experiment)
    assert isinstance(answer, BadArguments)
    assert not session.kernel.bugs


@pytest.mark.parametrize("text", [b"\xc1", encode(7), encode([True]), encode([False, "x"])])
def test_members_that_answer_nonsense_are_no_answer(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    _, session, _ = started()
    seal = sealing.Keys.seal
    monkeypatch.setattr(
        sealing.Keys,
        "seal",
        lambda keys, kind, number, said: seal(keys, kind, number, text if kind == ANSWER else said),
    )
    assert all(isinstance(answer, Failure) for answer in session.perform(lambda x: lookups(x, 4)))
    assert not session.kernel.bugs


def test_a_message_that_was_recorded_is_refused_the_second_time() -> None:
    _, session, tap = started()

    async def talk(x: Experimenter) -> None:
        await lookups(x)
        await x.sleep(2)

    session.perform(talk)
    recorded = envelopes(tap)
    for to, envelope in recorded[:4] + recorded[-4:]:
        again = refused(session, lambda x, to=to, e=envelope: x.at(to, Sealed).sealed(e))  # type: ignore[misc]
        assert again is Replayed
    # To somebody else it says nothing, nor as another kind of message, nor changed in any part.
    to, last = recorded[-1]
    other = "peer-0" if to != "peer-0" else "peer-1"
    assert refused(session, lambda x: x.at(other, Sealed).sealed(last)) is NoSession
    flipped = bytes([last.box[0] ^ 1]) + last.box[1:]
    for change in ({"box": flipped}, {"number": last.number + 1}, {"number": 1 << 60}, {"box": b""}):
        forged = msgspec.structs.replace(last, **change)
        assert refused(session, lambda x, e=forged: x.at(to, Sealed).sealed(e)) is Forged  # type: ignore[misc]
    to, told = envelopes(tap, "told")[-1]
    assert refused(session, lambda x: x.at(to, Sealed).sealed(told)) is Forged


def test_without_the_window_what_was_recorded_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing.Window, "accept", lambda self, number: None)
    _, session, tap = started()
    session.perform(lookups)
    to, envelope = envelopes(tap)[-1]
    assert refused(session, lambda x: x.at(to, Sealed).sealed(envelope)) is None


def test_a_whole_recorded_session_is_worthless_after_a_restart() -> None:
    _, session, tap = started()
    session.perform(lookups)
    to, envelope = envelopes(tap)[-1]
    hellos = [v[0] for k, t, name, v in tap if (k, t, name) == ("call", to, "hello")]

    async def replay(x: Experimenter) -> list[Any]:
        await x.control.crash(to)
        await x.control.restart(to)
        await settle(*(x.at(to, Sealed).hello(h) for h in hellos))
        return await settle(x.at(to, Sealed).sealed(envelope))

    assert isinstance(session.perform(replay)[0], NoSession)


def test_hellos_that_are_replayed_do_not_disturb_those_who_talk() -> None:
    _, session, tap = started()

    async def meet(x: Experimenter) -> None:
        for _ in range(5):
            await lookups(x)
        await x.sleep(10)

    session.perform(meet)
    hellos = [(t, v[0]) for k, t, name, v in tap if (k, name) == ("call", "hello")]

    async def replay(x: Experimenter) -> tuple[int, int]:
        before = sum([(await x.at(f"peer-{i}", Sealed).seals()).handshakes for i in range(8)])
        for to, hello in hellos * 3:
            await x.at(to, Sealed).hello(hello)
        assert all(isinstance(a, Holder) for a in await lookups(x))
        await x.sleep(3)
        return before, sum([(await x.at(f"peer-{i}", Sealed).seals()).handshakes for i in range(8)])

    before, after = session.perform(replay)
    assert after - before <= 2  # pairs that met for the first time, and none that had to meet again


def test_the_window_takes_numbers_out_of_order_and_each_once() -> None:
    window = sealing.Window()
    for number in (1, 5, 3, 4, 2, 900, 899, 1500, 600):
        window.accept(number)
    for number in (1, 5, 3, 900, 1500, 600, 1500 - 1024):  # seen, or too old to know
        with pytest.raises(Replayed):
            window.accept(number)
    window.accept(1500 - 1023)
    window.accept(1 << 80)


# -- the cost -----------------------------------------------------------------------------------------------


def test_sealing_costs_bytes_and_a_handshake_for_each_pair_and_no_further_messages() -> None:
    _, session, _ = started(nodes=16)
    plain = ChordRing(nodes=16, formation="converged")
    open_ = SimSession(plain, seed=1)

    async def traffic(x: Experimenter) -> tuple[int, int]:
        await lookups(x, 300)
        await x.sleep(10)  # everybody has met whom it meets
        before = await x.control.traffic()
        await lookups(x, 300)
        after = await x.control.traffic()
        return after.messages - before.messages, after.bytes - before.bytes

    (messages, size), (plain_messages, plain_size) = session.perform(traffic), open_.perform(traffic)
    assert messages == pytest.approx(plain_messages, rel=0.1)
    # Session, number, tag, and what frames them; a call and an answer alike.
    assert 30 < size / messages - plain_size / plain_messages < 60


@pytest.mark.local
def test_live_peers_talk_sealed_and_outsiders_are_refused() -> None:
    architecture = EncryptedChord(nodes=4)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[list[Any], list[Any], bytes]:
            await architecture.ready(x)
            answers = await lookups(x)
            outside = await settle(x.at("peer-1", Chord).find_successor(7))
            return answers, outside, await x.at("peer-0", Sealed).introduce()

        first = session.perform(experiment)
    assert all(isinstance(a, Holder) for a in first[0])
    assert isinstance(first[1][0], UnknownMethod)
    with open_session("local", EncryptedChord(nodes=1), seed=1) as session:
        again = session.perform(lambda x: x.at("peer-0", Sealed).introduce())
    assert again != first[2], "live keys must not follow from the seed"
