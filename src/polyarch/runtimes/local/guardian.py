"""The main process's side of the janitor: start it, spawn processes through it, signal and await them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyarch.runtimes.local import janitor as janitor_program

__all__ = ["Janitor", "Process"]


class Process:
    """A process of the run: a child of the janitor."""

    def __init__(self, pid: int, janitor: Janitor) -> None:
        self.pid = pid
        self.argv: Sequence[str] = ("?",)
        self.on_exit: Callable[[int], None] | None = None
        """Called once with the status when it has ended."""
        self._janitor = janitor
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def exited(self) -> bool:
        """Whether it has ended and we were told."""
        return self._status.done()

    async def kill(self, signum: int = signal.SIGKILL, *, whole: bool = False) -> bool:
        """Send a signal; to all its descendants too if ``whole``.  False if it had already ended."""
        if self.exited:
            return False
        reply = await self._janitor._ask(do="kill", pid=self.pid, signum=int(signum), whole=whole)
        return bool(reply["sent"])

    async def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._status)

    def _ended(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)
            if self.on_exit is not None:
                self.on_exit(status)

    def __repr__(self) -> str:
        state = f"ended {self._status.result()}" if self.exited else "running"
        return f"<Process {self.pid} {Path(self.argv[0]).name} {state}>"


class Janitor:
    """Spawns the processes of a run; when it or we end, in whatever way, none of them is left."""

    folder: Path
    """The run's temporary folder; others than its owner may pass through it but not list it."""
    _process: subprocess.Popen[bytes]
    _writer: asyncio.StreamWriter
    _listening: asyncio.Task[None]

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self._began = time.time()
        self._pids: set[int] = set()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._asked = 0

    @classmethod
    async def start(cls) -> Janitor:
        """Start the janitor process; OSError if it cannot be started."""
        self = cls()
        ours, its = socket.socketpair()
        try:
            # -I -S: no site-packages, no environment; it needs the standard library only.
            command = [sys.executable, "-I", "-S", janitor_program.__file__]
            pipe = its.fileno()
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        finally:
            its.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        hello = await reader.readline()
        if not hello:
            self._writer.close()
            raise ChildProcessError(f"the janitor ended at once with status {self._process.wait()}")
        self.folder = Path(msgspec.json.decode(hello)["folder"])
        self._listening = asyncio.get_running_loop().create_task(self._listen(reader))
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        namespace: bool = False,
        stop_signal: int = signal.SIGTERM,
    ) -> Process:
        """Start a process.  Its output is appended to ``log``; ``env`` adds to our environment; ``user`` is
        a uid (and gid) to become, for which we must be root, or with ``namespace`` to believe to be, in a
        user namespace that keeps our access to files; ``stop_signal`` asks it to end when the janitor stops.
        OSError if it cannot be started."""
        arguments = [str(argument) for argument in argv]
        reply = await self._ask(
            do="spawn",
            argv=arguments,
            env=dict(env or {}),
            cwd=None if cwd is None else str(cwd),
            log=str(log),
            user=user,
            namespace=namespace,
            stop_signal=int(stop_signal),
        )
        process: Process = reply["process"]
        process.argv = arguments
        return process

    async def stop(self, grace: float = 1.0) -> None:
        """End everything: ask, wait up to ``grace`` seconds, kill; remove the folder.  Safe to repeat."""
        if not self._listening.done():
            with contextlib.suppress(ConnectionError):
                self._send({"id": 0, "do": "shutdown", "grace": grace})
            _, late = await asyncio.wait({self._listening}, timeout=grace + 1.0)
            if late:
                self._process.kill()  # and the kernel kills its children
        await self._listening

    async def __aenter__(self) -> Janitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _send(self, command: Mapping[str, Any]) -> None:
        self._writer.write(msgspec.json.encode(command) + b"\n")

    async def _ask(self, **command: Any) -> dict[str, Any]:
        if self._listening.done():
            raise ChildProcessError("the janitor has ended")
        self._asked += 1
        number = self._asked
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, **command})
        reply = await self._waiting[number]
        if "errno" in reply:
            raise OSError(reply["errno"], reply["error"], reply["file"])
        return reply

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(msgspec.json.decode(line))
        except ConnectionError:
            pass
        self._writer.close()
        self._process.wait()
        self._sweep()

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "exited":
            self.processes.pop(message["pid"])._ended(message["status"])
        elif "id" in message:
            if pid := message.get("pid"):
                # At once, because the next line may say that it has ended.
                message["process"] = self.processes[pid] = Process(pid, self)
                self._pids.add(pid)
            waiting = self._waiting.pop(message["id"])
            if not waiting.done():  # who asked may have gone away
                waiting.set_result(message)

    def _sweep(self) -> None:
        """The janitor has ended; if it was killed, its children were too, and the rest is ours to do."""
        for process in list(self.processes.values()):
            process._ended(-signal.SIGKILL)
        self.processes.clear()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ChildProcessError("the janitor has ended"))
        janitor_program.remove_segments(self._pids, self._began)
        janitor_program.remove_folder(os.fspath(self.folder))
