"""Cyclon: links change hands as in the paper, newcomers become known, the dead are forgotten."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

import pytest

from polyarch.architectures.cyclon import Cyclon, CyclonOverlay, Link
from polyarch.blocks.broadcast import News, Teller
from polyarch.blocks.graphs import clustering, components
from polyarch.blocks.overlay import NotAMember
from polyarch.blocks.partial_views import both_ways, in_degrees, views_of
from polyarch.core import BadArguments
from polyarch.experiment.laws import Law, check
from polyarch.jobs.broadcast import Account
from polyarch.laws.cyclon import Degrees, Traffic
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


def nodes_of(session: SimSession) -> dict[str, Cyclon]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, Cyclon)}


def peers(n: int) -> list[str]:
    return [f"peer-{i}" for i in range(n)]


async def passed(x: Experimenter, seconds: float) -> None:
    await x.sleep(seconds)


async def accounts(x: Experimenter, members: list[str]) -> list[Account]:
    return [await x.at(a, Teller).account() for a in members]


def with_views(views: dict[int, dict[int, int]], *, length: int, oldest: bool = True) -> SimSession:
    """Peers with views of two links at most: neighbour -> age."""
    architecture = CyclonOverlay(
        nodes=8, view=3, shuffle=length, cycle=0, oldest=oldest, formation="converged"
    )
    session = SimSession(architecture, seed=3)
    for i in range(8):
        node = nodes_of(session)[f"peer-{i}"]
        node.cycles = 10
        node.made = {f"peer-{n}": 10 - age for n, age in views.get(i, {}).items()}
    return session


def test_the_oldest_link_is_turned_round_and_others_are_exchanged() -> None:
    # Step 2 chooses 1, the oldest.  Then 1 gets a new link to 0 and one of 2 and 3, and 0 gets two of 1's.
    session = with_views({0: {1: 5, 2: 1, 3: 0}, 1: {4: 2, 5: 7, 6: 3}}, length=2)
    nodes = nodes_of(session)

    async def exchange(x: Experimenter) -> None:
        x.spawn(nodes["peer-0"].exchange())
        await x.sleep(1)

    session.perform(exchange)
    mine, its = nodes["peer-0"].made, nodes["peer-1"].made
    assert len(mine) == len(its) == 3
    assert "peer-1" not in mine
    assert its["peer-0"] == nodes["peer-1"].cycles  # of age 0
    given = {"peer-2", "peer-3"} & set(its)
    taken = {"peer-4", "peer-5", "peer-6"} & set(mine)
    assert (len(given), len(taken)) == (1, 2)
    assert not taken & set(its)
    ages = {a: nodes["peer-0"].cycles - mine[a] for a in taken}
    assert all(ages[a] == {"peer-4": 2, "peer-5": 7, "peer-6": 3}[a] for a in taken)  # they keep their ages


def test_links_to_oneself_and_to_neighbours_are_left_out_and_nothing_is_lost_for_them() -> None:
    session = with_views({0: {1: 5, 2: 1, 3: 0}, 1: {0: 2, 2: 7, 3: 3}}, length=3)
    nodes = nodes_of(session)

    async def exchange(x: Experimenter) -> None:
        x.spawn(nodes["peer-0"].exchange())
        await x.sleep(1)

    session.perform(exchange)
    assert set(nodes["peer-0"].made) == {"peer-1", "peer-2", "peer-3"}
    assert set(nodes["peer-1"].made) == {"peer-0", "peer-2", "peer-3"}


def test_a_neighbour_that_does_not_answer_is_forgotten() -> None:
    session = with_views({0: {1: 5, 2: 1, 3: 0}}, length=2)

    async def exchange(x: Experimenter) -> None:
        await x.control.crash("peer-1")
        x.spawn(nodes_of(session)["peer-0"].exchange())
        await x.sleep(1)

    session.perform(exchange)
    assert set(nodes_of(session)["peer-0"].made) == {"peer-2", "peer-3"}


def shape(formation: str, seed: int) -> dict[str, float]:
    """What 400 peers' views look like after 40 cycles."""
    overlay = CyclonOverlay(nodes=400, view=10, shuffle=5, formation=formation, arrival=0.01)
    session = SimSession(overlay, seed=seed, detailed=False)

    async def form(x: Experimenter) -> dict[str, tuple[str, ...]]:
        await overlay.ready(x)
        await x.sleep(40)
        return await views_of(x, peers(400))

    views = session.perform(form)
    assert not session.kernel.bugs
    assert {len(view) for view in views.values()} == {10}
    assert all(a not in view and len(set(view)) == 10 for a, view in views.items())
    graph = both_ways(views)
    assert len(components(graph)) == 1
    return {"in-degrees": pstdev(in_degrees(views).values()), "clustering": clustering(graph)}


