"""A small language for faults: ``crash:logic-1@2-4``.

    KIND:WHAT@START[-END]            times in seconds from the start of the load (or 500ms, 20us)

    crash:data@2-4                   kill the processes of the role data at 2 s, restart them at 4 s
    crash:logic-1@2                  kill one process; it is restarted when the load is over
    crash:any:logic@2-3              kill one of the role, chosen by the seed
    crash:20%:peer@5                 kill a fifth of the role at once, chosen by the seed; 3:peer three of it
    crash:best:20%:peer@5            an attack: those that are best connected when it begins
    pause:server-0@1-2               SIGSTOP, SIGCONT
    partition:server-0,server-1|server-2@1-3      cut both ways
    partition:server-0>server-2@1-3               cut one way
    loss:0.1@0-5                     lose a tenth of all messages;  loss:0.1:web>logic@0-5 on some links
    delay:20ms:web|logic@0-5         hold messages up;  duplicate:0.05@0-5  and  reorder:0.05@0-5  likewise
    skew:server-1:0.5@1-3            set a clock half a second ahead

WHAT names a process or a role: a role means all its processes, ``*`` everything, and ``client`` (of a link)
the process of the clients.  How well connected a process is, its nodes tell: by a message ``standing()``,
whose answer has ``links``, the number of others that they know, or by ``links() -> int``.  No fault outlasts
the load: what is still broken then is repaired.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from polyarch.core.errors import Failure
from polyarch.core.messages import schema_of
from polyarch.core.node import Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Process, System
from polyarch.core.tasks import gather, settle
from polyarch.runtimes.base import Control

__all__ = ["KINDS", "BadFault", "Fault", "doable", "inject", "lasts", "over", "parse", "together"]

KINDS = ("crash", "pause", "partition", "loss", "delay", "duplicate", "reorder", "skew")
CLIENT = "client"
_OF_PROCESSES = ("crash", "pause", "skew")
_EXAMPLE = "such as crash:server-0@2-4, partition:a-0|a-1@1-3 or loss:0.1@0-5"
_BEST = "best:"
_AT_ONCE = 8
"""Processes that are started at the same time."""
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "": 1.0}


class BadFault(ValueError):
    """A fault that cannot be understood or done; says what was wrong and what would be right."""


class Fault(Record):
    """One fault: what happens to whom, from when to when."""

    kind: str
    sources: tuple[str, ...]
    """The processes that it happens to; of a link fault, those that send."""
    targets: tuple[str, ...]
    """Of a link fault, the processes that receive."""
    both_ways: bool
    amount: float
    """Probability, or seconds."""
    start: float
    end: float | None
    text: str
    best: int = 0
    """Not 0: only so many of the sources are meant, those that are best connected when it begins."""


def parse(text: str, roles: Mapping[str, Sequence[str]], random: Random) -> Fault:
    """Read a fault.  ``roles``: the processes of each role; ``random`` chooses for ``any:``."""
    try:
        return _Words(roles, random).read(text)
    except BadFault as error:
        raise BadFault(f"--fault {text!r}: {error}") from None


def doable(fault: Fault, system: System, runtime: str, duration: float) -> Fault:
    """The fault as it can be done to this system there; ``BadFault`` if it cannot.  On ``local`` the links of
    real components are out of reach: a fault that names one is refused, one of everything spares them."""
    reason = ""
    if fault.start >= duration:
        reason = f"it starts at {fault.start:g} s, when the load of {duration:g} s is over"
    elif fault.best and not all(_telling(p.nodes) for p in _sources(fault, system)):
        reason = "none is best connected: they do not tell how many others they know (standing, links)"
    elif runtime != "sim" and fault.kind not in ("crash", "pause"):
        real = {f"{r.name}-0": type(r.component).__name__ for r in system.roles.values() if r.component}
        everything = {p.name for p in system.processes()} | {CLIENT}
        sides = [side for side in (fault.sources, fault.targets) if set(side) != everything]
        named = [name for side in sides for name in side if name in real]
        if named:
            what = "clock cannot be set" if fault.kind == "skew" else "links cannot be disturbed"
            reason = f"{named[0]} is a real {real[named[0]]}: its {what} on {runtime}; use --on sim"
        elif real:
            ours = [tuple(n for n in side if n not in real) for side in (fault.sources, fault.targets)]
            return msgspec.structs.replace(fault, sources=ours[0], targets=ours[1])
    if reason:
        raise BadFault(f"--fault {fault.text!r}: {reason}")
    return fault


def over(texts: Sequence[str]) -> float:
    """Seconds after which the last of these faults is over, or has begun if it has no end.  What cannot be
    understood is left to ``parse``."""
    times = [word for text in texts for word in text.rpartition("@")[2].split("-")]
    latest = 0.0
    for word in times:
        try:
            latest = max(latest, _seconds(word))
        except BadFault:
            continue
    return latest


class _Words:
    """What the words of one fault mean in one system."""

    def __init__(self, roles: Mapping[str, Sequence[str]], random: Random) -> None:
        self.roles = roles
        self.random = random
        self.processes = [name for names in roles.values() for name in names]

    def read(self, text: str) -> Fault:
        head, at, times = text.rpartition("@")
        kind, _, what = (head if at else text).partition(":")
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(KINDS)} ({_EXAMPLE})"
            raise BadFault(f"no fault is called {kind!r}; {hint}")
        if not at:
            raise BadFault(f"when? write {text}@START-END, in seconds from the start of the load")
        begin, dash, finish = times.partition("-")
        start, end = _seconds(begin), _seconds(finish) if dash else None
        if end is not None and end <= start:
            raise BadFault(f"it ends ({end:g} s) before it has begun ({start:g} s)")
        if end is None and kind != "crash":
            raise BadFault(f"{kind} needs an end: {head}@{begin}-END")
        best = 0
        if what.startswith(_BEST):
            if kind not in ("crash", "pause"):
                raise BadFault("only crash and pause choose the best connected")
            what, best = self._best(what.removeprefix(_BEST))
        sources, targets, both_ways, amount = self._meaning(kind, what)
        return Fault(kind, sources, targets, both_ways, amount, start, end, text, best)

    def _meaning(self, kind: str, what: str) -> tuple[tuple[str, ...], tuple[str, ...], bool, float]:
        if kind == "skew":
            names, _, amount = what.rpartition(":")
            if not names:
                raise BadFault("a skew is skew:WHO:SECONDS, such as skew:server-1:0.5@1-3")
            return self._names(names), (), False, _seconds(amount, signed=True)
        if kind in _OF_PROCESSES:
            return self._names(what), (), False, 0.0
        if kind == "partition":
            if "|" not in what and ">" not in what:
                raise BadFault("a partition has two sides: partition:A|B@1-3, or A>B to cut one way")
            return (*self._link(what), 1.0)
        amount, _, link = what.partition(":")
        value = _seconds(amount) if kind == "delay" else _probability(amount)
        return (*self._link(link or "*>*"), value)

    def _link(self, what: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        both_ways = "|" in what
        left, separator, right = what.partition("|" if both_ways else ">")
        if not separator:
            raise BadFault(f"links are A|B (both ways) or A>B (one way), not {what!r}")
        a, b = self._names(left, link=True), self._names(right, link=True)
        if a == b and len(a) == 1:
            raise BadFault(f"both sides are {a[0]}")
        return a, b, both_ways

    def _names(self, what: str, *, link: bool = False) -> tuple[str, ...]:
        chosen: list[str] = []
        for part in what.split(","):
            if part == "*":
                chosen += [*self.processes, CLIENT] if link else self.processes
            elif part.startswith("any:") and self.roles.get(part[4:]):
                chosen.append(self.random.choice(self.roles[part[4:]]))
            elif share := _SHARE.fullmatch(part):
                names = self._of(share[3])
                places = self.random.sample(range(len(names)), _count(share, len(names)))
                chosen += [names[i] for i in sorted(places)]
            elif part in self.roles:
                chosen += self.roles[part]
            elif part in self.processes or (part == CLIENT and link):
                chosen.append(part)
            else:
                raise BadFault(self._unknown(part))
        return tuple(dict.fromkeys(chosen))

    def _best(self, what: str) -> tuple[str, int]:
        """Of ``20%:peer``, ``3:peer`` or ``peer``: the role, and how many of it."""
        share = _SHARE.fullmatch(what)
        role = share[3] if share else what
        return role, _count(share, len(self._of(role))) if share else 1

    def _of(self, role: str) -> Sequence[str]:
        """The processes of a role."""
        if role not in self.roles:
            raise BadFault(self._unknown(role))
        return self.roles[role]

    def _unknown(self, name: str) -> str:
        if name == CLIENT:
            return "the clients are not part of the system: only their links can be disturbed"
        known = f"roles are {', '.join(self.roles) or 'none'}; processes are called like "
        known += next(iter(self.processes), "none")
        if not name:
            return f"it does not say what it happens to; {known}"
        near = difflib.get_close_matches(name, [*self.processes[:10_000], *self.roles], 1)
        return f"nothing is called {name!r}; " + (f"did you mean {near[0]!r}?" if near else known)


_SHARE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?):(.+)")
"""A part of a role: ``20%:peer`` or ``3:peer``."""


def _count(share: re.Match[str], of: int) -> int:
    """How many of so many are meant."""
    number = float(share[1])
    wanted = round(number / 100 * of) if share[2] else number
    what = f"{share[1]}{share[2]} of {of} {share[3]}"
    if wanted > of:
        raise BadFault(f"{what}: there are not so many")
    if wanted < 1 or wanted != int(wanted):
        raise BadFault(f"{what}: that is no process; write a share such as 20%, or a count of at least 1")
    return int(wanted)


def _seconds(word: str, *, signed: bool = False) -> float:
    sign = "-?" if signed else ""
    match = re.fullmatch(rf"({sign}(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(s|ms|us|)", word)
    value = float(match[1]) * _UNITS[match[2]] if match else math.inf
    if not math.isfinite(value):
        raise BadFault(f"{word!r} is no time; write seconds (1.5) or milliseconds (200ms)")
    return value


def _probability(word: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?)", word)
    value = float(match[1]) / (100 if match[2] else 1) if match else math.inf
    if not 0 <= value <= 1:
        raise BadFault(f"{word!r} is no probability; write 0.1 or 10%")
    return value


async def inject(
    x: Any,
    fault: Fault,
    begin: float,
    end: float,
    system: System | None = None,
    glance: Awaitable[Any] | None = None,
) -> None:
    """Do one fault to a running system, and undo it at its time or at the end of the load.

    ``x``: an ``Experimenter``; ``begin`` and ``end``: of the load, by its clock; ``system``: needed to find
    the best connected; ``glance``: what is to end before a fault is undone that lasts to the end."""
    control: Control = x.control
    await _until(x, begin + fault.start)
    if x.now >= end:
        return
    if fault.best:
        assert system is not None
        fault = msgspec.structs.replace(fault, sources=await _best_connected(x, fault, system))
    rules: list[int] = []
    if fault.kind == "crash":
        await together(control.crash, fault.sources, len(fault.sources))
    elif fault.kind == "pause":
        await together(control.pause, fault.sources, len(fault.sources))
    elif fault.kind == "skew":
        for name in fault.sources:
            await control.skew(name, offset=fault.amount)
    else:
        what = {"loss" if fault.kind == "partition" else fault.kind: fault.amount}
        rules.append(await control.disturb(fault.sources, fault.targets, **what))
        if fault.both_ways:
            rules.append(await control.disturb(fault.targets, fault.sources, **what))
    await _until(x, end if fault.end is None else min(end, begin + fault.end))
    if glance is not None and lasts(fault, end - begin):
        await glance
    if fault.kind == "crash":
        await together(control.restart, fault.sources)
    elif fault.kind == "pause":
        await together(control.resume, fault.sources)
    elif fault.kind == "skew":
        for name in fault.sources:
            await control.skew(name)
    for rule in rules:
        await control.heal(rule)


def lasts(fault: Fault, duration: float) -> bool:
    """Whether a fault lasts to the end of a load of so many seconds."""
    return fault.start < duration and (fault.end is None or fault.end >= duration)


async def together(
    do: Callable[[str], Awaitable[None]], names: Sequence[str], at_once: int = _AT_ONCE
) -> None:
    """Do something to several processes, to so many at a time."""
    for i in range(0, len(names), at_once):
        await gather(*(do(name) for name in names[i : i + at_once]))


def _sources(fault: Fault, system: System) -> list[Process]:
    """The processes that a fault happens to."""
    names = frozenset(fault.sources)
    return [process for process in system.processes() if process.name in names]


def _telling(nodes: Sequence[tuple[str, Node]]) -> list[tuple[str, type[Node], str]]:
    """Those of a process's nodes that tell how many others they know, and by which message."""
    return [
        (address, type(node), message)
        for address, node in nodes
        for message in [m for m in ("standing", "links") if m in schema_of(type(node)).methods][:1]
    ]


async def _best_connected(x: Any, fault: Fault, system: System) -> tuple[str, ...]:
    """Of the fault's sources those that know the most others now; who does not answer knows nobody."""
    processes = _sources(fault, system)
    telling = [(i, *told) for i, p in enumerate(processes) for told in _telling(p.nodes)]
    links = [0] * len(processes)
    for at in range(0, len(telling), 256):
        page = telling[at : at + 256]
        answers = await settle(*(getattr(x.at(address, of), message)() for _, address, of, message in page))
        for (i, *_), answer in zip(page, answers):
            links[i] += 0 if isinstance(answer, Failure) else getattr(answer, "links", answer)
    best = sorted(range(len(processes)), key=lambda i: -links[i])[: fault.best]
    return tuple(processes[i].name for i in sorted(best))


async def _until(x: Any, time: float) -> None:
    if time > x.now:
        await x.sleep(time - x.now)
