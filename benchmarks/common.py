"""What every benchmark does the same way: its options, its record, its table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from polyarch.measure.statistics import Spread

__all__ = ["arguments", "emit", "environment", "shown"]


def arguments(description: str, *, runs: int = 5) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks; add your own before parsing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", help="write the record there; - is standard output")
    parser.add_argument("--runs", type=int, default=runs, help=f"how often to measure (default {runs})")
    parser.add_argument("--quick", action="store_true", help="short runs: does it work, not how fast is it")
    return parser


def environment(*packages: str) -> dict[str, Any]:
    """Where the figures come from: the machine, Python, and the versions of the named packages."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "packages": {name: metadata.version(name) for name in packages},
    }


def shown(spread: Spread, digits: int = 1) -> str:
    """A figure as a table shows it: median, smallest and largest run."""
    return f"{spread.median:,.{digits}f}  ({spread.low:,.{digits}f} .. {spread.high:,.{digits}f})"


def emit(
    options: argparse.Namespace,
    record: dict[str, Any],
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Show the table, and write the record where --json says.  With ``--json -`` the table goes to
    standard error, so that standard output holds JSON and nothing else."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    to_stdout = options.json == "-"
    Console(stderr=to_stdout).print(table)
    text = json.dumps(record, indent=2)
    if to_stdout:
        sys.stdout.write(text + "\n")
    elif options.json:
        Path(options.json).write_text(text + "\n")


def _processor() -> str:
    """The processor's name; on Linux `platform` often has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
