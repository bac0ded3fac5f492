"""Unstructured overlays and flooding: peers build the graph that they are to build, keep it, and a flood asks
exactly those that it must."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from polyarch.architectures.flooding import Flooding, FloodingOverlay
from polyarch.blocks import graphs
from polyarch.blocks.unstructured import Plan, ask_all, links_held
from polyarch.core import BadArguments, Failure, Random, settle
from polyarch.experiment import run as experiments
from polyarch.experiment.laws import check, laws
from polyarch.jobs.lookup import Holder, Lookup, NotFound, holders
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Network, Uniform
from polyarch.runtimes.sim.session import SimSession

KINDS = ("random", "scale-free", "regular")


def peers(n: int) -> tuple[str, ...]:
    return tuple(f"peer-{i}" for i in range(n))


def nodes_of(session: SimSession) -> list[Flooding]:
    nodes = [env.node for env in session.kernel.directory.values()]
    return [node for node in nodes if isinstance(node, Flooding)]


def run(
    architecture: FloodingOverlay,
    experiment: Callable[[Experimenter], Coroutine[Any, Any, Any]],
    seed: int = 1,
    **options: Any,
) -> Any:
    """What an experiment gives, when the overlay is there; nobody may have raised anything."""
    session = SimSession(architecture, seed=seed, **options)

    async def whole(x: Experimenter) -> Any:
        await architecture.ready(x)
        return await experiment(x)

    result = session.perform(whole)
    assert not session.kernel.bugs
    return result


def formed(architecture: FloodingOverlay, seed: int = 1) -> list[list[int]]:
    async def links(x: Experimenter) -> list[list[int]]:
        known = await ask_all(x, peers(architecture.nodes), "known")
        graph = await links_held(x, peers(architecture.nodes))
        assert [len(k) for k in known] == graphs.degrees(graph), "a link that only one end knows"
        return graph

    return run(architecture, links, seed, detailed=False)


# -- the overlay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", KINDS)
def test_joining_and_building_directly_end_in_the_same_kind_of_graph(graph: str) -> None:
    # Random structures: the same in distribution.  (The laws compare 10,000 peers, UN-01 and UN-04.)
    measured = []
    for formation in ("joined", "converged"):
        built = formed(FloodingOverlay(nodes=1000, graph=graph, formation=formation, repair=0))
        degrees = graphs.degrees(built)
        shares = [degrees.count(k) / 1000 for k in range(8)]
        path = graphs.mean_path(built, range(0, 1000, 50))
        measured.append((shares, path, graphs.clustering(built), len(graphs.components(built)[0]) / 1000))
    (shares, path, clustering, giant), (directly, *others) = measured
    assert shares == pytest.approx(directly, abs=0.07)
    assert [path, clustering, giant] == pytest.approx(others, abs=0.35)
    assert clustering == pytest.approx(others[1], abs=0.03)
    if graph == "regular":
        assert shares[4] == directly[4] == 1


@pytest.mark.parametrize("graph", KINDS)
@pytest.mark.parametrize("nodes", [5, 6, 9])
def test_small_overlays_form_too(graph: str, nodes: int) -> None:
    for arrival in (0.02, 0.0):
        built = formed(FloodingOverlay(nodes=nodes, graph=graph, degree=2, arrival=arrival, repair=0))
        assert graph == "random" or len(graphs.components(built)[0]) == nodes


def test_one_peer_alone_finds_what_it_has_and_nothing_else() -> None:
    async def ask(x: Experimenter) -> tuple[Any, Any]:
        return await x.client.lookup(5), await settle(x.at("peer-0", Flooding).search(1 << 31))

    alone = FloodingOverlay(nodes=1)
    assert run(alone, ask)[0] == Holder("peer-0")


def test_there_are_graphs_that_cannot_be() -> None:
    for values, why in (
        ({"graph": "regular", "nodes": 4}, "there are 3 others"),
        ({"graph": "regular", "degree": 3}, "needs an even degree"),
        ({"graph": "scale-free", "degree": 1}, "needs an even degree"),
    ):
        with pytest.raises(ValueError, match=why):
            SimSession(FloodingOverlay(**values))


@pytest.mark.parametrize("graph", KINDS)
def test_upkeep_keeps_the_overlay_together_and_its_degree(graph: str) -> None:
    """A third crashes, then others leave, then all come back: and without upkeep it would not hold."""
    results = []
    for repair in (1.0, 0.0):
        architecture = FloodingOverlay(nodes=150, graph=graph, repair=repair, formation="converged")

        async def experiment(x: Experimenter) -> list[tuple[float, float]]:
            seen: list[tuple[float, float]] = []
            victims = Random(3).sample(peers(150), 50)
            rest = [p for p in peers(150) if p not in victims]

            async def look(alive: list[str]) -> None:
                graph = await links_held(x, alive)
                seen.append(
                    (graphs.links(graph) * 2 / len(alive), len(graphs.components(graph)[0]) / len(alive))
                )

            await look([*peers(150)])
            for victim in victims:
                await x.control.crash(victim)
            await x.sleep(8)
            await look(rest)
            leaving = Random(4).sample(rest, 20)
            rest = [p for p in rest if p not in leaving]
            for peer in leaving:
                await x.at(peer, Flooding).leave()
            await x.sleep(5)
            await look(rest)
            for victim in victims:
                await x.control.restart(victim)
            await x.sleep(8)
            await look(rest + victims)
            return seen

        results.append(run(architecture, experiment, detailed=False))
    (before, _), *after = results[0]
    for degree, connected in after:
        assert degree == pytest.approx(before, abs=0.6)
        assert connected > 0.96
    assert results[1][1][0] < 3.2


def test_a_peer_whose_neighbours_are_all_dead_finds_others() -> None:
    async def experiment(x: Experimenter) -> tuple[int, int]:
        (near,) = await ask_all(x, ["peer-7"], "known")
        for n in near:
            await x.control.crash(n)
        await x.sleep(4)
        (now,) = await ask_all(x, ["peer-7"], "known")
        return len(near), len(set(now) - set(near))

    before, new = run(FloodingOverlay(nodes=40, formation="converged", wiring=2), experiment)
    assert before > 0 < new


def test_who_leaves_a_regular_overlay_ties_its_neighbours_together() -> None:
    async def experiment(x: Experimenter) -> list[int]:
        for peer in peers(60)[:20]:
            await x.at(peer, Flooding).leave()
            await x.sleep(0.01)
        return graphs.degrees(await links_held(x, peers(60)[20:]))

    degrees = run(FloodingOverlay(nodes=60, graph="regular", formation="converged", repair=0), experiment)
    assert degrees.count(4) > 30  # all but where the two were neighbours before


# -- floods -----------------------------------------------------------------------------------------------


async def flood(x: Experimenter, source: int, ttl: int) -> tuple[int, int]:
    """(messages, peers asked) of one search for what nobody has."""
    before = (await x.control.traffic()).by_method.get("query", 0)
    counts = await ask_all(x, peers(200), "counts")
    (found,) = await settle(x.at(f"peer-{source}", Flooding, timeout=60).search(0, ttl))
    assert isinstance(found, NotFound)
    now = await ask_all(x, peers(200), "counts")
    asked = sum(c.asked - c.repeated for c in now) - sum(c.asked - c.repeated for c in counts)
    return (await x.control.traffic()).by_method["query"] - before, asked


@pytest.mark.parametrize("graph", KINDS)
def test_a_flood_takes_exactly_the_messages_that_counting_says(graph: str) -> None:
    architecture = FloodingOverlay(nodes=200, graph=graph, repair=0, copies=0, formation="converged")

    async def experiment(x: Experimenter) -> None:
        links = await links_held(x, peers(200))
        for part in graphs.components(links):
            if len(part) > 1:
                expected = sum(len(links[i]) for i in part) - len(part) + 1
                assert await flood(x, part[0], 200) == (expected, len(part) - 1)

    run(architecture, experiment)


def test_a_time_to_live_asks_exactly_those_within_so_many_hops() -> None:
    architecture = FloodingOverlay(nodes=200, repair=0, copies=0, formation="converged")

    async def experiment(x: Experimenter) -> None:
        links = await links_held(x, peers(200))
        for source in (3, 30, 113):
            for ttl, within in enumerate(graphs.balls(links, source, 6), 1):
                assert (await flood(x, source, ttl))[1] == within

    run(architecture, experiment)


def test_where_links_differ_in_length_a_query_that_came_by_a_detour_goes_less_far() -> None:
    architecture = FloodingOverlay(nodes=200, repair=0, copies=0, formation="converged")

    async def experiment(x: Experimenter) -> int:
        links = await links_held(x, peers(200))
        lacking = 0
        for source in range(20):
            within = graphs.balls(links, source, 4)[-1]
            lacking += within - (await flood(x, source, 4))[1]
        return lacking

    assert run(architecture, experiment, network=Network(latency=Uniform(0.001, 0.02))) > 0


def test_without_remembering_duplicates_a_flood_grows_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = FloodingOverlay(nodes=200, repair=0, copies=0, formation="converged", graph="regular")

    async def experiment(x: Experimenter) -> int:
        return (await flood(x, 0, 8))[0]

    with_it = run(architecture, experiment)

    def forgetful(self: Flooding, search: int, sender: str) -> bool:
        self.asked += 1
        return True

    monkeypatch.setattr(Flooding, "first_time", forgetful)
    assert with_it <= 601 < 10 * 601 < run(architecture, experiment)


def test_the_law_of_messages_does_not_hold_for_peers_that_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(laws()["UN-07"], given={"n": 60}).holds
    plain = Flooding.flood

    async def echoing(self: Flooding, key: int, ttl: int) -> Holder:
        if self.neighbours:
            self.at(self.neighbours[0]).query(self.random.bits64(), key, self.address, 0, 1)
        return await plain(self, key, ttl)

    monkeypatch.setattr(Flooding, "flood", echoing)
    record = check(laws()["UN-07"], given={"n": 60})
    assert record.measured["messages beyond 2E - N + 1"] == 3 * 10  # one each, of ten sources on three graphs
    assert not record.holds


def right(x: Experimenter, answers: list[Any], keys: list[int], n: int, copies: int) -> bool:
    return all(
        isinstance(a, Holder) and a.address in holders(key, peers(n), copies) for key, a in zip(keys, answers)
    )


@pytest.mark.parametrize("ring", [0, 1, 2])
def test_what_is_there_is_found_and_an_expanding_ring_asks_fewer(ring: int) -> None:
    architecture = FloodingOverlay(nodes=200, graph="regular", formation="converged", copies=10, ring=ring)
    keys = [(k << 20) + 7 for k in range(40)]

    async def experiment(x: Experimenter) -> tuple[bool, float]:
        answers = [await x.client.lookup(key) for key in keys]
        measured, _ = await architecture.observe(x)
        return right(x, answers, keys, 200, 10), measured["messages_per_search"]

    all_right, messages = run(architecture, experiment)
    assert all_right
    assert (messages > 500) if ring == 0 else (messages < 250)


def test_with_too_small_a_time_to_live_what_is_there_is_not_found() -> None:
    async def experiment(x: Experimenter) -> list[Holder | Failure]:
        return await settle(*(x.client.lookup(k << 20) for k in range(100)))

    found = {}
    for ttl in (1, 7):
        architecture = FloodingOverlay(nodes=200, graph="regular", formation="converged", ttl=ttl)
        answers = run(architecture, experiment)
        assert all(isinstance(a, (Holder, NotFound)) for a in answers)
        found[ttl] = sum(isinstance(a, Holder) for a in answers)
    assert found[1] < 12 < found[7] == 100


@pytest.mark.parametrize("kind", KINDS)
def test_when_all_have_been_away_at_once_they_find_each_other_again(kind: Any) -> None:
    async def experiment(x: Experimenter) -> tuple[int, list[list[int]]]:
        for change in (x.control.crash, x.control.restart):
            for peer in peers(24):
                await change(peer)
        await x.sleep(10)
        return len((await x.client.census()).members), await links_held(x, peers(24))

    members, graph = run(FloodingOverlay(nodes=24, graph=kind), experiment)
    assert members == len(graphs.components(graph)[0]) == 24
    assert 3 < sum(graphs.degrees(graph)) / 24 < 5


def test_peers_forget_searches_after_a_while() -> None:
    architecture = FloodingOverlay(nodes=50, formation="converged", hop=0.01)
    session = SimSession(architecture)

    async def experiment(x: Experimenter) -> int:
        for k in range(600):
            await settle(x.client.lookup(k))
        return 0

    session.perform(experiment)
    assert max(len(node.heard) + len(node.heard_before) for node in nodes_of(session)) < 300


def test_bad_questions_get_clear_answers() -> None:
    async def ask(x: Experimenter, key: int) -> Any:
        return await x.client.lookup(key)

    for key in (-1, 1 << 32):
        with pytest.raises(BadArguments, match="is not of 32 bits"):
            run(FloodingOverlay(nodes=8), lambda x, key=key: ask(x, key))  # type: ignore[misc]


def test_nobody_there_is_an_answer_too() -> None:
    async def experiment(x: Experimenter) -> Any:
        for peer in peers(8):
            await x.at(peer, Flooding).leave()
        (gone,) = await settle(x.client.lookup(1))
        for peer in peers(8):
            await x.control.crash(peer)
        (dead,) = await settle(x.client.lookup(1))
        return gone.code, dead.code

    assert run(FloodingOverlay(nodes=8, repair=0), experiment) == ("not-a-member", "unreachable")


def test_a_plan_is_the_same_for_all_who_build_it() -> None:
    assert Plan.of("scale-free", 4, peers(50), 3) == Plan.of("scale-free", 4, peers(50), 3)
    assert Plan.of("scale-free", 4, peers(50), 3) != Plan.of("scale-free", 4, peers(50), 4)


def test_ten_thousand_peers_are_flooded_with_little_memory() -> None:
    architecture = FloodingOverlay(nodes=10_000, formation="converged", repair=0, graph="scale-free")

    async def experiment(x: Experimenter) -> list[Any]:
        return await settle(*(x.client.lookup(f"key-{k}") for k in range(4)))

    assert all(isinstance(a, Holder) for a in run(architecture, experiment, detailed=False))


@pytest.mark.local
def test_twelve_live_peers_find_keys_while_a_quarter_is_killed() -> None:
    architecture = FloodingOverlay(nodes=12, graph="regular", copies=4, ttl=4, repair=0.3)
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> int:
            await architecture.ready(x)
            for i in range(3):
                await x.control.crash(f"peer-{i}")
            await x.sleep(2)
            answers = await settle(*(x.client.lookup(k << 20) for k in range(60)))
            return sum(isinstance(a, Holder) and int(a.address[5:]) > 2 for a in answers)

        assert session.perform(experiment) == 60


def test_figures_of_a_run_are_of_the_overlay_as_the_attack_left_it() -> None:
    attacked = experiments.Question(
        FloodingOverlay(nodes=40, graph="scale-free", formation="converged"),
        Lookup(keys=50), duration=0.5, faults=["crash:best:25%:peer@0.1"],
    )  # fmt: skip
    record = experiments.run(attacked)
    assert record.metrics["largest_component"] <= 0.75
    assert record.holds  # and in the end all are there again
