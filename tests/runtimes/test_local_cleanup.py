"""However a live session ends, no process, no listening socket and no temporary folder is left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from polyarch.components.base import port_is_free

pytestmark = pytest.mark.local

SYSTEMS = Path(__file__).parent.parent / "conformance"
sys.path.insert(0, str(SYSTEMS))

PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.{handler})
sys.path.insert(0, {systems!r})
from systems import Broke, Lab, Server, Walled
from polyarch.runtimes import open_session
with open_session("local", Lab()) as session:
    ports = [*session.process.ports.values(), *session.process.http_ports.values()]
    pids = [session._janitor.pid, *(child.pid for child in session._children.values())]
    print(*pids, "ports", *ports, flush=True)
    async def experiment(x):
{body}
    session.perform(experiment)
"""


class Main:
    """A program with a live session, and what belongs to it."""

    def __init__(
        self, tmp_path: Path, body: str, *, starts: bool = True, ignores_interrupts: bool = False
    ) -> None:
        handler = "SIG_IGN" if ignores_interrupts else "default_int_handler"
        indented = textwrap.indent(textwrap.dedent(body), " " * 8)
        self.folder = tmp_path
        program = PROGRAM.format(systems=str(SYSTEMS), body=indented, handler=handler)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        self.pids: list[int] = []
        self.ports: list[int] = []
        if starts:
            assert self.process.stdout is not None
            pids, _, ports = self.process.stdout.readline().partition("ports")
            self.pids = [int(pid) for pid in pids.split()]
            self.ports = [int(port) for port in ports.split()]

    def is_complete(self) -> bool:
        """Whether everything runs: processes, sockets, folder."""
        return len(self.pids) > 8 and not any(map(gone, self.pids)) and not any(map(port_is_free, self.ports))

    def left(self) -> list[object]:
        """What is left of it."""
        pids = [pid for pid in self.pids if not gone(pid)]
        every = psutil.process_iter(["cmdline"])
        named = [process.pid for process in every if str(self.folder) in str(process.info["cmdline"])]
        ports = [port for port in self.ports if not port_is_free(port)]
        return [*pids, *named, *ports, *os.listdir(self.folder)]


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nothing_left(main: Main, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while main.left() and time.monotonic() < deadline:
        time.sleep(0.02)
    return main.left() == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Main]]:
    started: list[Main] = []

    def begin(body: str, **options: bool) -> Main:
        started.append(Main(tmp_path, body, **options))
        return started[-1]

    yield begin
    for main in started:
        main.process.kill()
        main.process.communicate()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_the_main_process_is_signalled(start: Callable[..., Main], signum: int) -> None:
    main = start("await x.sleep(100)")
    assert main.is_complete()
    main.process.send_signal(signum)
    main.process.wait(20)
    assert nothing_left(main)


def test_nothing_is_left_when_it_is_killed_while_nodes_are_paused(start: Callable[..., Main]) -> None:
    main = start(
        """
        await x.control.pause("server-0")
        x.spawn(x.client.add(1, 2, 100.0))
        print("paused", flush=True)
        await x.sleep(100)
        """
    )
    assert main.is_complete()
    assert main.process.stdout is not None
    assert main.process.stdout.readline() == "paused\n"
    main.process.kill()
    main.process.wait(20)
    assert nothing_left(main)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_it_is_signalled_while_it_starts(
    start: Callable[..., Main], signum: int
) -> None:
    main = start("await x.sleep(100)", starts=False)
    deadline = time.monotonic() + 20
    while not list(main.folder.glob("*/server-0.spec.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    main.process.send_signal(signum)
    main.process.wait(20)
    assert nothing_left(main)


def test_an_interrupt_is_heard_though_the_shell_has_started_it_in_the_background(
    start: Callable[..., Main],
) -> None:
    main = start("await x.sleep(100)", ignores_interrupts=True)
    assert main.is_complete()
    main.process.send_signal(signal.SIGINT)
    assert main.process.wait(20) != 0
    assert nothing_left(main)


def test_nothing_is_left_after_an_exception_of_the_experiment(start: Callable[..., Main]) -> None:
    main = start("raise LookupError('of the experiment')")
    _, errors = main.process.communicate(timeout=20)
    assert errors.splitlines()[-1] == "LookupError: of the experiment"
    assert nothing_left(main)


def test_nothing_is_left_when_the_session_ends_by_itself(start: Callable[..., Main]) -> None:
    main = start("await x.client.add(1)")
    _, errors = main.process.communicate(timeout=20)
    assert (main.process.returncode, errors) == (0, "")
    assert nothing_left(main)


@pytest.mark.parametrize(
    ("opening", "words"),
    [
        ("Broke()", r"^(member-0|client) did not start: RuntimeError: no way to start$"),
        ("Walled()", r"^the nodes did not start: ValueError: no way to attach$"),
        ("Lab(), http_ports={'front-0': BUSY}", r"^port BUSY is in use: choose another for front-0, or 0"),
    ],
)
def test_what_cannot_start_says_why_in_one_line_and_leaves_nothing(
    tmp_path: Path, opening: str, words: str
) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        program = (
            f"import sys; sys.path.insert(0, {str(SYSTEMS)!r})\n"
            "from systems import Broke, Lab, Walled\n"
            "from polyarch.runtimes import open_session\n"
            "from polyarch.runtimes.base import SessionError\n"
            "try:\n"
            f"    open_session('local', {opening.replace('BUSY', port)})\n"
            "except SessionError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert done.stderr == ""
    assert re.search(words.replace("BUSY", port), done.stdout)
    assert done.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == []
