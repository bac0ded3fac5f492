"""Rules that exist for safety, each as a switch: all are on, unless a test wants to see what happens without
one (``TwoPhaseCommit(without="forced_decision")``).
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from polyarch.core.records import Record
from polyarch.core.system import Architecture

__all__ = ["Guarded"]


class Guarded(Architecture):
    """An architecture with safeguards.  Its option ``without`` is none of the command line."""

    Safeguards: ClassVar[type[Record]]
    """One boolean field for each rule, all true."""

    def __init__(self, *, without: str = "", **values: Any) -> None:
        super().__init__(**values)
        known = self.Safeguards.__struct_fields__
        if without and without not in known:
            raise ValueError(f"there is no safeguard {without!r}; there are: {', '.join(known)}")
        self.without = without

    @property
    def values(self) -> dict[str, Any]:
        return {**super().values, **({"without": self.without} if self.without else {})}

    @property
    def safeguards(self) -> Any:
        """The rules that are on."""
        return msgspec.convert({self.without: False} if self.without else {}, self.Safeguards)
