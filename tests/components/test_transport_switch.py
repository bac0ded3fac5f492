"""The transport-layer switch forwards what it is given, whatever its two sides do."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psutil
import pytest

from polyarch.components import proxy_protocol
from polyarch.components.base import accepts_connections, free_port
from polyarch.components.forwarder import Settings
from polyarch.components.transport_switch import TransportSwitchServer

pytestmark = pytest.mark.local

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def listening(serve: Serve, port: int = 0) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def named(name: bytes) -> Serve:
    """Says its name, then echoes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    return serve


async def name_of(switch: TransportSwitchServer) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
    name = await reader.readexactly(1)
    writer.close()
    return name


def with_switch(
    local: Any, folder: Path, test: Callable[[TransportSwitchServer], Any], *serves: Serve, **settings: Any
) -> None:
    """Run a test with a switch before servers of these kinds."""

    async def run() -> None:
        servers = [await listening(serve) for serve in serves]
        switch = TransportSwitchServer([address for _, address in servers], **settings)
        await switch.start(local.janitor, folder)
        try:
            await test(switch)
        finally:
            await switch.kill()
            for server, _ in servers:
                server.close()

    local.run(run())


def test_connections_go_round_and_a_dead_server_costs_none_of_them(local: Any, tmp_path: Path) -> None:
    async def run() -> None:
        (a, at_a), (b, at_b) = await listening(named(b"a")), await listening(named(b"b"))
        nobody = f"127.0.0.1:{free_port()}"
        switch = TransportSwitchServer([at_a, at_b, nobody], check_seconds=0.0)
        await switch.start(local.janitor, tmp_path)
        try:
            names = Counter([await name_of(switch) for _ in range(30)])
            assert set(names) == {b"a", b"b"}
            assert min(names.values()) >= 10
            b.close()
            await switch.change([at_a])
            await asyncio.sleep(0.2)
            assert {await name_of(switch) for _ in range(10)} == {b"a"}
            switch.settings.weights = {at_a: -1.0}
            await switch.change([nobody])  # makes no sense: all stays as it was
            await asyncio.sleep(0.1)
            assert await name_of(switch) == b"a"
        finally:
            await switch.kill()
            a.close()

    local.run(run())


def test_servers_come_and_go_under_load_and_no_connection_is_lost(local: Any, tmp_path: Path) -> None:
    async def run() -> None:
        servers = dict([(await listening(named(name)))[::-1] for name in (b"a", b"b", b"c")])
        switch = TransportSwitchServer(list(servers), policy="least_connections", check_seconds=0.05)
        await switch.start(local.janitor, tmp_path)
        names: list[bytes] = []
        over = False

        async def load() -> None:
            while not over:
                names.append(await name_of(switch))

        clients = [asyncio.create_task(load()) for _ in range(4)]
        try:
            files = psutil.Process(switch.pids[0]).num_fds()
            for address, server in list(servers.items()):
                await switch.change([other for other in servers if other != address])
                await asyncio.sleep(0.1)
                server.close()  # nobody notices
                await asyncio.sleep(0.05)
                servers[address], _ = await listening(named(b"n"), int(address.rpartition(":")[2]))
                await switch.change(list(servers))
                await asyncio.sleep(0.1)
            over = True
            await asyncio.gather(*clients)
            assert set(names[-10:]) == {b"n"}
            assert len(names) > 30
            assert connections(switch) == 0 or await settled(switch)
            assert psutil.Process(switch.pids[0]).num_fds() <= files + 3  # checks that are under way
        finally:
            await switch.kill()
            for server in servers.values():
                server.close()

    local.run(run())


async def settled(switch: TransportSwitchServer) -> bool:
    """Whether all its connections end within a second."""
    for _ in range(50):
        if not connections(switch):
            return True
        await asyncio.sleep(0.02)
    return False


