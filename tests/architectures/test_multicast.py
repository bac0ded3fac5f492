"""Multicast: one copy for each peer over the tree, many over all links; and a tree that repairs itself."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.multicast import GROUP, Member, Multicast
from polyarch.blocks.broadcast import News
from polyarch.blocks.ring import identifier
from polyarch.core import Done, Refused, settle
from polyarch.jobs.broadcast import Broadcast, text
from polyarch.jobs.lookup import Member as Listed
from polyarch.jobs.lookup import Responsible
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

NODES = 40


async def publish(x: Experimenter, count: int, first: int = 0, pause: float = 0.0) -> list[Done]:
    history = []
    for message in range(first, first + count):
        start = x.now
        await x.client.publish(message, text(message, 20))
        arguments = (message, text(message, 20))
        history.append(Done(message, "publish", arguments, start, start, x.now, "ok"))
        await x.sleep(pause)
    return history


def told(spread: str, overlay: str, messages: int = 10) -> dict[str, Any]:
    """The metrics of some messages published while nothing fails."""
    architecture = Multicast(nodes=NODES, spread=spread, overlay=overlay)
    session = SimSession(architecture, seed=1)
    job = Broadcast()

    async def experiment(x: Experimenter) -> dict[str, Any]:
        await architecture.ready(x)
        await job.prepare(x.client)
        history = await publish(x, messages)
        for verdict in job.check(history, await job.audit(x.client)):
            assert verdict.holds, verdict
        return (await architecture.observe(x))[0]

    metrics = session.perform(experiment)
    assert not session.kernel.bugs
    return metrics


@pytest.mark.parametrize("overlay", ["chord", "pastry"])
def test_the_tree_carries_each_message_once_and_flooding_over_every_link(overlay: str) -> None:
    tree, flood = told("tree", overlay), told("flood", overlay)
    assert tree["coverage"] == flood["coverage"] == 1
    # A publisher gets its own message back: the only duplicate.
    assert tree["copies_per_delivery"] == pytest.approx(1, abs=1 / (NODES - 2))
    assert tree["duplicates"] == pytest.approx(1 / NODES, rel=0.3)
    assert tree["stress"] == pytest.approx(2, abs=0.1)
    # Every peer sends it over all its links but the one that it came by.
    assert flood["duplicates"] > 0.8
    assert flood["messages_per_delivery"] > 4 * tree["messages_per_delivery"]
    # The price: a detour over the root, who has most of the work.
    assert tree["depth"] > flood["depth"]
    assert tree["stress_most"] > 3 * tree["stress"]


@pytest.mark.parametrize("overlay", ["chord", "pastry"])
def test_a_message_that_goes_in_a_circle_is_not_sent_round_and_round(overlay: str) -> None:
    architecture = Multicast(nodes=3, overlay=overlay)
    session = SimSession(architecture, seed=1, network=Network(latency=Constant(50e-6)))

    async def experiment(x: Experimenter) -> int:
        await architecture.ready(x)
        members = [env.node for env in session.kernel.directory.values() if isinstance(env.node, Member)]
        for member, after in zip(members, [*members[1:], members[0]]):
            member.toward = lambda key, after=after: after.me  # as if they had old tables
        sent = sum(member.sent for member in members)
        await settle(x.client.publish(1, "x"))
        return sum(member.sent for member in members) - sent

    assert session.perform(experiment) < 2000  # 64 hops, and their answers, every tenth of a second


def test_the_root_is_the_peer_that_is_responsible_for_the_group() -> None:
    architecture = Multicast(nodes=NODES)
    session = SimSession(architecture, seed=1)

    async def experiment(x: Experimenter) -> list[str]:
        await architecture.ready(x)
        return [a for a, p in (await architecture.positions(x)).items() if not p.parent]

    members = [Listed(identifier(f"peer-{i}", 32), f"peer-{i}", 1) for i in range(NODES)]
    assert session.perform(experiment) == [Responsible(32, members).of(GROUP).address]


def test_peers_that_join_one_by_one_form_the_same_tree() -> None:
    def parents(formation: str) -> dict[str, str]:
        architecture = Multicast(nodes=20, formation=formation)
        session = SimSession(architecture, seed=2)

        async def experiment(x: Experimenter) -> dict[str, str]:
            await architecture.ready(x)
            await x.sleep(20)
            return {a: p.parent for a, p in (await architecture.positions(x)).items()}

        return session.perform(experiment)

    assert parents("joined") == parents("converged")


def missed(remember: int, victims: str) -> int:
    """How many of those who stay miss messages that were published around a crash."""
    architecture = Multicast(nodes=NODES, remember=remember)
    session = SimSession(architecture, seed=3)

    async def experiment(x: Experimenter) -> int:
        await architecture.ready(x)
        positions = await architecture.positions(x)
        busy = sorted(positions, key=lambda a: -positions[a].children)
        root = next(a for a, p in positions.items() if not p.parent)
        dead = [root] if victims == "root" else [a for a in busy if a != root][:10]
        await publish(x, 5)
        for address in dead:
            await x.control.crash(address)
        history = await publish(x, 40, first=5, pause=0.05)
        await x.sleep(5)
        assert len(history) == 40
        alive = [a for a in positions if a not in dead]
        delivered = [len((await x.client.account(a)).deliveries) for a in alive]
        assert not session.kernel.bugs
        return sum(45 - n for n in delivered)

    return session.perform(experiment)


@pytest.mark.parametrize("victims", ["root", "inner"])
def test_when_parents_die_their_children_find_others_and_catch_up(victims: str) -> None:
    assert missed(64, victims) == 0


def test_without_catching_up_what_a_dead_parent_should_have_passed_on_is_lost() -> None:
    assert missed(0, "inner") > 0


@pytest.mark.parametrize("overlay", ["chord", "pastry"])
def test_who_is_alone_all_of_a_sudden_refuses_or_becomes_the_root(overlay: str) -> None:
    architecture = Multicast(nodes=2, overlay=overlay)
    session = SimSession(architecture, seed=1)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        root = next(a for a, p in (await architecture.positions(x)).items() if not p.parent)
        (other,) = {"peer-0", "peer-1"} - {root}
        await x.control.crash(root)
        return await settle(x.at(other, Member).publish(News(1, "text")))

    (outcome,) = session.perform(experiment)
    assert outcome is None or isinstance(outcome, Refused)
    assert not session.kernel.bugs


@pytest.mark.local
def test_live_members_all_deliver_though_some_are_killed() -> None:
    architecture = Multicast(nodes=8)
    job = Broadcast()
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[Any]:
            await architecture.ready(x)
            await job.prepare(x.client)
            history = await publish(x, 5)
            for i in (1, 5):
                await x.control.crash(f"peer-{i}")
            history += await publish(x, 10, first=5, pause=0.05)
            await x.sleep(3)
            return job.check(history, await job.audit(x.client))

        for verdict in session.perform(experiment):
            assert verdict.holds, verdict
