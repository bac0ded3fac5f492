"""What every overlay of partial views does: Cyclon, HyParView, Scamp."""

from __future__ import annotations

import pytest

from polyarch.architectures.cyclon import CyclonOverlay
from polyarch.architectures.hyparview import HyParViewOverlay
from polyarch.architectures.scamp import ScampOverlay
from polyarch.blocks.graphs import components
from polyarch.blocks.partial_views import ViewKeeper, ViewsOverlay, both_ways, views_of
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

PEERS = [f"peer-{i}" for i in range(10)]


@pytest.mark.parametrize("overlay", [CyclonOverlay, HyParViewOverlay, ScampOverlay])
@pytest.mark.parametrize("victims", [PEERS[4:5], PEERS], ids=["one", "all"])
def test_who_has_crashed_is_a_member_again_even_if_all_have(
    overlay: type[ViewsOverlay], victims: list[str]
) -> None:
    architecture = overlay(nodes=10)
    session = SimSession(architecture, seed=9)

    async def experiment(x: Experimenter) -> int:
        await architecture.ready(x)
        await x.sleep(5)
        for victim in victims:
            await x.control.crash(victim)
        for victim in victims:
            await x.control.restart(victim)
        await x.sleep(20)
        return len(components(both_ways(await views_of(x, PEERS))[:10]))

    assert session.perform(experiment) == 1
    nodes = [env.node for env in session.kernel.directory.values()]
    assert all(node.neighbours() for node in nodes if isinstance(node, ViewKeeper))