def test_a_server_that_hangs_is_found_out_by_checks_and_no_client_waits_for_it_until_it_is_well(
    local: Any, tmp_path: Path
) -> None:
    async def run() -> None:
        hung = socket.socket()
        hung.bind(("127.0.0.1", 0))
        hung.listen(0)
        at_hung = f"127.0.0.1:{hung.getsockname()[1]}"
        filling = [socket.socket() for _ in range(3)]
        for sock in filling:  # its backlog is full: the kernel answers nobody who wants to connect
            sock.setblocking(False)
            sock.connect_ex(hung.getsockname())
        server, address = await listening(named(b"a"))
        switch = TransportSwitchServer(
            [address, at_hung], check_seconds=0.05, shun_seconds=0.05, connect_seconds=0.3
        )
        await switch.start(local.janitor, tmp_path)
        try:
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            waits = []
            while (now := time.monotonic()) < begin + 0.8:
                assert await name_of(switch) == b"a"
                waits.append(time.monotonic() - now)
                await asyncio.sleep(0.02)
            slow = [wait for wait in waits if wait > 0.25]
            assert len(slow) < 0.25 * len(waits), "about every second one would try the server that hangs"
            for sock in filling:
                sock.close()
            again = await asyncio.start_server(named(b"h"), sock=hung)
            for _ in range(100):
                if await name_of(switch) == b"h":
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("it is never used again")
            again.close()
        finally:
            await switch.kill()
            server.close()

    local.run(run())


def test_hashing_spreads_connections_and_keeps_a_client_that_a_proxy_names(
    local: Any, tmp_path: Path
) -> None:
    async def proxied(switch: TransportSwitchServer, client: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(proxy_protocol.encode((client, 1000), ("198.51.100.1", 80), 2))
        name = await reader.readexactly(1)
        writer.close()
        return name

    async def by_connection(switch: TransportSwitchServer) -> None:
        assert len({await name_of(switch) for _ in range(30)}) == 3

    async def by_client(switch: TransportSwitchServer) -> None:
        homes = {client: {await proxied(switch, client) for _ in range(3)} for client in clients}
        assert all(len(home) == 1 for home in homes.values())
        assert len(set.union(*homes.values())) == 3

    clients = [f"192.0.2.{i}" for i in range(15)]
    servers = [named(name) for name in (b"a", b"b", b"c")]
    with_switch(local, tmp_path, by_connection, *servers, policy="maglev")
    more: Any = {"policy": "rendezvous", "affinity": "client", "accept_proxy": True}
    with_switch(local, tmp_path, by_client, *servers, **more)


def test_with_few_descriptors_it_serves_few_at_a_time_and_all_in_the_end(local: Any, tmp_path: Path) -> None:
    async def run() -> None:
        server, address = await listening(named(b"a"))
        port = free_port()
        file = tmp_path / "switch.json"
        file.write_bytes(msgspec.json.encode(Settings(f"127.0.0.1:{port}", [address])))
        begin = "import resource as r, sys; r.setrlimit(r.RLIMIT_NOFILE, (60, 60))"
        then = "from polyarch.components.forwarder import main; main(sys.argv[1])"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"{begin}; {then}", file)
        try:
            while not await accepts_connections(port):
                await asyncio.sleep(0.02)
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
            for i, (reader, _) in enumerate(clients):
                assert await asyncio.wait_for(reader.readexactly(1), 5) == b"a"
                if i >= 5:  # before that, all that there are descriptors for are held
                    clients[i - 5][1].close()
            for _, writer in clients:
                writer.close()
            assert process.returncode is None
        finally:
            process.kill()
            await process.wait()
            server.close()

    local.run(run())


def test_a_megabyte_arrives_whole_in_both_directions_at_a_slow_client(local: Any, tmp_path: Path) -> None:
    async def test(switch: TransportSwitchServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port, limit=2048)
        payload = bytes(range(256)) * 16_384  # 4 MB

        async def send() -> None:
            writer.write(payload)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(1) == b"a"
        await asyncio.sleep(0.3)  # all buffers on the way fill up
        process = psutil.Process(switch.pids[0])
        assert process.memory_info().rss < 80e6
        used = process.cpu_times().user + process.cpu_times().system
        await asyncio.sleep(0.3)
        assert (
            process.cpu_times().user + process.cpu_times().system - used < 0.1
        )  # it waits, and does not spin
        got = await reader.read(-1)
        await sending
        assert got == payload
        writer.close()

    with_switch(local, tmp_path, test, named(b"a"))


