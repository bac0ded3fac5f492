"""What every runtime offers: a session, in which a declared system runs, is loaded, broken and looked at.

    with open_session(system, seed=1) as session:
        result = session.perform(experiment)       # experiment: async def (x: Experimenter) -> …

The experimenter is itself a node, beside the system and never broken: it sends messages like any other,
and ``x.control`` holds the powers that a runtime has over processes and links.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from polyarch.core.node import Node
from polyarch.core.records import Record

__all__ = [
    "EXPERIMENTER",
    "Control",
    "Experimenter",
    "Given",
    "Named",
    "Rule",
    "Session",
    "SessionError",
    "Traffic",
    "describe_bug",
    "given",
]

T = TypeVar("T")

EXPERIMENTER = "experimenter"
"""The experimenter's process and address: beside the system.  Its messages are never disturbed, and are no
part of the system's traffic."""


class Traffic(Record):
    """What has crossed between the system's processes since the session began."""

    messages: int
    bytes: int
    by_method: dict[str, int] = {}
    unmeasured: int = 0
    """Exchanges (with components) whose bytes could not be counted."""
    bugs: tuple[str, ...] = ()
    """What nodes raised that was not a Failure."""
    complaints: tuple[str, ...] = ()
    """What was dropped because it did not fit: one-way messages, and junk on sockets."""


def describe_bug(where: str, error: BaseException) -> str:
    """One line: the node, what it raised, and in which line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    return f"{where}: {type(error).__name__}: {error}{line}"


@dataclasses.dataclass
class Rule:
    """A disturbance of the messages from ``sources`` to ``targets`` (process names; None: all)."""

    sources: frozenset[str] | None = None
    targets: frozenset[str] | None = None
    loss: float = 0.0
    """Probability that a message is lost; 1 is a (one-way) partition."""
    delay: float = 0.0
    """Seconds added."""
    duplicate: float = 0.0
    """Probability that a message arrives twice."""
    reorder: float = 0.0
    """Probability that a message is held back and overtaken by later ones."""

    def applies(self, source: str, target: str) -> bool:
        """Whether messages from one process to another are disturbed."""
        return (self.sources is None or source in self.sources) and (
            self.targets is None or target in self.targets
        )


class Control(abc.ABC):
    """Powers over processes (named ``role-index``) and links, in runs on every runtime."""

    @abc.abstractmethod
    async def crash(self, process: str) -> None:
        """SIGKILL: unsynced writes are lost, connections are reset."""

    @abc.abstractmethod
    async def restart(self, process: str) -> None:
        """Boot a crashed process again, from its disks; returns when it runs."""

    @abc.abstractmethod
    async def pause(self, process: str) -> None:
        """SIGSTOP."""

    @abc.abstractmethod
    async def resume(self, process: str) -> None:
        """SIGCONT."""

    @abc.abstractmethod
    async def disturb(
        self,
        sources: Sequence[str] | None,
        targets: Sequence[str] | None,
        *,
        loss: float = 0.0,
        delay: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
    ) -> int:
        """Disturb messages from some processes to others (None: all); a loss of 1 is a one-way partition.
        The number of the rule, for ``heal``."""

    @abc.abstractmethod
    async def heal(self, rule: int | None = None) -> None:
        """End one disturbance, or all."""

    @abc.abstractmethod
    async def skew(self, process: str, *, offset: float = 0.0, drift: float = 1.0) -> None:
        """Set the clocks of a process ``offset`` seconds ahead, running ``drift`` times as fast."""

    @abc.abstractmethod
    async def traffic(self) -> Traffic:
        """Messages and bytes between processes so far."""

    @abc.abstractmethod
    async def resources(self) -> dict[str, dict[str, float]]:
        """For each process: what the runtime can measure (``memory_mb``, ``cpu_s``)."""


class Experimenter(Node):
    """The node that runs an experiment."""

    control: Control
    client: Any
    """The first client, through its job's port."""
    lacking: str = ""
    """What the system that is awaited still lacks, as its architecture has seen it last."""


class Named(Record):
    """A class by its place, and the keyword arguments to make one."""

    module: str
    name: str
    file: str
    """Its module's file: for a module that is not on the path, such as a script."""
    values: dict[str, Any]

    @classmethod
    def of(cls, instance: Any, values: dict[str, Any]) -> Named:
        kind = type(instance)
        file = getattr(sys.modules[kind.__module__], "__file__", None) or ""
        return cls(kind.__module__, kind.__qualname__, str(Path(file).absolute()) if file else "", values)

    def make(self) -> Any:
        """The instance."""
        module = sys.modules.get(self.module) if self.module != "__main__" else None
        if module is None:
            module = self._import()
        kind: Any = module
        for part in self.name.split("."):
            kind = getattr(kind, part)
        return kind(**self.values)

    def _import(self) -> Any:
        if self.module != "__main__":
            try:
                return importlib.import_module(self.module)
            except ModuleNotFoundError:
                if not self.file:
                    raise
        name = Path(self.file).stem if self.module == "__main__" else self.module
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


class Given:
    """A wire that is there already: the node holds ``value``."""

    def __init__(self, value: Any) -> None:
        self.value = value


def given(value: Any) -> Any:
    """A value as a node's wire: typed as whatever the field wants."""
    return Given(value)


class SessionError(Exception):
    """A session cannot start or go on; says why in one line."""


class Session(abc.ABC):
    """A system that runs."""

    runtime: str

    @abc.abstractmethod
    def perform(self, experiment: Callable[[Experimenter], Coroutine[Any, Any, T]]) -> T:
        """Run an experiment to its end and give its result; its exceptions come out here."""

    @abc.abstractmethod
    def close(self) -> None:
        """End everything.  Nothing stays behind."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
