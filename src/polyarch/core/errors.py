"""The two kinds of failure, and everything that follows from them.

``Refused``: it definitely did not happen.  The caller may safely do something else.
``Timeout``: it may have happened.  The caller may only retry what is idempotent, or find out.

In a history of operations they become ``fail`` and ``info``.  Every other error of the system is one of
these two, with a code that programs can compare and a sentence that people can read (the division is
Maelstrom's and Jepsen's: definite and indefinite errors).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadArguments",
    "Broken",
    "Conflict",
    "Failure",
    "Overloaded",
    "Refused",
    "Timeout",
    "TooLarge",
    "UnknownMethod",
    "Unreachable",
    "failure_from_wire",
]


class Failure(Exception):
    """What an operation can end with instead of a result; always a ``Refused`` or a ``Timeout``."""

    code: ClassVar[str] = "failure"
    definite: ClassVar[bool] = False
    _by_code: ClassVar[dict[str, type[Failure]]] = {}

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __init_subclass__(cls, code: str | None = None) -> None:
        super().__init_subclass__()
        if code is not None:
            known = Failure._by_code.get(code)
            if known is not None and not _is_again(known, cls):
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}: the code {code!r} is that of "
                    f"{known.__module__}.{known.__qualname__}"
                )
            cls.code = code
            Failure._by_code[code] = cls

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def _is_again(known: type, new: type) -> bool:
    """Whether it is the same class of a module that is loaded twice: a script, and again under its name."""
    modules = {kind.__module__.rpartition(".")[2] for kind in (known, new)}
    return known.__qualname__ == new.__qualname__ and (len(modules) == 1 or "__main__" in modules)


class Refused(Failure, code="refused"):
    """It did not happen, and will not.  Services raise it (or a subclass) to say no."""

    definite = True


class Timeout(Failure, code="timeout"):
    """No answer came in time: it may have happened, may still happen, or may never."""


class BadArguments(Refused, code="bad-arguments"):
    """The arguments do not fit the method's signature; the handler was not entered."""


class UnknownMethod(Refused, code="unknown-method"):
    """The node has no such method."""


class TooLarge(Refused, code="too-large"):
    """The message is larger than the runtime carries; it was not sent."""


class Unreachable(Refused, code="unreachable"):
    """Nobody listens at the address: the message never left."""


class Conflict(Refused, code="conflict"):
    """A transaction gave way to another one and was rolled back; it may be tried again."""


class Overloaded(Refused, code="overloaded"):
    """There is too much to do already: it was not begun, and may be tried again later or elsewhere."""


class Broken(Timeout, code="broken"):
    """The other side failed in the middle (an exception that is not a Failure, a connection that died):
    part of the work may have happened."""


def failure_from_wire(code: str, detail: str, definite: bool) -> Failure:
    """Rebuild a failure that arrived in a message.  One whose class this process does not know (a service's
    own subclass of ``Refused``) keeps its kind, its code and its words."""
    kind = Failure._by_code.get(code)
    if kind is None or kind.definite != definite:
        kind = Refused if definite else Timeout
    failure = kind.__new__(kind)  # a subclass may have an __init__ of its own
    Failure.__init__(failure, detail)
    if failure.code != code:
        failure.code = code  # type: ignore[misc]
    return failure
