"""A small language for faults: ``crash:logic-1@2-4``.

    KIND:WHAT@START[-END]            times in seconds from the start of the load (or ms: 500ms)

    crash:data@2-4                   kill the processes of the role data at 2 s, restart them at 4 s
    crash:logic-1@2                  kill one process; it is restarted when the load is over
    crash:any:logic@2-3              kill one of the role, chosen by the seed
    pause:server-0@1-2               SIGSTOP, SIGCONT
    partition:server-0,server-1|server-2@1-3      cut both ways
    partition:server-0>server-2@1-3               cut one way
    loss:0.1@0-5                     lose a tenth of all messages;  loss:0.1:web>logic@0-5 on some links
    delay:20ms:web|logic@0-5         hold messages up;  duplicate:0.05@0-5  and  reorder:0.05@0-5  likewise
    skew:server-1:0.5@1-3            set a clock half a second ahead

What names a process or a role: a role means all its processes; ``*`` means everything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.runtimes.base import Control

__all__ = ["BadFault", "Fault", "inject", "parse"]

_KINDS = ("crash", "pause", "partition", "loss", "delay", "duplicate", "reorder", "skew")
_EXAMPLE = "such as crash:server-0@2-4, partition:a-0|a-1@1-3 or loss:0.1@0-5"


class BadFault(ValueError):
    """A fault that cannot be understood; says what was wrong and what would be right."""


class Fault(Record):
    """One fault: what happens to whom, from when to when."""

    kind: str
    sources: tuple[str, ...] | None
    """Names of processes; None: all."""
    targets: tuple[str, ...] | None
    """The other side of a link fault."""
    both_ways: bool
    amount: float
    """Probability, or seconds."""
    start: float
    end: float | None
    text: str


def parse(text: str, roles: dict[str, Sequence[str]], random: Random) -> Fault:
    """Read a fault.  ``roles``: the processes of each role; ``random`` chooses for ``any:``."""
    head, at, times = text.rpartition("@")
    kind, colon, what = head.partition(":")
    if not at or kind not in _KINDS:
        import difflib

        near = difflib.get_close_matches(kind, _KINDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(_KINDS)}"
        reason = f"no fault is called {kind!r}; {hint}" if at else "it has no time (@START or @START-END)"
        raise BadFault(f"--fault {text!r}: {reason} ({_EXAMPLE})")
    begin, dash, finish = times.partition("-")
    start, end = _seconds(text, begin), _seconds(text, finish) if dash else None
    if end is not None and end <= start:
        raise BadFault(f"--fault {text!r}: it ends ({end:g} s) before it starts ({start:g} s)")
    if kind in ("crash", "pause"):
        if kind == "pause" and end is None:
            raise BadFault(f"--fault {text!r}: a pause needs an end: pause:{what}@{begin}-END")
        return Fault(kind, _names(text, what, roles, random), None, False, 0.0, start, end, text)
    if end is None:
        raise BadFault(f"--fault {text!r}: {kind} needs an end: {head}@{begin}-END")
    if kind == "partition":
        if "|" not in what and ">" not in what:
            raise BadFault(f"--fault {text!r}: a partition has two sides: partition:A|B@1-3 or A>B one way")
        return _link(kind, what, 1.0, text, roles, random, start, end)
    amount, _, rest = what.partition(":")
    if kind == "skew":
        names = _names(text, amount, roles, random)
        return Fault(kind, names, None, False, _seconds(text, rest), start, end, text)
    value = _seconds(text, amount) if kind == "delay" else _probability(text, amount)
    return _link(kind, rest, value, text, roles, random, start, end)


def _link(
    kind: str, what: str, amount: float, text: str, roles: Any, random: Random, start: float, end: float
) -> Fault:
    if not what:
        return Fault(kind, None, None, False, amount, start, end, text)
    both = "|" in what
    left, separator, right = what.partition("|" if both else ">")
    if not separator:
        raise BadFault(f"--fault {text!r}: links are A|B (both ways) or A>B (one way), not {what!r}")
    a, b = _names(text, left, roles, random), _names(text, right, roles, random)
    return Fault(kind, a, b, both, amount, start, end, text)


def _names(text: str, what: str, roles: dict[str, Sequence[str]], random: Random) -> tuple[str, ...] | None:
    if what == "*":
        return tuple(name for names in roles.values() for name in names)
    known = {name for names in roles.values() for name in names}
    chosen: list[str] = []
    for part in what.split(","):
        if part.startswith("any:") and part[4:] in roles:
            chosen.append(random.choice(list(roles[part[4:]])))
        elif part in roles:
            chosen.extend(roles[part])
        elif part in known:
            chosen.append(part)
        else:
            raise BadFault(
                f"--fault {text!r}: nothing is called {part!r}; roles are {', '.join(roles)}, "
                f"processes are called like {next(iter(roles.values()))[0]}"
            )
    return tuple(dict.fromkeys(chosen))


def _seconds(text: str, word: str) -> float:
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)(ms|s|us)?", word.strip())
    if match is None:
        raise BadFault(f"--fault {text!r}: {word!r} is no time; write seconds (1.5) or milliseconds (200ms)")
    return float(match[1]) * {"ms": 1e-3, "us": 1e-6, "s": 1.0, None: 1.0}[match[2]]


def _probability(text: str, word: str) -> float:
    try:
        value = float(word.rstrip("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadFault(f"--fault {text!r}: {word!r} is no probability; write 0.1 or 10%")
    return value


async def inject(x: Any, fault: Fault, begin: float) -> None:
    """Do one fault to a running system at its times (``x``: an ``Experimenter``; ``begin``: its ``now`` at
    the start of the load).  What it began, it ends; a crash without an end is left to the end of the run."""
    control: Control = x.control
    await x.sleep(begin + fault.start - x.now)
    rules: list[int] = []
    names = fault.sources or ()
    if fault.kind == "crash":
        for name in names:
            await control.crash(name)
    elif fault.kind == "pause":
        for name in names:
            await control.pause(name)
    elif fault.kind == "skew":
        for name in names:
            await control.skew(name, offset=fault.amount)
    else:
        what = {"loss" if fault.kind == "partition" else fault.kind: fault.amount}
        rules.append(await control.disturb(fault.sources, fault.targets, **what))
        if fault.both_ways:
            rules.append(await control.disturb(fault.targets, fault.sources, **what))
    if fault.end is None:
        return
    await x.sleep(begin + fault.end - x.now)
    for name in names if not rules else ():
        if fault.kind == "crash":
            await control.restart(name)
        elif fault.kind == "pause":
            await control.resume(name)
        else:
            await control.skew(name)
    for rule in rules:
        await control.heal(rule)