def test_many_connections_at_once_keep_their_bytes_apart(local: Any, tmp_path: Path) -> None:
    async def one(switch: TransportSwitchServer, number: int) -> None:
        dice = Random(number)
        pieces = [dice.randbytes(dice.choice([1, 100, 5_000, 70_000, 200_000])) for _ in range(8)]
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)

        async def send() -> None:
            for piece in pieces:  # the first of them before the switch has reached a server
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(dice.choice([0, 0, 0.005]))
            writer.write_eof()

        sending = asyncio.create_task(send())
        got = b""
        while data := await reader.read(dice.choice([10, 1_000, 100_000])):
            got += data
        await sending
        assert got[:1] in (b"a", b"b")
        assert got[1:] == b"".join(pieces)
        writer.close()

    async def test(switch: TransportSwitchServer) -> None:
        await asyncio.gather(*(one(switch, number) for number in range(30)))
        await asyncio.sleep(0.1)
        assert connections(switch) == 0

    with_switch(
        local, tmp_path, test, named(b"a"), named(b"b"), check_seconds=0.0, policy="least_connections"
    )  # fmt: skip


def test_a_half_closed_connection_still_carries_the_answer(local: Any, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(-1)  # to the end
        await asyncio.sleep(0.1)
        writer.write(b"you said " + asked)
        writer.close()

    async def test(switch: TransportSwitchServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read(-1) == b"you said hello"
        writer.close()

    with_switch(local, tmp_path, test, serve)


def test_a_server_that_dies_in_mid_response_resets_its_client(local: Any, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(await reader.read(4)) < 4:
            return writer.close()  # it was asked whether it lives; older Pythons leave that open
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )
        writer.transport.abort()

    async def test(switch: TransportSwitchServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(b"GET ")
        with pytest.raises(ConnectionResetError):
            while await reader.read(100):
                pass
            raise AssertionError("it looked like the end of the response")
        writer.close()
        await asyncio.sleep(0.1)
        assert connections(switch) == 0

    with_switch(local, tmp_path, test, serve)


def connections(switch: TransportSwitchServer) -> int:
    """Sockets of the switch that lead somewhere, but to checks."""
    found = psutil.Process(switch.pids[0]).net_connections("tcp")
    return sum(c.status not in (psutil.CONN_LISTEN,) for c in found)


def test_nothing_is_left_of_clients_that_vanish_or_say_nothing(local: Any, tmp_path: Path) -> None:
    async def test(switch: TransportSwitchServer) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", switch.port) for _ in range(10)]
        for _, writer in silent[:5]:
            writer.transport.abort()
        await asyncio.sleep(0.9)  # idle_seconds is 0.5
        assert connections(switch) == 0
        for _, writer in silent:
            writer.close()
        assert await name_of(switch) == b"a"

    with_switch(local, tmp_path, test, named(b"a"), idle_seconds=0.5, check_seconds=0.0)


def test_it_drains(local: Any, tmp_path: Path) -> None:
    async def test(switch: TransportSwitchServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        await reader.readexactly(1)
        await switch.drain()
        await asyncio.sleep(0.2)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        await asyncio.sleep(0.5)
        assert not switch.running

    with_switch(local, tmp_path, test, named(b"a"))


@pytest.mark.parametrize("version", [1, 2])
def test_servers_are_told_who_the_client_is(local: Any, tmp_path: Path, version: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (found := proxy_protocol.parse(data)) is None:
            more = await reader.read(1000)
            if not more:  # a health check
                writer.close()
                return
            data += more
        data += await reader.read(-1)  # who closes with something unread resets the connection
        writer.write(f"{found[0].source}:{found[0].source_port} {data[found[1] :].decode()}".encode())
        writer.close()

    async def test(switch: TransportSwitchServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        header = proxy_protocol.encode(("192.0.2.7", 4711), ("198.51.100.1", 80), 3 - version)
        for byte in header:  # in as many pieces as there can be
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.write(b"payload")
        writer.write_eof()
        answer = await reader.read(-1)
        assert answer == b"192.0.2.7:4711 payload"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", switch.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no header of the protocol
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

    with_switch(local, tmp_path, test, serve, send_proxy=version, accept_proxy=True)


def test_when_no_server_accepts_the_client_is_cut_off_at_once(local: Any, tmp_path: Path) -> None:
    async def run() -> None:
        switch = TransportSwitchServer([f"127.0.0.1:{free_port()}"])
        await switch.start(local.janitor, tmp_path)
        try:
            reader, _ = await asyncio.open_connection("127.0.0.1", switch.port)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 2)
        finally:
            await switch.kill()

    local.run(run())
