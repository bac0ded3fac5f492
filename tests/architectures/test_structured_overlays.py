"""What every structured overlay does, whatever its rule."""

from __future__ import annotations

import pytest

from polyarch.architectures.chord import ChordRing
from polyarch.architectures.kademlia import KademliaNetwork
from polyarch.architectures.pastry import PastryOverlay
from polyarch.architectures.ring_overlay import RingOverlay
from polyarch.core import Architecture
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


@pytest.mark.parametrize("overlay", [ChordRing, KademliaNetwork, PastryOverlay, RingOverlay])
def test_it_is_ready_again_only_when_who_was_away_has_joined(overlay: type[Architecture]) -> None:
    architecture = overlay(nodes=8, formation="converged")
    session = SimSession(architecture, seed=1)

    async def experiment(x: Experimenter) -> tuple[float, int]:
        await architecture.ready(x)
        before = x.now
        await x.control.crash("peer-3")
        x.spawn(x.control.restart("peer-3"))
        await architecture.ready(x)
        return x.now - before, len((await x.client.census()).members)

    seconds, members = session.perform(experiment)
    assert seconds > 0.4
    assert members == 8


@pytest.mark.parametrize("overlay", [ChordRing, KademliaNetwork, PastryOverlay, RingOverlay])
def test_it_is_ready_at_once_when_it_was_built_directly(overlay: type[Architecture]) -> None:
    # Waiting for joins that never are would be 12 s of upkeep here, and 2,000 s for 100,000 peers.
    architecture = overlay(nodes=600, formation="converged")
    session = SimSession(architecture, seed=1)

    async def experiment(x: Experimenter) -> float:
        await architecture.ready(x)
        return x.now

    assert session.perform(experiment) < 1.0
