"""Figure 3 of the Raft paper: what holds at all times, looked at from outside, again and again in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

__all__ = ["violations"]

_BACK = 20
"""Entries before the last common one that are compared each time; older ones were when they were last."""


def violations(nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterator[str]:
    """What is wrong with these servers, by address.  ``seen`` is what was remembered in earlier looks."""
    highest = max((node.current_term for node in nodes.values()), default=0)
    for address, node in nodes.items():
        yield from _applied(address, node, seen)
    for address, node in nodes.items():
        if node.role == "leader":
            yield from _leader(address, node, highest, seen)
    for (a, left), (b, right) in pairwise(nodes.items()):
        if not _match(left.log, right.log):
            yield f"log matching: {a} and {b} agree on an entry and not on those before it"


def _applied(address: str, node: Any, seen: dict[Any, Any]) -> Iterator[str]:
    """State machine safety: what one server has applied at an index, all have; and so their states agree."""
    log, last = node.log, node.last_applied
    if last == seen.get(("last applied", address)):
        return
    for index in range(max(seen.get(("last applied", address), 0), log.start) + 1, last + 1):
        if index > log.last_index or seen.setdefault(("entry", index), log[index]) != log[index]:
            yield f"state machine safety: {address} has applied another entry {index} than others"
            break
    state = (dict(node.machine.data), node.machine.registered)
    if seen.setdefault(("state", last), state) != state:
        yield f"state machine safety: {address} is in another state than others after entry {last}"
    seen["last applied", address] = last
    seen["last applied"] = max(last, seen.get("last applied", 0))


def _leader(address: str, node: Any, highest: int, seen: dict[Any, Any]) -> Iterator[str]:
    term, log = node.current_term, node.log
    new = ("leader", term) not in seen
    if seen.setdefault(("leader", term), address) != address:
        yield f"election safety: {seen['leader', term]} and {address} both lead in term {term}"
    if new and term == highest:
        for index in range(log.start + 1, seen.get("last applied", 0) + 1):
            entry = seen.get(("entry", index))
            if entry is not None and (index > log.last_index or log[index] != entry):
                yield f"leader completeness: {address} leads in term {term} without committed entry {index}"
                break
    if seen.setdefault(("length", address, term), log.last_index) > log.last_index:
        yield f"leader append-only: {address} has lost entries while it leads in term {term}"
    seen["length", address, term] = log.last_index


def _match(a: Any, b: Any) -> bool:
    start, last = max(a.start, b.start), min(a.last_index, b.last_index)
    while last > start and a.term(last) != b.term(last):
        last -= 1
    first = max(start + 1, last - _BACK)
    return last <= start or bool(a.part(first, last - first) == b.part(first, last - first))
