"""For each safeguard of the stores: ``polyarch check``, which knows nothing of it, finds that it is left out.
(Raft's are in test_raft_check.py, those of sharding and of two-phase commit in their own files.)"""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.chain import Chain
from polyarch.architectures.multi_paxos import MultiPaxos
from polyarch.architectures.paxos import Paxos
from polyarch.architectures.primary_backup import PrimaryBackup
from polyarch.architectures.quorum import Quorum
from polyarch.experiment.explore import explore
from polyarch.experiment.schedule import Setting
from polyarch.jobs.kv import Kv

STORES = (Paxos, MultiPaxos, PrimaryBackup, Chain, Quorum)
EVEN = {"servers": 4}
PARAMETERS: dict[tuple[Any, str], dict[str, Any]] = {
    (Paxos, "majority"): EVEN,
    (Paxos, "promise_on_disk"): {"servers": 3},
    (MultiPaxos, "majority"): EVEN,
    (PrimaryBackup, "begin_with_an_entry"): {"synchronous": False},
}
"""With which a safeguard matters, where it does not always."""
SETTINGS: dict[tuple[Any, str], dict[str, Any]] = {
    (Paxos, "promise_on_disk"): {"kinds": ("crash",), "rate": 20.0, "duration": 4.0},
    (Quorum, "new_writer_each_life"): {"rate": 50.0},
    (Quorum, "write_once"): {"rate": 50.0},
}
"""Others than ``check`` has by itself, for what is rare: much work on one key."""
FIRST = {
    (Paxos, "promise_on_disk"): 180,
    (PrimaryBackup, "begin_with_an_entry"): 30,
    (Quorum, "new_writer_each_life"): 30,
    (Quorum, "write_once"): 210,
}
"""Where the search begins if it is long; all others begin with 0."""
SEEDS = 60

CASES = [(kind, name) for kind in STORES for name in kind.Safeguards.__struct_fields__]


@pytest.mark.parametrize(("kind", "safeguard"), CASES, ids=[f"{k.name}-{s}" for k, s in CASES])
def test_check_finds_that_it_is_left_out(kind: Any, safeguard: str) -> None:
    case = kind, safeguard
    more = SETTINGS.get(case, {})
    job = Kv(keys=1, swaps=0.2) if more else Kv(**Kv.small)
    searching = Setting(kind(without=safeguard, **PARAMETERS.get(case, {})), job, **more)
    first = FIRST.get(case, 0)
    assert explore(searching, range(first, first + SEEDS), workers=1).failing is not None


@pytest.mark.parametrize("kind", STORES)
def test_with_all_of_them_nothing_is_found(kind: Any) -> None:
    tally = explore(Setting(kind(), Kv(**Kv.small)), range(1000, 1010), workers=1)
    assert (tally.failing, tally.seeds) == (None, 10)
