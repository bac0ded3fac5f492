"""HyParView: connections have two ends, floods reach everybody, and what fails is replaced."""

from __future__ import annotations

from statistics import pstdev
from typing import Any

import pytest

from polyarch.architectures.hyparview import HyParView, HyParViewOverlay, NotNeighbours
from polyarch.blocks.broadcast import News, Teller
from polyarch.blocks.graphs import clustering, components, links, mean_path
from polyarch.blocks.overlay import NotAMember
from polyarch.blocks.partial_views import both_ways, in_degrees, views_of
from polyarch.core import BadArguments
from polyarch.experiment.laws import check
from polyarch.jobs.broadcast import Account
from polyarch.laws.hyparview import ActivePath
from polyarch.laws.partial_views import reach
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Network, Uniform
from polyarch.runtimes.sim.session import SimSession


def nodes_of(session: SimSession) -> dict[str, HyParView]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, HyParView)}


def peers(n: int) -> list[str]:
    return [f"peer-{i}" for i in range(n)]


def one_ended(session: SimSession) -> list[tuple[str, str]]:
    """Connections that are open at one end only, or at a dead one."""
    nodes = nodes_of(session)
    ends = [(a, n) for a, node in nodes.items() for n in node.active]
    return [(a, n) for a, n in ends if n not in nodes or a not in nodes[n].active]


async def heard(x: Experimenter, members: list[str], message: int) -> int:
    """How many of them have delivered it, once."""
    told: list[Account] = [await x.at(a, Teller).account() for a in members]
    return sum([d.message for d in account.deliveries].count(message) == 1 for account in told)


@pytest.mark.parametrize("seed", range(3))
def test_after_joining_views_are_full_and_every_connection_has_two_ends(seed: int) -> None:
    # Messages overtake each other here.
    overlay = HyParViewOverlay(nodes=200)
    network = Network(latency=Uniform(0.0002, 0.01))
    session = SimSession(overlay, seed=seed, network=network, detailed=False)

    async def form(x: Experimenter) -> dict[str, Any]:
        await overlay.ready(x)
        await x.sleep(10)
        return await views_of(x, peers(200))

    views = session.perform(form)
    sizes = [len(view) for view in views.values()]
    assert max(sizes) == 5
    assert sum(sizes) > 0.97 * 5 * 200
    assert not one_ended(session)
    assert len(components(both_ways(views))) == 1
    for address, node in nodes_of(session).items():
        assert len(set(node.passive)) == len(node.passive) == 30
        assert not {address, *node.active} & set(node.passive)
    assert not session.kernel.bugs


def shape(formation: str, seed: int) -> dict[str, float]:
    """What 300 peers' views look like, after some cycles for those who joined."""
    overlay = HyParViewOverlay(nodes=300, formation=formation, wiring=seed)
    session = SimSession(overlay, seed=seed, detailed=False)

    async def form(x: Experimenter) -> dict[str, Any]:
        await overlay.ready(x)
        await x.sleep(20 if formation == "joined" else 0.1)
        return await views_of(x, peers(300))

    active = both_ways(session.perform(form))
    passive = {a: tuple(node.passive) for a, node in nodes_of(session).items()}
    assert not one_ended(session)
    assert not session.kernel.bugs
    assert len(components(active)) == 1
    assert all(not {a, *nodes_of(session)[a].active} & set(others) for a, others in passive.items())
    return {
        "connections": 2 * links(active) / 300,
        "path": mean_path(active, range(50)),
        "remembered": sum(map(len, passive.values())) / 300,
        "known to others": pstdev(in_degrees(passive).values()),
        "passive clustering": clustering(both_ways(passive)),
    }


def test_joining_and_starting_connected_lead_to_the_same_kind_of_views() -> None:
    built, joined = shape("converged", 1), shape("joined", 2)
    assert built == pytest.approx(joined, rel=0.25)
    assert built["path"] == pytest.approx(joined["path"], rel=0.02)
    assert built["path"] != shape("converged", 3)["path"]


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_few_who_start_connected_are_connected_as_far_as_they_make_pairs(nodes: int) -> None:
    overlay = HyParViewOverlay(nodes=nodes, formation="converged")
    connections = overlay.wired()
    assert {len(near) for near in connections} == {{1: 0, 2: 1, 3: 2, 7: 4}[nodes]}
    assert all(i in connections[j] for i, near in enumerate(connections) for j in near)


