"""Whatever comes through a live node's socket costs its own connection, and nothing else."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "conformance"))

from systems import Client, Lab, Server

from polyarch.core import Broken, Task, Unreachable, settle
from polyarch.core.wire import ANSWER, FAILURE, MAX_FRAME, ONEWAY, REQUEST, encode
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.local.disk import LocalDisk
from polyarch.runtimes.local.session import LocalSession

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def session() -> Iterator[LocalSession]:
    with LocalSession(Lab()) as session:
        yield session


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def connect(session: LocalSession) -> socket.socket:
    return socket.create_connection(("127.0.0.1", session.process.ports["server-0"]), timeout=10)


def read_frame(stream: socket.socket) -> list[object]:
    with stream.makefile("rb") as file:
        return list(msgspec.msgpack.decode(file.read(int.from_bytes(file.read(4), "big"))))


JUNK = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "a length beyond the largest frame": (MAX_FRAME + 1).to_bytes(4, "big"),
    "no MessagePack": framed(b"\xc1\xc1\xc1"),
    "nothing": framed(b""),
    "MessagePack that is no array": framed(encode({"a": 1})),
    "an empty array": framed(encode([])),
    "an unknown kind": framed(encode([99, 1, 2])),
    "a request that is too short": framed(encode([REQUEST, 1, "server-0"])),
    "a request whose name is no text": framed(encode([REQUEST, 1, "server-0", "", ["add"], [1], 0])),
    "a request whose arguments are no array": framed(encode([REQUEST, 1, "server-0", "", "add", 5, 0])),
    "a request whose depth is no number": framed(encode([REQUEST, 1, "server-0", "", "add", [1], "0"])),
    "a one-way whose arguments are a text": framed(encode([ONEWAY, "server-0", "", "note", "x"])),
    "a deep array": framed(b"\x91" * 100_000 + b"\xc0"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_ends_its_connection_and_is_complained_about(session: LocalSession, kind: str) -> None:
    async def complaints(x: Experimenter) -> int:
        assert await x.client.add(1) == 2, "everybody else is served"
        return len((await x.control.traffic()).complaints)

    before = session.perform(complaints)
    with connect(session) as stream:
        stream.sendall(JUNK[kind])
        try:
            assert stream.recv(100) == b""
        except ConnectionResetError:
            pass
    assert session.perform(complaints) == before + 1


def test_frames_after_junk_are_not_handled(session: LocalSession) -> None:
    with connect(session) as stream:
        note = framed(encode([ONEWAY, "server-0", "", "note", ["after the junk"]]))
        stream.sendall(JUNK["an unknown kind"] + note)
        try:
            assert stream.recv(100) == b""
        except ConnectionResetError:
            pass

    async def notes(x: Experimenter) -> list[str]:
        return await x.at("server-0", Server).notes()

    assert "after the junk" not in session.perform(notes)


def test_answers_that_nobody_waits_for_and_half_frames_disturb_nothing(session: LocalSession) -> None:
    with connect(session) as stream:
        stream.sendall(framed(encode([ANSWER, 77, "?", 0, 0, 0])))
        stream.sendall(framed(encode([FAILURE, 78, "x", "y", True, 0, 0, 0])))
        stream.sendall(framed(encode([REQUEST, 70_000, "server-0", "", "add", [1, 2], 0])))
        assert read_frame(stream) == [ANSWER, 70_000, 3, 0, 0, 0]
        stream.sendall(framed(b"x" * 1000)[:500])

    async def works(x: Experimenter) -> int:
        return await x.client.add(1)

    assert session.perform(works) == 2


def test_a_frame_that_comes_byte_by_byte_is_handled(session: LocalSession) -> None:
    with connect(session) as stream:
        for byte in framed(encode([REQUEST, 70_000, "server-0", "", "add", [1, 2], 0])):
            stream.sendall(bytes([byte]))
        assert read_frame(stream) == [ANSWER, 70_000, 3, 0, 0, 0]


def test_a_request_for_a_node_that_is_elsewhere_is_refused(session: LocalSession) -> None:
    with connect(session) as stream:
        stream.sendall(framed(encode([REQUEST, 70_000, "front-0", "", "add", [1], 0])))
        kind, number, code, *_ = read_frame(stream)
        assert (kind, number, code) == (FAILURE, 70_000, Unreachable.code)


def test_a_peer_that_dies_in_the_middle_of_its_reply_breaks_the_call(session: LocalSession) -> None:
    reply = framed(encode([ANSWER, 1, "x" * 100_000, 0, 0, 0]))

    async def experiment(x: Experimenter) -> None:
        process = session.process
        process.places["impostor"] = "impostor"
        process.ports["impostor"] = listener.getsockname()[1]
        call: Task = x.spawn(x.at("impostor", Server, timeout=30.0).add(1))
        await x.sleep(0.05)
        peer, _ = listener.accept()
        peer.recv(1000)
        peer.sendall(reply[:50_000])
        peer.close()
        (outcome,) = await settle(call)
        assert type(outcome) is Broken
        assert "died or closed the connection" in outcome.detail

    with socket.create_server(("127.0.0.1", 0)) as listener:
        session.perform(experiment)


def test_a_web_node_answers_whatever_speaks_http(session: LocalSession) -> None:
    address = session.http_address("front-0")
    with urllib.request.urlopen(f"{address}/sums/40?b=2", timeout=10) as response:
        assert (response.status, response.read()) == (200, b"42")
        assert response.headers["content-type"] == "application/json"
    with urllib.request.urlopen(address, timeout=10) as response:
        assert b"/sums/{a}" in response.read(), "a page that lists what can be asked"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/refusals/sold-out", data=b"", timeout=10)
    assert refused.value.code == 409
    assert refused.value.read() == b'{"error":"sold-out","detail":"product 17: 0 left"}'


def test_http_that_comes_while_a_node_boots_waits_for_it(session: LocalSession) -> None:
    async def experiment(x: Experimenter) -> None:
        for _ in range(3):
            await x.control.crash("front-0")
            restart = x.spawn(x.control.restart("front-0"))
            client = x.at("client-0", Client)
            while True:
                (outcome,) = await settle(client.over_http(41, 10.0))
                if outcome == b"42":
                    break
                assert isinstance(outcome, (Unreachable, Broken)), outcome
                await x.sleep(0.002)
            await restart
        assert not [bug for bug in (await x.control.traffic()).bugs if "front-0" in bug]

    session.perform(experiment)


# -- the disk's file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [1, 5, 9, 20])
def test_a_torn_last_record_is_dropped_and_what_was_synced_is_kept(tmp_path: Path, torn: int) -> None:
    file = tmp_path / "disk.journal"
    disk = LocalDisk(None, file)
    disk.append("log", 1, 2)
    disk._write(disk._pending)
    whole = file.read_bytes()
    disk._pending.clear()
    disk.append("log", "a third entry, which a crash tears")
    disk._write(disk._pending)
    disk.close()
    file.write_bytes(file.read_bytes()[: len(whole) + torn])
    again = LocalDisk(None, file)
    assert again.entries("log", int) == [1, 2]
    again.append("log", 3)
    again._write(again._pending)
    again.close()
    assert LocalDisk(None, file).entries("log", int) == [1, 2, 3]


def test_a_record_whose_bytes_have_changed_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "disk.journal"
    disk = LocalDisk(None, file)
    disk.append("log", 1)
    disk.append("log", 2)
    disk._write(disk._pending)
    disk.close()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert LocalDisk(None, file).entries("log", int) == [1]
