"""Where nodes run.  ``open_session("sim" or "local", architecture, …)`` opens a session on any runtime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyarch.core.node import Node
    from polyarch.core.system import Architecture
    from polyarch.runtimes.base import Session

__all__ = ["RUNTIMES", "open_session"]

RUNTIMES = {
    "sim": "polyarch.runtimes.sim.session:SimSession",
    "local": "polyarch.runtimes.local.session:LocalSession",
}
"""Every runtime's session; imported only when it is asked for, with what it needs."""


def open_session(
    runtime: str,
    architecture: Architecture,
    *,
    seed: int = 0,
    per_process: int = 1,
    beside_clients: Sequence[Node] = (),
    **options: Any,
) -> Session:
    """Start an architecture on a runtime.  ``per_process``: instances of a role of one node that share a
    process.  ``beside_clients``: further nodes of the clients' process.  ``options`` are the runtime's own
    (``network`` on ``sim``, ``http_ports`` on ``local``)."""
    if runtime not in RUNTIMES:
        raise ValueError(f"no runtime is called {runtime!r}; there are: {', '.join(RUNTIMES)}")
    module, _, name = RUNTIMES[runtime].partition(":")
    session = getattr(importlib.import_module(module), name)
    opened: Session = session(
        architecture, seed=seed, per_process=per_process, beside_clients=beside_clients, **options
    )
    return opened
