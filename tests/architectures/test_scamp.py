"""Scamp: views follow the number of peers, subscriptions are forwarded, renewed and handed on."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from polyarch.architectures.scamp import Scamp, ScampOverlay
from polyarch.blocks.broadcast import News, Teller
from polyarch.blocks.graphs import clustering, components
from polyarch.blocks.overlay import NotAMember
from polyarch.blocks.partial_views import both_ways, in_degrees, place_in, views_of
from polyarch.core import BadArguments
from polyarch.experiment.laws import check
from polyarch.jobs.broadcast import Account
from polyarch.laws.scamp import Growth, length_on_paper
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

Views = dict[str, tuple[str, ...]]


def nodes_of(session: SimSession) -> dict[str, Scamp]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, Scamp)}


def peers(n: int) -> list[str]:
    return [f"peer-{i}" for i in range(n)]


async def heard(x: Experimenter, members: list[str], message: int) -> int:
    """How many of them have delivered it, once."""
    told: list[Account] = [await x.at(a, Teller).account() for a in members]
    return sum([d.message for d in account.deliveries].count(message) == 1 for account in told)


def formed(seconds: float = 0.0, seed: int = 1, **parameters: Any) -> tuple[SimSession, Views]:
    """Views so long after the last has joined."""
    overlay = ScampOverlay(**{"lease": 0, "cycle": 0, "arrival": 0.1} | parameters)
    session = SimSession(overlay, seed=seed, detailed=False)

    async def form(x: Experimenter) -> Views:
        await overlay.ready(x)
        await x.sleep(2 + seconds)
        return await views_of(x, peers(overlay.nodes))

    views: Views = session.perform(form)
    assert not session.kernel.bugs
    assert all(a not in view for a, view in views.items())
    assert len(components(both_ways(views))) == 1
    return session, views


def test_in_views_are_the_other_side_of_partial_views() -> None:
    session, views = formed(nodes=100)
    nodes = nodes_of(session)
    assert {(a, b) for a, view in views.items() for b in view} == {
        (b, a) for a, node in nodes.items() for b in node.inview
    }


def mean_length(views: Views) -> float:
    return fmean(map(len, views.values()))


def test_views_grow_with_the_logarithm_of_peers_and_with_c() -> None:
    lengths = {
        (n, c): fmean(mean_length(formed(nodes=n, additional=c, seed=s)[1]) for s in range(2))
        for n, c in ((50, 1), (200, 0), (200, 1), (200, 3))
    }
    for (n, c), length in lengths.items():
        assert length == pytest.approx(length_on_paper(n, c), rel=0.25)
    assert lengths[200, 0] < lengths[200, 1] < lengths[200, 3]
    assert lengths[50, 1] < lengths[200, 1]


def test_a_contact_forwards_to_all_its_neighbours_and_so_many_copies_more() -> None:
    session, _ = formed(nodes=100, indirection=0, additional=3)

    async def subscribe(x: Experimenter) -> Views:
        await x.control.crash("peer-99")
        for node in nodes_of(session).values():
            node.partial.pop("peer-99", None)
            node.inview.pop("peer-99", None)
        await x.control.restart("peer-99")
        await x.sleep(3)
        return await views_of(x, peers(100))

    after: Views = session.perform(subscribe)
    (contact,) = after["peer-99"]
    assert in_degrees(after)["peer-99"] == len(after[contact]) - (contact in knowing(after, "peer-99")) + 3


def knowing(views: Views, peer: str) -> set[str]:
    return {a for a, view in views.items() if peer in view}


def test_indirection_spares_the_only_contact() -> None:
    def known(indirection: float) -> int:
        _, views = formed(nodes=60, contacts=1, indirection=indirection)
        return in_degrees(views)["peer-0"]

    assert known(0.0) == 59  # everybody begins with it
    assert known(1.0) < 30


def test_leases_are_renewed_and_untangle_the_graph() -> None:
    lengths, tangles = [], []
    for seconds in (0.0, 45.0):
        session, views = formed(seconds, nodes=150, lease=16.0)
        lengths.append(mean_length(views))
        tangles.append(clustering(both_ways(views)))
        links = {(a, b) for a, view in views.items() for b in view}
        kept = {(b, a) for a, node in nodes_of(session).items() for b in node.inview}
        assert len(links ^ kept) < 0.02 * len(links)  # under way
    assert lengths[1] == pytest.approx(lengths[0], rel=0.3)
    assert tangles[1] < 0.9 * tangles[0]


def dead_links(lease: float) -> int:
    """Links to the dead, 25 s after a fifth of 60 have crashed."""
    overlay = ScampOverlay(nodes=60, additional=2, lease=lease)
    session = SimSession(overlay, seed=3, detailed=False)

    async def experiment(x: Experimenter) -> int:
        await overlay.ready(x)
        await x.sleep(5)
        for i in range(12):
            await x.control.crash(f"peer-{i}")
        await x.sleep(25)
        views = await views_of(x, peers(60))
        assert len(views) == 48
        assert len(components(both_ways(views))) == 1
        return sum(neighbour not in views for view in views.values() for neighbour in view)

    return session.perform(experiment)


def test_links_to_the_dead_end_with_their_leases() -> None:
    assert dead_links(lease=20.0) == 0
    assert dead_links(lease=0.0) > 0


def test_who_leaves_hands_its_neighbours_to_all_but_c_plus_1_of_those_who_know_it() -> None:
    session, views = formed(nodes=60, additional=1)
    nodes = nodes_of(session)
    known, knowing = list(nodes["peer-9"].partial), list(nodes["peer-9"].inview)

    async def leave(x: Experimenter) -> Views:
        await x.at("peer-9", Scamp).leave()
        with pytest.raises(NotAMember):
            await x.at("peer-9", Teller).publish(News(1, "text"))
        await x.sleep(1)
        return await views_of(x, peers(60))

    after: Views = session.perform(leave)
    assert len(after) == 59
    assert not any("peer-9" in view for view in after.values())
    assert not any("peer-9" in node.inview for node in nodes.values())
    for i, j in enumerate(knowing):
        given = known[i % len(known)]
        expected = set(views[j]) - {"peer-9"}
        if i < len(knowing) - 2 and given != j:
            expected.add(given)
        assert set(after[j]) == expected


def test_who_is_in_nobodys_view_notices_and_subscribes_again() -> None:
    overlay = ScampOverlay(nodes=30, lease=0)
    session = SimSession(overlay, seed=4)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await overlay.ready(x)
        await x.sleep(2)
        for node in nodes_of(session).values():
            node.partial.pop("peer-5", None)
        await x.sleep(2)
        isolated = in_degrees(await views_of(x, peers(30)))["peer-5"]
        await x.sleep(10)
        return isolated, in_degrees(await views_of(x, peers(30)))["peer-5"]

    isolated, known = session.perform(experiment)
    assert isolated == 0
    assert known > 0


def test_who_knows_nobody_any_more_joins_again() -> None:
    session = SimSession(ScampOverlay(nodes=20), seed=5)

    async def experiment(x: Experimenter) -> int:
        await x.sleep(5)
        alone = nodes_of(session)["peer-8"]
        for neighbour in list(alone.partial):
            await x.control.crash(neighbour)
        alone.partial.clear()
        await x.sleep(10)
        return len(alone.partial)

    assert session.perform(experiment) > 0


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_small_overlay_hears_everything(nodes: int) -> None:
    overlay = ScampOverlay(nodes=nodes)
    session = SimSession(overlay, seed=nodes)

    async def experiment(x: Experimenter) -> int:
        await overlay.ready(x)
        await x.sleep(2)
        await x.client.publish(1, "text")
        await x.sleep(1)
        return await heard(x, peers(nodes), 1)

    assert session.perform(experiment) == nodes


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="additional"):
        ScampOverlay(additional=-1)
    session, views = formed(nodes=10)

    async def experiment(x: Experimenter) -> Views:
        bad: Any = 7
        with pytest.raises(BadArguments, match="newcomer"):
            await x.at("peer-0", Scamp).subscribe(bad, 0.0)
        x.at("peer-0", Scamp).replace("peer-99", "peer-98")
        await x.sleep(1)
        return await views_of(x, peers(10))

    assert session.perform(experiment) == views


def test_places_are_found_in_numbered_and_in_other_addresses() -> None:
    assert [place_in(peers(12), a) for a in ("peer-0", "peer-11")] == [0, 11]
    assert place_in(["b-1", "b-0", "x"], "b-0") == 1
    assert place_in(["b-1", "b-0", "x"], "x") == 2


def test_its_law_holds_at_other_sizes() -> None:
    record = check(Growth, given={"n": 200, "c": 2})
    assert record.holds, record.wrong


@pytest.mark.local
def test_live_peers_are_in_one_piece_and_hear_each_other_after_a_quarter_is_killed() -> None:
    overlay = ScampOverlay(nodes=8, additional=3, lease=3.0, cycle=0.3)
    with open_session("local", overlay, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[Views, int]:
            await overlay.ready(x)
            for i in range(2):
                await x.control.crash(f"peer-{i}")
            views: Views = {}
            for _ in range(40):
                await x.sleep(0.5)
                views = await views_of(x, peers(8))
                dead = [n for view in views.values() for n in view if n not in views]
                if len(views) == 6 and not dead and min(in_degrees(views).values()) > 1:
                    break
            await x.at("peer-5", Teller).publish(News(1, "text"))
            await x.client.quiet()
            return views, await heard(x, peers(8)[2:], 1)

        views, reached = session.perform(experiment)
    assert len(views) == 6
    assert not [n for view in views.values() for n in view if n not in views]
    assert reached >= 5