def test_joining_and_starting_at_random_lead_to_the_same_kind_of_graph() -> None:
    joined, built = shape("joined", 1), shape("converged", 2)
    assert built["in-degrees"] == pytest.approx(joined["in-degrees"], rel=0.2)
    assert built["in-degrees"] < 0.6 * 10**0.5  # a random graph's: the square root of 10
    assert built["clustering"] == pytest.approx(joined["clustering"], rel=0.1)


def test_a_newcomer_becomes_known_before_any_cycle_and_nobody_else_loses_or_gains() -> None:
    overlay = CyclonOverlay(nodes=100, view=8, shuffle=4, cycle=0)
    session = SimSession(overlay, seed=4)

    async def join(x: Experimenter) -> tuple[Any, Any]:
        await overlay.ready(x)
        await x.control.crash("peer-99")
        await x.sleep(1)
        for node in list(nodes_of(session).values())[:99]:
            node.made.pop("peer-99", None)
            node.capacity = len(node.made)  # full: a newcomer must take a place
        before = in_degrees(await views_of(x, peers(99)))
        await x.control.restart("peer-99")
        await x.sleep(2)
        return before, in_degrees(await views_of(x, peers(100)))

    before, after = session.perform(join)
    known = after.pop("peer-99")
    assert 5 <= known <= 8
    # Who gave a link that the newcomer had been given already has given it to nobody.
    twice = known - len(nodes_of(session)["peer-99"].made)
    lost = {a: before[a] - after[a] for a in before}
    assert min(lost.values()) >= 0
    assert sum(lost.values()) == twice <= 2


def dead_links(oldest: bool) -> int:
    """Links to dead peers, 25 cycles after half of 200 have crashed."""
    overlay = CyclonOverlay(nodes=200, view=10, shuffle=5, oldest=oldest, formation="converged")
    session = SimSession(overlay, seed=5, detailed=False)

    async def experiment(x: Experimenter) -> int:
        await x.sleep(15)
        for i in range(100):
            await x.control.crash(f"peer-{i}")
        await x.sleep(25)
        views = await views_of(x, peers(200))
        assert len(views) == 100
        return sum(neighbour not in views for view in views.values() for neighbour in view)

    return session.perform(experiment)


def test_the_dead_are_forgotten_because_the_oldest_link_is_tried_first() -> None:
    assert dead_links(oldest=True) == 0
    assert dead_links(oldest=False) > 20


def coverage(acknowledged: bool) -> float:
    """Share of 150 living peers reached with half of 300 just crashed."""
    overlay = CyclonOverlay(
        nodes=300, view=20, fanout=4, cycle=0, acknowledged=acknowledged, formation="converged"
    )
    session = SimSession(overlay, seed=6, detailed=False)

    async def experiment(x: Experimenter) -> float:
        for i in range(150):
            await x.control.crash(f"peer-{i}")
        for message in range(10):
            await x.at(f"peer-{200 + message}", Teller).publish(News(message, "text"))
        await x.sleep(2)
        return fmean(len(a.deliveries) for a in await accounts(x, peers(300)[150:])) / 10

    return session.perform(experiment)


def test_acknowledgements_find_the_dead_and_tell_others_instead() -> None:
    unsure, sure = coverage(False), coverage(True)
    assert 0.5 < unsure < 0.9  # two of four are dead: a share r = 1 - e^-2r = 0.80, if it takes off
    assert sure > 0.95  # 1 - e^-4


