"""What the key-value job counts in a history."""

from __future__ import annotations

import pytest

from polyarch.core import Done
from polyarch.jobs.kv import Kv


@pytest.mark.parametrize(
    ("read", "final", "lost", "stale"), [(2, 2, 0, 0), (1, 2, 0, 1), (2, 1, 1, 0), (None, None, 1, 1)]
)
def test_lost_keys_and_stale_reads_are_figures_of_a_run(read, final, lost, stale) -> None:
    history = [
        Done(0, "put", ("a", 1), 0.0, 0.0, 1.0, "ok"),
        Done(1, "put", ("a", 2), 2.0, 2.0, 3.0, "ok"),
        Done(2, "put", ("a", 3), 2.0, 2.0, 3.0, "fail", None, "unreachable"),
        Done(3, "get", ("a",), 4.0, 4.0, 5.0, "ok", read),
    ]
    assert Kv().figures(history, {"a": final}) == {"lost_keys": lost, "stale_reads": stale}
