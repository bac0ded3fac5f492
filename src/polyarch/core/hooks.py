"""Hooks: methods that a base class leaves to those who stand on it.

A method that does nothing but ``raise NotImplementedError`` is one: an operation of a port, or what a block
asks of a protocol.  Nobody can declare a node whose class leaves one open (docs/decisions/0010).
"""

from __future__ import annotations

import dis
from collections.abc import Callable
from typing import Any, cast

__all__ = ["open_hooks"]


def open_hooks(cls: type) -> tuple[str, ...]:
    """What a class leaves open, each with where it is asked for: ``get (polyarch/jobs/kv.py:36)``."""
    cached = cls.__dict__.get("__polyarch_hooks__")
    if cached is None:
        withheld: frozenset[str] = getattr(cls, "withheld", frozenset())
        defined = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        cached = tuple(
            f"{name} ({_place(value)})"
            for name, value in defined.items()
            if name not in withheld and _is_hook(value)
        )
        cls.__polyarch_hooks__ = cached  # type: ignore[attr-defined]
    return cast("tuple[str, ...]", cached)


def _is_hook(value: Any) -> bool:
    code = getattr(value, "__code__", None)
    # The names first, which only a hook has: to look at all that a function does takes longer.
    return (
        code is not None
        and code.co_names == ("NotImplementedError",)
        and not any(i.opname in ("RETURN_VALUE", "RETURN_CONST") for i in dis.get_instructions(code))
    )


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__.replace('.', '/')}.py:{function.__code__.co_firstlineno}"
