"""``polyarch verify HISTORY``: is a recorded history linearizable?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter as Option

from polyarch.cli import options, output
from polyarch.cli.options import BadUse, check_file
from polyarch.experiment.record import save
from polyarch.experiment.verify import verify

__all__ = ["verify_"]


def verify_(
    history: Annotated[Path, Option(help="JSON lines, or a log of Jepsen's or Porcupine's.")],
    /,
    *,
    model: Annotated[
        Literal["register", "kv"], Option(help="The sequential object that it should look like.")
    ] = "kv",
    budget: Annotated[int, Option(help="Steps of the search; then the verdict is unknown.")] = 20_000_000,
    json: options.Json = None,
) -> int:
    """Decide whether a recorded history is linearizable: true (exit code 0), false (1) or unknown (2).

    For false it tells the shortest prefix that is not, and operations in it that cannot be ordered.  A line
    of a history is {"client": 0, "name": "put", "arguments": ["key", 3], "start": 0.1, "end": 0.2,
    "outcome": "ok", "value": null}; outcomes are ok, fail (did not happen) and info (may have happened).
    """
    if not history.is_file():
        raise BadUse(f"{str(history)!r} is {'a folder' if history.is_dir() else 'not there'}")
    if budget < 1:
        raise BadUse(f"--budget takes an integer of at least 1, not {budget}")
    check_file("--json", json)
    record = verify(history, model, budget=budget)
    if json:
        save(record, json)
    if json != "-":
        console = output.console()
        colour = {"true": "green", "false": "red", "unknown": "yellow"}[record.verdict]
        console.print(
            f"linearizable as {model}: [bold {colour}]{record.verdict}[/]  "
            f"({record.operations} operations, {record.keys} keys, {record.steps} steps, "
            f"{record.seconds:.3g} s)"
        )
        if record.verdict != "true":
            console.print(record.detail, markup=False)
        if record.conflict:
            console.print(f"\nThe first {record.prefix} calls and returns cannot be ordered.  Among them:")
            for call in record.conflict:
                console.print(f"  {call}", markup=False)
    return {"true": 0, "false": 1, "unknown": 2}[record.verdict]
