"""A simulated disk: what was not synced is lost in a crash, and a sync takes time."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from polyarch.core.disk import Disk
from polyarch.core.messages import encode
from polyarch.core.tasks import Suspension, Task

__all__ = ["SimDisk"]

T = TypeVar("T")


class SimDisk(Disk):
    """The state as its writer sees it, the durable state, and the journal of writes between them.
    Everything is held encoded, so that nobody shares an object with the disk."""

    __slots__ = ("_durable", "_env", "_flushing", "_journal", "_state", "_waiting", "sync_ns")

    def __init__(self, env: Any, sync_ns: int) -> None:
        self._env = env
        self.sync_ns = sync_ns
        """How long one flush takes, in nanoseconds."""
        self._state: dict[str, bytes | list[bytes]] = {}
        self._durable: dict[str, bytes | list[bytes]] = {}
        self._journal: list[tuple[str, Any]] = []
        self._waiting: list[Task] = []
        self._flushing = False

    def put(self, name: str, value: Any) -> None:
        self._write(name, encode(value))

    def append(self, name: str, *values: Any) -> None:
        self._write(name, [encode(v) for v in values])

    def truncate(self, name: str, length: int) -> None:
        self._write(name, length)

    def get(self, name: str, of: type[T], default: T) -> T:
        data = self._state.get(name)
        return default if data is None else msgspec.msgpack.decode(data, type=of)  # type: ignore[arg-type]

    def entries(self, name: str, of: type[T]) -> list[T]:
        decoder = msgspec.msgpack.Decoder(of)
        return [decoder.decode(data) for data in self._state.get(name, ())]  # type: ignore[arg-type]

    def _write(self, name: str, change: Any) -> None:
        _apply(self._state, name, change)
        self._journal.append((name, change))

    def sync(self) -> Suspension:
        return _Sync(self)

    def _flush(self) -> None:
        """Write the journal as it is now; who asks while this runs shares the next flush."""
        self._flushing = True
        env, writes = self._env, len(self._journal)
        tasks, self._waiting = self._waiting, []

        def done() -> None:
            for name, change in self._journal[:writes]:
                _apply(self._durable, name, change)
            del self._journal[:writes]
            self._flushing = False
            if self._waiting:
                self._flush()
            for task in tasks:
                task.resume()

        env.kernel.at(env.kernel.now + self.sync_ns, env, done)

    def crash(self, env: Any, kept: float = 0.0) -> None:
        """Lose what was not synced, but for a part ``kept``, the oldest, which has reached the disk all the
        same, the last of it torn; the disk goes to the node's next incarnation, ``env``."""
        if kept:
            whole = min(int(kept * len(self._journal)), len(self._journal) - 1)
            for name, change in self._journal[:whole]:
                _apply(self._durable, name, change)
            for name, change in self._journal[whole : whole + 1]:
                if isinstance(change, list):  # of several entries some; a single value is whole or absent
                    _apply(self._durable, name, change[: len(change) // 2])
        self._journal = []
        self._waiting = []
        self._flushing = False
        self._state = {n: v if isinstance(v, bytes) else list(v) for n, v in self._durable.items()}
        self._env = env


def _apply(state: dict[str, bytes | list[bytes]], name: str, change: bytes | list[bytes] | int) -> None:
    if isinstance(change, bytes):
        state[name] = change
    elif isinstance(change, list):
        state.setdefault(name, []).extend(change)  # type: ignore[union-attr]
    else:
        del state.setdefault(name, [])[change:]  # type: ignore[union-attr]


class _Sync(Suspension):
    __slots__ = ("disk",)

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk

    def suspend(self, task: Task) -> None:
        self.disk._waiting.append(task)
        if not self.disk._flushing:
            self.disk._flush()