def test_who_has_lost_all_neighbours_joins_again() -> None:
    session = SimSession(CyclonOverlay(nodes=12, view=4, shuffle=2), seed=7)

    async def experiment(x: Experimenter) -> set[str]:
        await x.sleep(10)
        lost = nodes_of(session)["peer-5"]
        for neighbour in tuple(lost.made):
            await x.control.crash(neighbour)
        await x.sleep(10)
        return set(lost.made)

    assert session.perform(experiment)


def test_who_has_left_is_no_member_and_is_forgotten() -> None:
    session = SimSession(CyclonOverlay(nodes=30, view=6, shuffle=3), seed=8)

    async def experiment(x: Experimenter) -> dict[str, tuple[str, ...]]:
        await x.sleep(10)
        await x.at("peer-3", Cyclon).leave()
        with pytest.raises(NotAMember):
            await x.at("peer-3", Teller).publish(News(1, "text"))
        await x.sleep(20)
        return await views_of(x, peers(30))

    views = session.perform(experiment)
    assert len(views) == 29
    assert not any("peer-3" in view for view in views.values())


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
@pytest.mark.parametrize("formation", ["joined", "converged"])
def test_in_a_small_overlay_everybody_knows_everybody_and_hears_everything(
    nodes: int, formation: Any
) -> None:
    overlay = CyclonOverlay(nodes=nodes, formation=formation)
    session = SimSession(overlay, seed=nodes)

    async def experiment(x: Experimenter) -> tuple[Any, list[Account]]:
        await overlay.ready(x)
        await x.sleep(20)
        await x.client.publish(1, "text")
        await x.sleep(1)
        return await views_of(x, peers(nodes)), await accounts(x, peers(nodes))

    views, told = session.perform(experiment)
    assert {a: sorted(view) for a, view in views.items()} == {
        a: sorted(set(peers(nodes)) - {a}) for a in peers(nodes)
    }
    assert [len(account.deliveries) for account in told] == [1] * nodes


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="--shuffle 9: a peer has --view 4 links"):
        SimSession(CyclonOverlay(shuffle=9, view=4))
    session = SimSession(CyclonOverlay(nodes=6, cycle=0, formation="converged"))
    before = dict(nodes_of(session)["peer-0"].made)

    async def experiment(x: Experimenter) -> None:
        bad: Any = (Link("peer-1", "old"),)  # type: ignore[arg-type]
        with pytest.raises(BadArguments, match="links"):
            await x.at("peer-0", Cyclon).shuffle("peer-1", bad)

    session.perform(experiment)
    assert nodes_of(session)["peer-0"].made == before


@pytest.mark.parametrize(
    ("law", "setting"),
    [(Traffic, {"n": 200, "c": 12, "l": 5}), (Degrees, {"n": 200, "c": 7, "l": 3, "cycles": 20})],
)
def test_its_laws_hold_at_other_sizes(law: type[Law], setting: dict[str, int]) -> None:
    record = check(law, given=setting)
    assert record.holds, record.wrong


def test_who_comes_back_joins_whatever_the_formation_was() -> None:
    session = SimSession(CyclonOverlay(nodes=10, view=4, shuffle=2, cycle=0, formation="converged"))

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await x.control.crash("peer-3")
        await x.control.restart("peer-3")
        at_first = len(nodes_of(session)["peer-3"].made)
        await x.sleep(2)
        return at_first, len(nodes_of(session)["peer-3"].made)

    at_first, joined = session.perform(experiment)
    assert at_first == 0
    assert joined > 0


@pytest.mark.local
def test_live_peers_know_each_other_again_after_a_quarter_is_killed() -> None:
    overlay = CyclonOverlay(nodes=8, view=7, shuffle=4, cycle=0.3, fanout=7)
    with open_session("local", overlay, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[dict[str, Any], list[Account]]:
            await overlay.ready(x)
            for i in range(2):
                await x.control.crash(f"peer-{i}")
            views: dict[str, Any] = {}
            for _ in range(40):
                await x.sleep(0.5)
                views = await views_of(x, peers(8))
                if len(views) == 6 and all(len(set(view) & set(views)) >= 3 for view in views.values()):
                    break
            await x.client.publish(1, "text")
            await x.client.quiet()
            return views, await accounts(x, peers(8)[2:])

        views, told = session.perform(experiment)
    assert len(views) == 6
    assert [len(account.deliveries) for account in told] == [1] * 6
