"""One seed decides everything: the same trace in any process, on any machine, on any Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import determined
import pytest

GOLDEN = {1: "03fee3fc", 2: "be607400"}
"""Trace hashes of the small system.  They may change only together with what a simulation means: then say
so in the changelog.  On another machine or Python version they must be these."""


@pytest.mark.parametrize("seed", GOLDEN)
def test_the_trace_is_the_one_that_was_committed(seed: int) -> None:
    trace_hash, known = determined.trace(seed)
    assert known == [5] * 20, "the small system has done its work"
    assert trace_hash == GOLDEN[seed]


def test_the_same_seed_gives_the_same_trace_twice_in_one_process() -> None:
    assert determined.trace(11) == determined.trace(11)


def test_another_seed_gives_another_trace() -> None:
    assert len({determined.trace(seed)[0] for seed in range(5)}) == 5


def test_the_hash_seed_of_the_interpreter_changes_nothing() -> None:
    printed = {
        subprocess.run(
            [sys.executable, Path(determined.__file__), "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    trace_hash, known = determined.trace(3)
    assert printed == {f"{trace_hash} {known}\n"}


def test_plain_and_detailed_simulations_have_the_same_trace_where_nothing_has_a_size_or_a_cost() -> None:
    plain = determined.trace(5, detailed=False, faults=False)
    assert plain == determined.trace(5, detailed=True, faults=False)
