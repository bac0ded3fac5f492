"""With all safeguards on, ``polyarch check`` finds nothing: 20 seeds of each protocol here, 10,000 by
``make seeds`` (about three minutes for each protocol on two free cores)."""

from __future__ import annotations

import os

import pytest

from polyarch.experiment import catalogue
from polyarch.experiment.explore import explore
from polyarch.experiment.schedule import Setting

SEEDS = int(os.environ.get("POLYARCH_SEEDS", "20"))
PROTOCOLS = (
    "raft", "paxos", "multi_paxos", "primary_backup", "chain", "quorum", "sharded", "two_phase_commit"
)  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_seeds_are_clean(name: str) -> None:
    kind = catalogue.architecture(name)
    job = catalogue.offered(kind)[0]
    tally = explore(Setting(kind(), job(**job.small)), range(SEEDS), workers=1 if SEEDS < 1000 else None)
    print(f"{name}: {tally.seeds} seeds in {tally.seconds:.0f} s, {tally.undecided} undecided")
    assert (tally.failing, tally.undecided, tally.seeds) == (None, 0, SEEDS)
