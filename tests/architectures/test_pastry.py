"""Pastry: messages end at the closest live peer; tables fill, prefer near peers, and are repaired."""

from __future__ import annotations

from functools import partial
from typing import Any

import overlay_answers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_answers import lookups

from polyarch.architectures.pastry import Pastry, PastryOverlay
from polyarch.blocks.key_routing import MOST_HOPS, Found, NoRoute, stretch
from polyarch.blocks.overlay import NotAMember, Peer
from polyarch.blocks.prefix import LeafSet, digit, gap, prefix_ranges, shared
from polyarch.blocks.ring import identifier
from polyarch.core import BadArguments, Failure, Verdict, gather, settle
from polyarch.experiment.laws import check
from polyarch.jobs.lookup import Holder
from polyarch.laws.pastry import Adjacent, Hops, State
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Network, Regional
from polyarch.runtimes.sim.session import SimSession


def nodes_of(session: SimSession) -> dict[str, Pastry]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, Pastry)}


def leaf_sets(session: SimSession) -> dict[str, tuple[Peer, ...]]:
    return {address: tuple(node.leaves) for address, node in nodes_of(session).items()}


def slots(session: SimSession) -> set[tuple[str, int, int]]:
    """The slots of routing tables that are filled."""
    return {
        (address, i, d)
        for address, node in nodes_of(session).items()
        for i, row in enumerate(node.table.rows)
        for d, entry in enumerate(row)
        if entry is not None
    }


wrong = partial(overlay_answers.wrong, rule="closest")


def peers(first: int, end: int) -> list[str]:
    return [f"peer-{i}" for i in range(first, end)]


# -- the state ----------------------------------------------------------------------------------------------

places = st.lists(st.integers(0, 255), min_size=1, max_size=40, unique=True)


@given(places, st.integers(0, 255), st.sampled_from([1, 2, 4]))
@settings(max_examples=60, deadline=None)
def test_leaf_sets_alone_lead_to_the_closest_node(ids: list[int], key: int, half: int) -> None:
    # Whoever's leaf set covers the key names somebody closer, and in the end the closest of all.
    ring = sorted(Peer(i, str(i)) for i in ids)
    closest = min(ring, key=lambda p: (gap(p.id, key, 8), p.id))
    for at in range(len(ring)):
        built: LeafSet[Peer] = LeafSet(ring[at], half, 8)
        built.build(ring, at)
        learned: LeafSet[Peer] = LeafSet(ring[at], half, 8)
        for p in ring:
            learned.add(p)
        assert built.sides == learned.sides
        if built.covers(key) and built.closest(key) == ring[at]:
            assert ring[at] == closest


