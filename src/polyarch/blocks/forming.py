"""Waiting until an overlay has formed, and saying what is still missing if it does not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from polyarch.core.errors import Refused
from polyarch.core.system import Architecture, Verdict

__all__ = ["NotFormed", "formed", "until_joined"]

_LONGEST = 300.0  # seconds that an overlay is given after its last peer has begun to join
_ROUNDS = 100  # rounds of upkeep that it is given besides


class NotFormed(Refused, code="not-formed"):
    """An overlay did not form in a time that would have been enough."""


def until_joined(overlay: Architecture, members: int) -> float:
    """Seconds until the last of so many members begins to join; none, if the overlay is built directly."""
    values = overlay.values
    return 0.0 if values.get("formation") == "converged" else float(values["arrival"]) * members


async def formed(
    x: Any, look: Callable[[Any], Awaitable[Verdict]], *, joining: float = 0.0, period: float = 0.0
) -> None:
    """Return when a verdict holds (``x``: an ``Experimenter``); ``x.lacking`` says meanwhile why it does not.
    ``joining``: seconds until the last peer begins to join; ``period``: of its upkeep.  To look at everybody
    is work, so that there are the fewer looks the longer it takes."""
    if joining > 10.0:
        await x.sleep(max(0.0, joining - x.now))  # not before
    begun = x.now
    limit = max(0.0, joining - x.now) + _LONGEST + _ROUNDS * period
    while not (seen := await look(x)).holds:
        x.lacking = f"{seen.name}? {seen.detail}"
        waited = x.now - begun
        if waited > limit:
            raise NotFormed(f"{x.lacking} (after {waited:.0f} s)")
        await x.sleep(max(0.5, waited / 32))
