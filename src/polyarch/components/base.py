"""What all real components have in common: start, wait until healthy, address, stop, kill, start again."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import errno
import random
import shutil
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil

from polyarch.runtimes.local.guardian import Janitor, Process

__all__ = ["Component", "ComponentError", "find_program", "free_port", "port_is_free"]

HOST = "127.0.0.1"

# Below the range from which Linux takes the ports of outgoing connections (32768 on): there, another
# connection could take the port while a component is down, and a client that tries to reach it again and
# again would one day connect to itself.
PORTS = range(20_000, 32_000)


class ComponentError(Exception):
    """A component cannot be started; says why in one line."""


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        # As servers do: what is left of old connections is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    for port in random.SystemRandom().sample(PORTS, 1000):
        if port_is_free(port):
            return port
    raise ComponentError(f"no free port between {PORTS.start} and {PORTS.stop}")


def find_program(name: str, package: str) -> Path:
    """The program that a wheel installed beside our interpreter, or one on the path."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return folder / name
    if found := shutil.which(name):
        return Path(found)
    raise ComponentError(f"{name} is not installed: pip install {package}")


class Component(abc.ABC):
    """A server that is somebody else's program, run as a process on this machine.

    ``start`` also starts it again after ``stop`` or ``kill``, with the same data and on the same port."""

    name: ClassVar[str]
    start_seconds: ClassVar[float] = 10.0
    """How long it may take to become healthy."""
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, *, port: int | None = None) -> None:
        """``port`` None: a free one is chosen at the first start, and kept."""
        self.port = 0 if port is None else port
        self._port_is_given = port is not None
        self._process: Process | None = None

    folder: Path
    janitor: Janitor

    async def start(self, janitor: Janitor, folder: Path) -> None:
        """Start it with its data in ``folder`` (made if need be) and return when it is healthy.
        ComponentError when it does not become so."""
        if self.running:
            raise ComponentError(f"{self.name} is already running")
        self.janitor, self.folder = janitor, folder
        if self._port_is_given and not port_is_free(self.port):
            raise ComponentError(f"port {self.port} is in use: choose another for {self.name}")
        folder.mkdir(parents=True, exist_ok=True)
        await self._prepare()
        for _ in range(3):
            if not self._port_is_given:
                self.port = self.port or free_port()
            if await self._run():
                self._port_is_given = True  # to whoever knows its address by now
                return
            if port_is_free(self.port) or self._port_is_given:
                break
            self.port = 0  # somebody was faster: try another
        raise ComponentError(f"{self.name} did not start: {self._last_words()}")

    async def restart(self) -> None:
        """Start again what was stopped or killed: same data, same port."""
        await self.start(self.janitor, self.folder)

    async def stop(self) -> None:
        """Ask it to end, and make it after two seconds.  Nothing happens if it is not running."""
        if self._process is not None and not self._process.exited:
            await self._process.kill(self.stop_signal)
            try:
                async with asyncio.timeout(2.0):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()

    async def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to all its processes: SIGKILL is a crash (and returns when it is over), SIGSTOP
        and SIGCONT a pause."""
        if self._process is not None:
            await self._process.kill(signum, whole=True)
            if signum == signal.SIGKILL:
                await self._process.wait()

    @property
    def running(self) -> bool:
        return self._process is not None and not self._process.exited

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def pids(self) -> list[int]:
        """All its processes, the first one first; empty when it is not running."""
        if self._process is None or self._process.exited:
            return []
        try:
            main = psutil.Process(self._process.pid)
            return [main.pid, *(child.pid for child in main.children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @abc.abstractmethod
    async def healthy(self) -> bool:
        """Whether it can do its work now."""

    @abc.abstractmethod
    def _command(self) -> list[str | Path]:
        """The program and its arguments; ``self.port`` and ``self.folder`` are set."""

    async def _prepare(self) -> None:  # noqa: B027, most need nothing
        """Put in the folder what it needs before it can run; the port is not chosen yet."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _identity(self) -> Mapping[str, Any]:
        """As whom it runs: the arguments ``user`` and ``namespace`` of ``Janitor.spawn``."""
        return {}

    async def _run(self) -> bool:
        self._process = await self.janitor.spawn(
            self._command(),
            log=self.log,
            env=self._environment(),
            cwd=self.folder,
            stop_signal=self.stop_signal,
            **self._identity(),
        )
        deadline = time.monotonic() + self.start_seconds
        while not self._process.exited and time.monotonic() < deadline:
            if await self.healthy():
                return True
            await asyncio.sleep(0.005)
        await self.kill()
        return False

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
            if words := next((line for line in reversed(lines) if line), None):
                return f"{words[:300]} (see {self.log})"
        return f"it said nothing (see {self.log})"

    async def __aenter__(self) -> Component:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def accepts_connections(port: int) -> bool:
    """Whether somebody listens on this port of the loopback address."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
