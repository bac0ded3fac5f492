"""Cycles: what epidemic protocols call their periods, in which every member acts once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from polyarch.core.node import Node

__all__ = ["in_cycles"]


def in_cycles(node: Node, seconds: float, act: Callable[[], Any], *, together: bool = False) -> None:
    """Call ``act`` (plain or async) once in each period of so many seconds.

    As systems do it, each node begins anywhere in its period, and periods vary by a tenth.  ``together``: all
    nodes act at the same moments, the multiples of the period by their own clocks.  That is the synchronous
    model of the papers, if messages take much less than a period: what a node learns in a cycle it passes on
    in the next one.
    """
    if not together:
        node.every(seconds, act, jitter=0.1)
        return

    def next_cycle() -> None:
        following = math.floor(node.now / seconds + 0.5) + 1
        node.after(following * seconds - node.now, cycle)

    def cycle() -> Any:
        next_cycle()
        return act()

    next_cycle()
