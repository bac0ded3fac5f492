"""The command line, run in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from polyarch.cli.main import main


class Polyarch:
    """Runs a command line: exit code, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    def complaint(self, *arguments: object) -> str:
        """The one line with which bad use ends."""
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("polyarch: ")
        assert err.count("\n") == 1
        return err


@pytest.fixture
def polyarch(capsys: pytest.CaptureFixture[str]) -> Iterator[Polyarch]:
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    modules = set(sys.modules)
    yield Polyarch(capsys)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    for name in set(sys.modules) - modules:  # users' files
        if not name.startswith("polyarch") and "pytest" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


STORE = '''
"""A store of the user's own."""

from polyarch.core import Architecture, Node, System, parameter, rpc
from polyarch.jobs.kv import KeyValue, Kv, Value


class Store(KeyValue):
    forgets: bool = False

    async def start(self) -> None:
        self.data = {}

    @rpc
    async def get(self, key: str) -> Value:
        return None if self.forgets else self.data.get(key)

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        self.data[key] = value

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        if self.data.get(key) != expected:
            return False
        self.data[key] = value
        return True


class Client(KeyValue):
    store: Store

    @rpc
    async def get(self, key: str) -> Value:
        return await self.store.get(key)

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.store.put(key, value)

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return await self.store.compare_and_set(key, expected, value)


class OneStore(Architecture):
    "One server holds everything."

    family = "client-server"
    source = "none"
    jobs = (Kv,)
    forgets: bool = parameter(False, "whether reads find nothing")
    cache_size: int = parameter(1, "of no use", least=1)

    def build(self, system: System) -> None:
        store = Store(forgets=self.forgets)
        system.role("server", store)
        system.clients(Client(store=store))
'''


@pytest.fixture
def store(tmp_path):
    """An architecture in a file of the user's own, outside of any package."""
    file = tmp_path / "one_store.py"
    file.write_text(STORE)
    return file
