"""Verifying a recorded history: from a file to a verdict.

A history is JSON lines, one operation a line (what ``Done`` holds, so a run's own history is one):

    {"client": 0, "name": "write", "arguments": [3], "start": 0.1, "end": 0.2, "outcome": "ok"}
    {"client": 1, "name": "read", "arguments": [], "start": 0.3, "end": 0.4, "outcome": "ok", "value": 3}

``outcome``: ``ok`` (the default), ``fail`` (it did not happen) or ``info`` (it may have; ``end`` may be
absent).  ``register``: ``read()``, ``write(value)``, ``cas(expected, value)``.  ``kv``: ``get(key)``,
``put(key, value)``, ``append(key, text)``, ``compare_and_set(key, expected, value)``.  Or it is a log of
Jepsen's or of Porcupine's test data.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from polyarch.checkers.linearizability import KV, REGISTER, Call, Outcome, check, explain, read_history
from polyarch.core.records import Record

__all__ = ["MODELS", "Verified", "read_calls", "verify"]

MODELS = {"register": REGISTER, "kv": KV}
_OPERATIONS = {
    "register": {"read": 0, "write": 1, "cas": 2},
    "kv": {"get": 1, "put": 2, "append": 2, "compare_and_set": 3},
}
"""How many arguments each operation has; the first one of ``kv`` is the key."""


class Verified(Record):
    """The verdict on a history."""

    history: str
    model: str
    verdict: Literal["true", "false", "unknown"]
    operations: int
    keys: int
    detail: str
    prefix: int | None
    """If false: calls and returns in the shortest prefix that is not linearizable."""
    conflict: tuple[str, ...]
    """If false: operations of that prefix that cannot be ordered."""
    steps: int
    seconds: float
    kind: Literal["verify"] = "verify"


class _Line(Record):
    """A line of a history."""

    name: str
    start: float
    arguments: list[Any] = []
    client: int = 0
    end: float | None = None
    outcome: Literal["ok", "fail", "info"] = "ok"
    value: Any = None


def verify(path: Path, model: str, *, budget: int = 20_000_000) -> Verified:
    """Read and decide.  ``ValueError`` says what cannot be read."""
    calls = read_calls(path, model)
    began = time.perf_counter()
    outcome: Outcome = check(calls, MODELS[model], budget=budget)
    seconds = time.perf_counter() - began
    conflict: tuple[str, ...] = ()
    if outcome.holds is False:
        conflict = tuple(map(str, explain(calls, MODELS[model], outcome)))
    return Verified(
        history=str(path),
        model=model,
        verdict="unknown" if outcome.holds is None else "true" if outcome.holds else "false",
        operations=len(calls),
        keys=len({call.key for call in calls}),
        detail=outcome.detail,
        prefix=outcome.prefix if outcome.holds is False else None,
        conflict=conflict,
        steps=outcome.steps,
        seconds=round(seconds, 6),
    )


def read_calls(path: Path, model: str) -> list[Call]:
    """The calls of a history in any of the formats; ``ValueError`` with the line for what is wrong."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no history: it is not text") from None
    first = next((line for line in lines if line.strip()), "")
    try:
        calls = _json_lines(lines, model) if first.lstrip().startswith('{"') else read_history(lines)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not calls and lines:
        raise ValueError(f"{path} is no history: JSON lines, or a log of Jepsen's or Porcupine's, are wanted")
    known = _OPERATIONS[model]
    for call in calls:
        if call.name not in known:
            wanted = next((m for m, names in _OPERATIONS.items() if call.name in names), None)
            hint = f"; use --model {wanted}" if wanted else f"; it has {', '.join(known)}"
            raise ValueError(f"{path}: {model} has no operation {call.name!r}{hint}")
    return calls


def _json_lines(lines: list[str], model: str) -> list[Call]:
    decoder = msgspec.json.Decoder(_Line)
    calls = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise ValueError(f"line {number}: {error}") from None
        wanted = _OPERATIONS[model].get(line.name)
        if wanted is not None and len(line.arguments) != wanted:
            given = len(line.arguments)
            raise ValueError(f"line {number}: {line.name} takes {wanted} arguments, not {given}")
        if line.outcome == "ok" and (line.end is None or line.end < line.start):
            raise ValueError(f"line {number}: an operation that is ok has an end, not before its start")
        if line.outcome == "fail":
            continue
        end = line.end if line.outcome == "ok" and line.end is not None else math.inf
        arguments = tuple(map(_hashable, line.arguments))
        key = None
        if model == "kv" and arguments:
            key, *rest = arguments
            arguments = tuple(rest)
        calls.append(Call(line.name, arguments, line.start, end, _hashable(line.value), key, line.client))
    return calls


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