def test_a_flood_crosses_every_connection_and_gives_everybody_the_message_once() -> None:
    overlay = HyParViewOverlay(nodes=100, cycle=0)
    session = SimSession(overlay, seed=1)

    async def flood(x: Experimenter) -> tuple[int, dict[str, Any], int]:
        await overlay.ready(x)
        await x.sleep(2)
        await x.client.publish(7, "text")
        await x.sleep(1)
        told: list[Account] = [await x.at(a, Teller).account() for a in peers(100)]
        return await heard(x, peers(100), 7), await views_of(x, peers(100)), sum(a.sent for a in told)

    reached, views, sent = session.perform(flood)
    assert reached == 100
    assert sent == 2 * links(both_ways(views)) - 100 + 1  # 2E - N + 1: never back over the first


def after_a_crash(fraction: float, repairs: bool) -> float:
    """Share of the living of 400 that a message reaches soon after so many have crashed."""
    overlay = HyParViewOverlay(nodes=400, repairs=repairs, arrival=0.01)
    session = SimSession(overlay, seed=2, detailed=False)
    count = round(400 * fraction)

    async def experiment(x: Experimenter) -> float:
        await overlay.ready(x)
        await x.sleep(5)
        alive = peers(400)[count:]
        for victim in peers(400)[:count]:
            await x.control.crash(victim)
        await x.sleep(0.3)
        for message in range(5):
            await x.at(alive[message], Teller).publish(News(message, "text"))
        await x.sleep(0.5)
        assert not repairs or not one_ended(session)
        return sum([await heard(x, alive, m) for m in range(5)]) / 5 / len(alive)

    return session.perform(experiment)


def test_the_passive_view_replaces_what_has_failed() -> None:
    assert after_a_crash(0.6, repairs=True) == 1.0
    assert after_a_crash(0.6, repairs=False) < 0.9
    assert after_a_crash(0.8, repairs=True) > 0.98
    assert after_a_crash(0.8, repairs=False) < 0.2


def test_silent_hosts_are_found_by_the_next_shuffles() -> None:
    overlay = HyParViewOverlay(nodes=60)
    session = SimSession(overlay, seed=3)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await overlay.ready(x)
        await x.sleep(3)
        for i in range(20):
            session.kernel.crash(f"peer-{i}", silent=True)
        await x.sleep(30)
        await x.at("peer-30", Teller).publish(News(1, "text"))
        await x.sleep(1)
        dead = sum(n in peers(20) for node in nodes_of(session).values() for n in node.active)
        return dead, await heard(x, peers(60)[20:], 1)

    assert session.perform(experiment) == (0, 40)


def test_high_priority_is_not_refused_and_low_priority_is_when_there_is_no_room() -> None:
    overlay = HyParViewOverlay(nodes=60, cycle=0)
    session = SimSession(overlay, seed=4)

    async def experiment(x: Experimenter) -> None:
        await overlay.ready(x)
        await x.sleep(2)
        nodes = nodes_of(session)
        full = next(a for a, node in nodes.items() if len(node.active) == 5)
        stranger = next(a for a in nodes if a != full and a not in nodes[full].active)
        assert not await x.at(full, HyParView).neighbour(stranger, False)
        assert stranger not in nodes[full].active
        before = set(nodes[full].active)
        assert await x.at(full, HyParView).neighbour(stranger, True)
        assert len(nodes[full].active) == 5
        (dropped,) = before - set(nodes[full].active)
        await x.sleep(1)
        assert full not in nodes[dropped].active  # it was told
        assert full in nodes[dropped].passive or len(nodes[dropped].passive) == 30
        assert not one_ended(session)

    session.perform(experiment)


def test_who_leaves_is_replaced_at_once_and_who_is_alone_joins_again() -> None:
    overlay = HyParViewOverlay(nodes=30, passive=2)
    session = SimSession(overlay, seed=5)

    async def experiment(x: Experimenter) -> int:
        await overlay.ready(x)
        await x.sleep(2)
        await x.at("peer-3", HyParView).leave()
        await x.sleep(0.2)
        assert not any("peer-3" in node.active for node in nodes_of(session).values())
        with pytest.raises(NotAMember):
            await x.at("peer-3", Teller).publish(News(1, "text"))
        alone = nodes_of(session)["peer-9"]
        alone.passive.clear()
        alone.repairs = False
        for neighbour in list(alone.active):
            await x.control.crash(neighbour)
        await x.sleep(10)
        return len(alone.active)

    assert session.perform(experiment) > 0
    assert not one_ended(session)


