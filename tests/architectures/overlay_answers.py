"""Lookups of random keys in structured overlays, and which of the answers are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyarch.blocks.ring import identifier
from polyarch.core import Failure, settle
from polyarch.jobs.lookup import Holder, Member, Responsible, Rule
from polyarch.runtimes.base import Experimenter


async def lookups(x: Experimenter, count: int, bits: int = 32) -> list[tuple[int, Holder | Failure]]:
    """The answers to ``count`` random keys, 50 at a time."""
    keys = [x.random.below(1 << bits) for _ in range(count)]
    answers: list[Holder | Failure] = []
    for i in range(0, count, 50):
        answers += await settle(*(x.client.lookup(key) for key in keys[i : i + 50]))
    return list(zip(keys, answers))


def wrong(
    answers: Sequence[tuple[int | str, Any]],
    members: Sequence[str],
    rule: Rule = "successor",
    bits: int = 32,
) -> list[Any]:
    """Answers that do not name who of the members is responsible by the rule, and failures."""
    truth = Responsible(bits, [Member(identifier(a, bits), a, 0) for a in members], rule)
    return [
        (key, answer)
        for key, answer in answers
        if not isinstance(answer, Holder) or answer.address != truth.of(key).address
    ]
