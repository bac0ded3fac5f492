"""What happens without each safeguard of Raft: a search over seeds finds a run in which a promise is broken;
and with all of them the same mischief breaks none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import raft_chaos as chaos

from polyarch.architectures.raft import RaftStore
from polyarch.blocks.raft_safeguards import Safeguards
from polyarch.core import System

RIVALS = {"pre_vote": False, "election_spread": 0.05}
LEASES = {"read_by": "lease", "election_timeout": 0.3, "think": 0.005}

MISCHIEF: dict[str, tuple[chaos.Scenario, dict[str, Any]]] = {
    "refuse_old_terms": (chaos.wreck, {}),
    "one_vote_per_term": (chaos.lagging, RIVALS),
    "vote_on_disk": (chaos.revote, {**RIVALS, "disk_sync": 0.0002}),
    "up_to_date_candidates": (chaos.lagging, {}),
    "majority_elects": (chaos.wreck, {}),
    "sync_before_answer": (chaos.power, {}),
    "check_previous_entry": (chaos.wreck, {}),
    "remove_conflicts": (chaos.wreck, {}),
    "majority_commits": (chaos.wreck, {}),
    "commit_own_term": (chaos.brief_leaders, {"batch": 1, "window": 1}),
    "deduplicate": (chaos.wreck, {}),
    "confirm_before_read": (chaos.deposed, {}),
    "read_in_own_term": (chaos.lagging, {"disk_sync": 0.02, "think": 0.002}),
    "stick_to_leader": (chaos.usurper, LEASES),
    "lease_ends": (chaos.deposed, {"read_by": "lease"}),
    "keep_log_after_snapshot": (chaos.late_snapshots, {"snapshot_every": 5, "think": 0.01}),
    "sessions_in_snapshot": (chaos.wreck, {"snapshot_every": 5}),
    "members_in_snapshot": (chaos.reconfigure, {"spares": 2, "snapshot_every": 5}),
    "one_change_at_a_time": (chaos.reconfigure, {"spares": 2}),
    "change_in_own_term": (chaos.two_changes, {"servers": 4, "spares": 1}),
}
"""In which scenario, and of what store, the violation is looked for."""


def test_every_safeguard_is_left_out_once() -> None:
    assert list(MISCHIEF) == [field.name for field in msgspec.structs.fields(Safeguards)]


@pytest.mark.parametrize("safeguard", MISCHIEF)
def test_without_it_a_promise_is_broken(safeguard: str) -> None:
    scenario, parameters = MISCHIEF[safeguard]
    found = chaos.search(scenario, range(200), without=safeguard, **parameters)
    assert found is not None
    assert not found[1][0].startswith("bug")  # a promise, and not an accident of the code


@pytest.mark.parametrize("safeguard", MISCHIEF)
def test_with_it_the_same_mischief_breaks_none(safeguard: str) -> None:
    scenario, parameters = MISCHIEF[safeguard]
    assert chaos.search(scenario, range(4), **parameters) is None


def test_a_store_without_a_safeguard_can_be_made_again_from_its_values_and_no_option_does_it() -> None:
    store = RaftStore(servers=3, without="vote_on_disk")
    again = RaftStore(**store.values)
    system = System()
    again.build(system)
    (server,) = system.roles["server"].nodes
    assert server.safeguards == Safeguards(vote_on_disk=False)  # type: ignore[attr-defined]
    assert "without" not in RaftStore.parameters
    assert "without" not in RaftStore().values