def test_a_shuffle_brings_new_addresses_and_forgets_what_it_gave_first() -> None:
    session = SimSession(HyParViewOverlay(nodes=40, passive=6, cycle=0), seed=6)
    node = nodes_of(session)["peer-0"]

    async def experiment(x: Experimenter) -> None:
        await x.sleep(3)
        node.passive = [f"peer-{i}" for i in range(30, 40) if f"peer-{i}" not in node.active][:6]
        node.given = node.passive[2:4]
        kept = [*node.passive[:2], *node.passive[4:]]
        new = [f"peer-{i}" for i in range(1, 30) if f"peer-{i}" not in node.active][:2]
        await x.sleep(0.1)
        node.shuffle_reply(("peer-0", *list(node.active)[:1], kept[0], *new))
        assert sorted(node.passive) == sorted([*kept, *new])

    session.perform(experiment)


@pytest.mark.parametrize("nodes", [1, 2, 3, 6])
def test_a_small_overlay_is_complete_and_everybody_hears_everything(nodes: int) -> None:
    overlay = HyParViewOverlay(nodes=nodes)
    session = SimSession(overlay, seed=nodes)

    async def experiment(x: Experimenter) -> tuple[Any, int]:
        await overlay.ready(x)
        await x.sleep(10)
        await x.client.publish(1, "text")
        await x.sleep(1)
        return await views_of(x, peers(nodes)), await heard(x, peers(nodes), 1)

    views, reached = session.perform(experiment)
    assert {a: sorted(view) for a, view in views.items()} == {
        a: sorted(set(peers(nodes)) - {a}) for a in peers(nodes)
    }
    assert reached == nodes


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="--passive-walk 7: a walk has 6 steps"):
        SimSession(HyParViewOverlay(passive_walk=7))
    session = SimSession(HyParViewOverlay(nodes=20, cycle=0), seed=7)

    async def experiment(x: Experimenter) -> None:
        await x.sleep(3)
        node = nodes_of(session)["peer-0"]
        before = (set(node.active), list(node.passive))
        bad: Any = 7
        with pytest.raises(BadArguments, match="peer"):
            await x.at("peer-0", HyParView).neighbour(bad, True)
        stranger = next(a for a in peers(20)[1:] if a not in node.active)
        with pytest.raises(NotNeighbours):
            await x.at("peer-0", HyParView).keep_alive(stranger)
        assert (set(node.active), list(node.passive)) == before

    session.perform(experiment)


def test_its_laws_hold_at_other_sizes() -> None:
    record = check(ActivePath, given={"n": 250, "active": 4, "cycles": 5})
    assert record.holds, record.wrong


def test_the_share_that_unacknowledged_gossip_reaches() -> None:
    # r = 1 - e^-fr, where links are many: Kermarrec, Massoulié, Ganesh, TPDS 2003.
    for fanout, share in ((2, 0.7968), (3, 0.9405), (4, 0.9802)):
        assert reach(fanout, 1e6, 0.0) == pytest.approx(share, abs=2e-4)
    assert reach(4, 35, 0.75) < 0.02  # one living target each: it dies out
    assert reach(4, 35, 0.5) < reach(4, 35, 0.25) < reach(4, 35, 0.0)


@pytest.mark.local
def test_live_peers_replace_killed_neighbours_and_miss_nothing() -> None:
    overlay = HyParViewOverlay(nodes=10, active=3, cycle=0.5)
    with open_session("local", overlay, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[dict[str, Any], int]:
            await overlay.ready(x)
            for i in range(3):
                await x.control.crash(f"peer-{i}")
            views: dict[str, Any] = {}
            for _ in range(40):
                await x.sleep(0.5)
                views = await views_of(x, peers(10))
                lonely = [a for a, view in views.items() if len(set(view) & set(views)) < 2]
                if len(views) == 7 and not lonely and len(components(both_ways(views))) == 1:
                    break
            await x.at("peer-5", Teller).publish(News(1, "text"))
            await x.client.quiet()
            return views, await heard(x, peers(10)[3:], 1)

        views, reached = session.perform(experiment)
    assert len(views) == 7
    assert not [n for view in views.values() for n in view if n not in views]
    assert reached == 7
