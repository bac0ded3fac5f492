"""Where nodes run: ``open_session`` opens a runtime by its name."""

from __future__ import annotations

from typing import Any

from polyarch.core.system import Architecture
from polyarch.runtimes.base import Session

__all__ = ["RUNTIMES", "open_session"]

RUNTIMES = ("sim", "local")


def open_session(runtime: str, architecture: Architecture, **options: Any) -> Session:
    """A session of ``architecture`` on a runtime, with the options of that runtime's session class."""
    # Imported when asked for: a simulation needs no sockets, and no database client.
    if runtime == "sim":
        from polyarch.runtimes.sim.session import SimSession

        return SimSession(architecture, **options)
    if runtime == "local":
        from polyarch.runtimes.local.session import LocalSession

        return LocalSession(architecture, **options)
    raise ValueError(f"there is no runtime {runtime!r}; there are: {', '.join(RUNTIMES)}")