@given(places, st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_a_row_of_a_routing_table_has_those_who_share_so_many_digits(ids: list[int], b: int) -> None:
    ring = sorted(Peer(i, str(i)) for i in ids)
    me = ring[len(ring) // 2].id
    for row, bounds in enumerate(prefix_ranges(ring, me, 8, b)):
        for d in range(1 << b):
            fit = [
                p
                for p in ring
                if p.id >> (8 - row * b) == me >> (8 - row * b) and digit(p.id, row, 8, b) == d
            ]
            assert ring[bounds[d] : bounds[d + 1]] == fit
            assert all(shared(p.id, me, 8, b) == row for p in fit if digit(me, row, 8, b) != d)


def test_a_torn_side_claims_no_more_than_its_last_leaf() -> None:
    ring = [Peer(i * 10, str(i)) for i in range(25)]
    leaves: LeafSet[Peer] = LeafSet(ring[0], 2, 8)
    leaves.build(ring, 0)
    assert leaves.covers(20)
    assert not leaves.covers(21)
    leaves.discard(ring[2])
    assert leaves.covers(10)
    assert not leaves.covers(11)
    leaves.add(ring[3])
    assert leaves.covers(30)


# -- arrival ------------------------------------------------------------------------------------------------


def test_joining_and_building_directly_end_in_the_same_state() -> None:
    joined = SimSession(PastryOverlay(nodes=100, maintain=1.0), seed=1, detailed=False)
    built = SimSession(PastryOverlay(nodes=100, formation="converged"), detailed=False)

    async def form(x: Experimenter) -> Any:
        await PastryOverlay(nodes=100).ready(x)
        early = slots(joined)
        await x.sleep(10)
        return early, await lookups(x, 300)

    early, answers = joined.perform(form)
    assert leaf_sets(joined) == leaf_sets(built)
    assert early <= slots(built)
    assert len(early) > 0.98 * len(slots(built)), "arrival fills nearly all"
    assert slots(joined) == slots(built), "maintenance fills the rest"
    assert not wrong(answers, peers(0, 100))
    assert not joined.kernel.bugs


@pytest.mark.parametrize("nodes", [1, 2, 3, 9, 17])
def test_small_overlays_know_everybody(nodes: int) -> None:
    session = SimSession(PastryOverlay(nodes=nodes), seed=nodes)

    async def form(x: Experimenter) -> Any:
        await PastryOverlay(nodes=nodes).ready(x)
        return await lookups(x, 30)

    assert not wrong(session.perform(form), peers(0, nodes))
    assert leaf_sets(session) == leaf_sets(SimSession(PastryOverlay(nodes=nodes, formation="converged")))


def stretch_of(locality: bool) -> float:
    overlay = PastryOverlay(nodes=50, locality=locality, arrival=0.7)
    session = SimSession(overlay, seed=1, network=Network(latency=Regional()), detailed=False)

    async def measure(x: Experimenter) -> float:
        await overlay.ready(x)
        return (await stretch(x, 50, 32))["stretch"]

    return session.perform(measure)


def test_routes_are_shorter_when_near_peers_are_preferred() -> None:
    near, any_ = stretch_of(True), stretch_of(False)
    assert near < 1.3 < any_


# -- departure ----------------------------------------------------------------------------------------------


def test_lookups_survive_the_crash_of_a_quarter_and_leaf_sets_are_repaired() -> None:
    overlay = PastryOverlay(nodes=200, formation="converged")
    session = SimSession(overlay, seed=2)

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
        for address in peers(0, 50):
            await x.control.crash(address)
        at_once = wrong(await lookups(x, 200), peers(50, 200))
        await x.sleep(12)
        return at_once, wrong(await lookups(x, 200), peers(50, 200))

    at_once, later = session.perform(experiment)
    assert not later
    assert len(at_once) <= 2
    alive = {a: node for a, node in nodes_of(session).items() if a in peers(50, 200)}
    ring = sorted(node.me for node in alive.values())
    for at, me in enumerate(ring):
        right: LeafSet[Peer] = LeafSet(me, 8, 32)
        right.build(ring, at)
        assert alive[me.address].leaves.sides == right.sides
    assert not session.kernel.bugs


def test_hosts_that_fall_silent_cost_time_but_messages_go_round_them() -> None:
    session = SimSession(PastryOverlay(nodes=200, formation="converged", keep_alive=0, maintain=0), seed=3)

    async def experiment(x: Experimenter) -> list[Any]:
        for i in range(20):
            session.kernel.crash(f"peer-{i}", silent=True)
        answers = await lookups(x, 60)
        failures = wrong(answers, peers(20, 200))  # whoever asks a silent peer first waits for long
        assert len(failures) < 5
        assert all(isinstance(f, Failure) for _, f in failures)
        return [a for _, a in answers if isinstance(a, Holder) and a.timeouts]

    assert session.perform(experiment)


def test_who_leaves_is_replaced_at_once_without_any_upkeep() -> None:
    overlay = PastryOverlay(nodes=40, formation="converged", keep_alive=0, maintain=0)
    session = SimSession(overlay)

    async def experiment(x: Experimenter) -> list[Any]:
        for address in peers(0, 10):
            await x.at(address, Pastry).leave()
        with pytest.raises(NotAMember):
            await x.at("peer-0", Pastry).whoami()
        await x.sleep(1)
        return wrong(await lookups(x, 100), peers(10, 40))

    assert not session.perform(experiment)
    gone = set(peers(0, 10))
    for address, node in nodes_of(session).items():
        assert address in gone or not gone & {n.address for n in node.leaves}


@pytest.mark.parametrize("seed", range(2))
def test_values_outlive_crashes_leaves_and_returns(seed: int) -> None:
    overlay = PastryOverlay(nodes=24, formation="converged")
    session = SimSession(overlay, seed=seed)

    async def experiment(x: Experimenter) -> list[Any]:
        for i in range(30):
            await x.client.put(f"key-{i}", i)
        for i in range(0, 8, 2):
            await x.control.crash(f"peer-{i}")
            await x.at(f"peer-{i + 1}", Pastry).leave()
            await x.sleep(3)
        values = [await x.client.get(f"key-{i}") for i in range(30)]
        for i in range(0, 8, 2):
            await x.control.restart(f"peer-{i}")
        await x.sleep(5)
        return [*values, *[await x.client.get(f"key-{i}") for i in range(30)]]

    assert session.perform(experiment) == [*range(30), *range(30)]


def test_a_peer_that_has_lost_all_others_comes_back() -> None:
    session = SimSession(PastryOverlay(nodes=3), seed=4)

    async def experiment(x: Experimenter) -> Verdict:
        await PastryOverlay(nodes=3).ready(x)
        await x.control.crash("peer-0")
        await x.control.crash("peer-1")
        await x.sleep(5)
        await x.control.restart("peer-0")
        await x.control.restart("peer-1")
        await x.sleep(10)
        return await PastryOverlay(nodes=3).is_right(x)

    verdict = session.perform(experiment)
    assert verdict.holds, verdict.detail


# -- what does not fit --------------------------------------------------------------------------------------


def test_bad_questions_get_clear_answers() -> None:
    session = SimSession(PastryOverlay(nodes=4, formation="converged"))

    async def ask(x: Experimenter, key: Any) -> Any:
        return await x.client.lookup(key)

    for key in (1 << 32, -1):
        with pytest.raises(BadArguments, match="is not of 32 bits"):
            session.perform(partial(ask, key=key))
    with pytest.raises(ValueError, match="two of 300 nodes have the same identifier"):
        SimSession(PastryOverlay(nodes=300, bits=8))
    with pytest.raises(ValueError, match="--bits 32: it must be a multiple of --b 3"):
        SimSession(PastryOverlay(nodes=4, b=3))
    with pytest.raises(ValueError, match="--leaves 5: it must be even"):
        SimSession(PastryOverlay(nodes=4, leaves=5))


def test_an_overlay_without_members_refuses_and_hangs_nothing() -> None:
    session = SimSession(PastryOverlay(nodes=4, formation="converged"))

    async def experiment(x: Experimenter) -> None:
        for address in peers(0, 4):
            await x.at(address, Pastry).leave()
        await x.client.lookup("key")

    with pytest.raises(NotAMember):
        session.perform(experiment)


def test_nodes_that_are_not_there_or_lie_about_their_place_are_not_taken() -> None:
    session = SimSession(PastryOverlay(nodes=8, formation="converged"))
    node = nodes_of(session)["peer-0"]
    before = dict(node.known())
    garbage = (Peer(1, "peer-3"), Peer(identifier("nobody", 32), "nobody"), Peer(1 << 40, "x"), Peer(-5, "y"))

    async def experiment(x: Experimenter) -> None:
        await x.at("peer-0", Pastry).departed(Peer(7, "nobody"), garbage)
        for peer in garbage:
            await x.at("peer-0", Pastry).arrived(peer)

    session.perform(experiment)
    assert dict(node.known()) == before
    assert not session.kernel.bugs


def test_a_message_that_goes_round_in_a_circle_is_given_up() -> None:
    session = SimSession(PastryOverlay(nodes=8, formation="converged"))
    a, b = nodes_of(session)["peer-0"], nodes_of(session)["peer-1"]
    a.next_hop = lambda key: b.me  # type: ignore[method-assign]
    b.next_hop = lambda key: a.me  # type: ignore[method-assign]

    async def experiment(x: Experimenter) -> Found:
        return await x.at("peer-0", Pastry).lookup(5)

    with pytest.raises(NoRoute, match=f"given up after {MOST_HOPS} hops"):
        session.perform(experiment)


# -- laws, scale, live ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "given_"),
    [
        (Hops, {"n": 700, "b": 2, "leaves": 8, "pairs": 3000}),
        (State, {"n": 10**5, "tables": 6}),
        (Adjacent, {"killed": 3, "leaves": 8, "places": 8, "lookups": 400}),
        (Adjacent, {"killed": 4, "leaves": 8, "places": 8, "lookups": 400}),
    ],
)
def test_laws_hold_at_other_settings_than_the_listed(law: Any, given_: dict[str, int]) -> None:
    record = check(law, given=given_)
    assert record.holds, record.wrong


def test_five_thousand_peers_need_little_and_a_fifth_may_fail() -> None:
    session = SimSession(
        PastryOverlay(nodes=5000, formation="converged", keep_alive=0, bits=40), detailed=False
    )

    async def experiment(x: Experimenter) -> list[Any]:
        for i in range(1000):
            session.kernel.crash(f"peer-{i}")
        return await settle(
            *(x.at(f"peer-{1000 + i}", Pastry).lookup(x.random.below(1 << 40)) for i in range(200))
        )

    found = session.perform(experiment)
    assert all(isinstance(f, Found) and f.hops <= 8 for f in found)
    assert any(f.timeouts for f in found)
    assert max(len(node.known()) for node in nodes_of(session).values()) < 120


@pytest.mark.local
def test_live_peers_answer_and_keep_values_while_a_quarter_is_killed() -> None:
    overlay = PastryOverlay(nodes=12)
    keys = [f"key-{i}" for i in range(20)]
    with open_session("local", overlay, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
            await overlay.ready(x)
            await gather(*(x.client.put(key, key) for key in keys))
            for address in peers(0, 3):  # no three of which are neighbours: they hold no key alone
                await x.control.crash(address)
            for _ in range(20):  # on a busy machine who is late is taken for dead, for a while
                answers = wrong(await lookups(x, 100), peers(3, 12))
                if not answers:
                    break
                await x.sleep(0.5)
            return answers, await gather(*(x.client.get(key) for key in keys))

        answers, values = session.perform(experiment)
    assert not answers
    assert values == keys
