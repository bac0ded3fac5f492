"""A live disk: one journal file per node, written and fsynced at ``sync``.

Until then writes are in this process's memory, so that SIGKILL loses what a power failure would.  The
journal is a sequence of records, each with its length and CRC; a torn last record is what a crash in the
middle of a write leaves, and is dropped when the node starts again.
"""

from __future__ import annotations

import asyncio
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from polyarch.core.disk import Disk
from polyarch.core.errors import Broken
from polyarch.core.tasks import Suspension, Task
from polyarch.core.wire import encode

__all__ = ["LocalDisk"]

T = TypeVar("T")

_HEAD = struct.Struct(">II")  # length and CRC-32 of the record that follows
_flushers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="disk")


class LocalDisk(Disk):
    """See ``core.disk``.  Values are held encoded: nobody shares an object with the disk."""

    def __init__(self, env: Any, file: Path) -> None:
        self._env = env
        self._file = file
        self._values: dict[str, bytes] = {}
        self._logs: dict[str, list[bytes]] = {}
        self._pending: list[bytes] = []
        self._waiting: list[Task] = []
        self._flushing = False
        self.syncs = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        self._load()
        self._compact()
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND)

    def put(self, name: str, value: Any) -> None:
        data = encode(value)
        self._values[name] = data
        self._pending.append(encode(("=", name, data)))

    def get(self, name: str, of: type[T], default: T) -> T:
        data = self._values.get(name)
        return default if data is None else msgspec.msgpack.decode(data, type=of)

    def append(self, name: str, *values: Any) -> None:
        data = [encode(value) for value in values]
        self._logs.setdefault(name, []).extend(data)
        self._pending.append(encode(("+", name, data)))

    def truncate(self, name: str, length: int) -> None:
        del self._logs.setdefault(name, [])[length:]
        self._pending.append(encode(("-", name, length)))

    def entries(self, name: str, of: type[T]) -> list[T]:
        decoder = msgspec.msgpack.Decoder(of)
        return [decoder.decode(data) for data in self._logs.get(name, ())]

    def sync(self) -> Suspension:
        return _Sync(self)

    def _flush(self) -> None:
        """Write what is pending now; who asks while this runs shares the next flush (group commit)."""
        self._flushing = True
        records, self._pending = self._pending, []
        tasks, self._waiting = self._waiting, []
        future = asyncio.get_running_loop().run_in_executor(_flushers, self._write, records)
        self.syncs += 1

        def done(future: asyncio.Future[None]) -> None:
            self._flushing = False
            if self._waiting:
                self._flush()
            error = future.exception()
            for task in tasks:
                if error is None:
                    self._env.process.event(task.resume)
                else:
                    self._env.process.event(task.throw, Broken(f"the disk failed: {error}"))

        future.add_done_callback(done)

    def _write(self, records: list[bytes]) -> None:
        view = memoryview(_framed(records))
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)

    def _load(self) -> None:
        data = self._file.read_bytes() if self._file.exists() else b""
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            record = data[at + _HEAD.size : at + _HEAD.size + length]
            if len(record) < length or crc32(record) != crc:
                break  # torn: it was never synced
            kind, name, change = msgspec.msgpack.decode(record)
            if kind == "=":
                self._values[name] = change
            elif kind == "+":
                self._logs.setdefault(name, []).extend(change)
            else:
                del self._logs.setdefault(name, [])[change:]
            at += _HEAD.size + length

    def _compact(self) -> None:
        """Begin a journal that holds the present state and nothing else."""
        records = [encode(("=", name, data)) for name, data in self._values.items()]
        records += [encode(("+", name, log)) for name, log in self._logs.items() if log]
        fresh = self._file.with_suffix(".new")
        with open(fresh, "wb") as file:
            file.write(_framed(records))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)

    def close(self) -> None:
        """What is pending is lost: a node has no last words."""
        os.close(self._fd)


def _framed(records: list[bytes]) -> bytes:
    return b"".join(_HEAD.pack(len(record), crc32(record)) + record for record in records)


class _Sync(Suspension):
    __slots__ = ("disk",)

    def __init__(self, disk: LocalDisk) -> None:
        self.disk = disk

    def suspend(self, task: Task) -> None:
        self.disk._waiting.append(task)
        if not self.disk._flushing:
            self.disk._flush()
