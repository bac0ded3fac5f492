"""``polyarch check`` finds what happens without each safeguard of Raft, with its own random faults, which
know nothing of Raft; and with all of them it finds nothing."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.raft import RaftStore
from polyarch.blocks.raft_safeguards import Safeguards
from polyarch.experiment.explore import Tally, explore
from polyarch.experiment.performance import perform
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.kv import Kv

QUICK = {"servers": 3, "election_timeout": 0.1, "heartbeat": 0.03}
RIVALS = {"pre_vote": False, "election_spread": 0.1}
LEASES = {"read_by": "lease", "election_timeout": 0.3}
SNAPSHOTS = {"snapshot_every": 5}
SPARES = {"spares": 2}
EVEN = {"servers": 4, "spares": 1}

PARAMETERS: dict[str, dict[str, Any]] = {
    "one_vote_per_term": RIVALS,
    "vote_on_disk": RIVALS,
    "commit_own_term": {"batch": 1, "window": 1},
    "stick_to_leader": LEASES,
    "lease_ends": LEASES,
    "keep_log_after_snapshot": SNAPSHOTS,
    "sessions_in_snapshot": SNAPSHOTS,
    "members_in_snapshot": {**SPARES, **SNAPSHOTS},
    "one_change_at_a_time": SPARES,
    "change_in_own_term": EVEN,
}
"""With which a safeguard matters, where it does not always."""
BUSY = ("stick_to_leader", "lease_ends", "confirm_before_read")
"""Those without which a read may be too old for a moment: many clients want one key."""
FIRST = {
    "commit_own_term": 40,
    "stick_to_leader": 60,
    "lease_ends": 60,
    "keep_log_after_snapshot": 110,
    "change_in_own_term": 610,
}
"""The seed with which a search begins that was long when it was made; all others begin with 0."""
SEEDS = 250
"""Seeds in which each violation is found."""
NOTICED = ("keep_log_after_snapshot",)
"""Those without which a server itself may stumble over what is missing, before a promise is broken."""


def setting(without: str, parameters: dict[str, Any]) -> Setting:
    busy = without in BUSY
    return Setting(
        RaftStore(without=without, **{**QUICK, **parameters}),
        Kv(keys=1 if busy else 3, swaps=0.2),
        rate=50.0 if busy else 10.0,
    )


def searched(setting: Setting, seeds: range) -> Tally:
    return explore(setting, seeds, workers=1)


@pytest.mark.parametrize("safeguard", Safeguards.__struct_fields__)
def test_check_finds_that_it_is_left_out(safeguard: str) -> None:
    searching = setting(safeguard, PARAMETERS.get(safeguard, {}))
    first = FIRST.get(safeguard, 0)
    tally = searched(searching, range(first, first + SEEDS))
    assert tally.failing is not None
    found = perform(draw(searching, tally.failing)).violations[0]
    stumbled = found.kind == "no node raised an exception"
    assert not stumbled or safeguard in NOTICED  # a promise is broken, it is no accident of the code


@pytest.mark.parametrize(
    "parameters",
    [{}, RIVALS, LEASES, {**SPARES, **SNAPSHOTS}, EVEN],
    ids=["quick", "rivals", "leases", "spares and snapshots", "even"],
)
def test_with_all_of_them_nothing_is_found(parameters: dict[str, Any]) -> None:
    tally = searched(setting("", parameters), range(1000, 1050))
    assert (tally.failing, tally.seeds) == (None, 50)
