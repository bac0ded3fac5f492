"""Relays: nodes that offer a port and do none of it themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from polyarch.core import Node
from polyarch.core.messages import schema_of

__all__ = ["relaying"]

P = TypeVar("P", bound=Node)


def relaying(port: type[P]) -> type[P]:
    """A base class with the operations of ``port``, each of which calls the same one of ``self.behind``:
    ``class Front(relaying(Shop), Web): behind: Orchestrator`` speaks HTTP, and holds no logic."""
    relays = {name: _relay(name, method.function) for name, method in schema_of(port).methods.items()}
    return cast("type[P]", type(f"Relaying{port.__name__}", (port,), relays))


def _relay(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # It wraps the port's method: the signature, the route and the words stay those of the port.
    @functools.wraps(function)
    async def relay(self: Any, *arguments: Any) -> Any:
        return await getattr(self.behind, name)(*arguments)

    return relay
