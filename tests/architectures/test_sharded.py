"""Sharding: no key is lost or served twice while regions move; balance; what each safeguard is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from polyarch.architectures.sharded import Directory, Move, NotOwner, Shard, Sharded
from polyarch.blocks.regions import Map, Region, Span, evenly, heavy, place
from polyarch.blocks.shard_safeguards import Safeguards
from polyarch.core import Refused, settle
from polyarch.experiment.performance import perform
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.faults.spec import Fault
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

EVERYBODY = (
    "directory-0", *(f"shard-{i}" for i in range(4)), "client", *(f"client-{i}" for i in range(1, 5))
)  # fmt: skip
ECHOES = [
    Fault("duplicate", EVERYBODY, EVERYBODY, False, 0.8, 0.0, 5.0, ""),
    Fault("reorder", EVERYBODY, EVERYBODY, False, 0.6, 0.0, 5.0, ""),
]
"""Copies of all messages, late and in any order."""


def restless(by: str, without: str = "") -> Sharded:
    """Few keys in many regions; a shard joins, another one leaves."""
    return Sharded(by=by, shards=3, slots=4, split=2, join_at=1.0, leave_at=3.0, without=without)


def explored(architecture: Sharded, seeds: Sequence[int], **more: Any) -> list[str]:
    """What was violated in the runs of these seeds, up to the first."""
    setting = Setting(architecture, Kv(keys=12, swaps=0.2), duration=6.0, rate=100.0, **more)
    for seed in seeds:
        result = perform(draw(setting, seed), made=(setting.architecture, setting.job))
        if result.violations:
            return [violation.kind for violation in result.violations]
        assert sum(done.outcome == "ok" for done in result.history) > 200
    return []


@pytest.mark.parametrize("by", ["hash", "range"])
@pytest.mark.parametrize("faults", [[], ECHOES])
def test_while_shards_come_and_go_and_everything_fails_each_key_is_linearizable(
    by: str, faults: list[Fault]
) -> None:
    assert explored(restless(by), range(8), faults=faults) == []


@pytest.mark.parametrize(
    ("without", "kinds", "faults", "first"),
    [
        ("check_ownership", ("crash",), [], 0),
        ("stop_before_copy", ("crash",), [], 0),
        ("take_on_disk", ("crash",), [], 0),
        ("log_moves", ("crash",), [], 0),
        ("refuse_old_moves", ("crash", "delay"), ECHOES, 185),  # rare: begin where it was found
    ],
)
def test_without_a_safeguard_some_seed_shows_why_it_is_there(
    without: str, kinds: tuple[str, ...], faults: list[Fault], first: int
) -> None:
    assert explored(restless("range", without), range(first, first + 200), kinds=kinds, faults=faults)


def test_every_safeguard_is_removed_by_some_test() -> None:
    (mark,) = test_without_a_safeguard_some_seed_shows_why_it_is_there.pytestmark
    assert [row[0] for row in mark.args[1]] == list(Safeguards.__struct_fields__)


async def filled(x: Experimenter, keys: int) -> dict[str, int]:
    values = {f"key-{i:03}": i for i in range(keys)}
    await settle(*(x.client.put(key, value) for key, value in values.items()))
    return values


async def owners(x: Experimenter) -> list[str]:
    return [owner for _, owner in (await x.at("directory-0", Directory).where()).spans()]


def test_a_shard_that_joins_takes_its_part_and_most_keys_stay_where_they_are() -> None:
    async def experiment(x: Experimenter) -> None:
        values, before = await filled(x, 300), await owners(x)
        await x.at("directory-0", Directory).join("shard-4")
        await x.sleep(3.0)
        after = await owners(x)
        moved = [(a, b) for a, b in zip(before, after) if a != b]
        assert {b for _, b in moved} == {"shard-4"}
        assert len(before) // 5 - 1 <= len(moved) <= len(before) // 5 + 1
        assert {key: await x.client.get(key) for key in values} == values

    SimSession(Sharded(shards=4, spares=1)).perform(experiment)


def test_a_shard_that_leaves_gives_everything_away_and_can_then_be_killed() -> None:
    async def experiment(x: Experimenter) -> None:
        values = await filled(x, 100)
        directory = x.at("directory-0", Directory)
        await directory.leave("shard-1")
        await x.sleep(3.0)
        assert "shard-1" not in await owners(x)
        await x.control.crash("shard-1")
        assert {key: await x.client.get(key) for key in values} == values
        await directory.leave("shard-0")
        with pytest.raises(Refused, match="the last shard"):
            await directory.leave("shard-2")

    SimSession(Sharded(shards=3, spares=0)).perform(experiment)


def test_by_range_regions_are_split_and_spread_as_keys_come() -> None:
    async def experiment(x: Experimenter) -> None:
        assert await owners(x) == ["shard-0"]
        values = await filled(x, 200)
        await x.sleep(5.0)
        sizes = []
        map_ = await x.at("directory-0", Directory).where()
        for span, owner in map_.spans():
            (size,) = await x.at(owner, Shard).sizes((span,))
            sizes.append((owner, size.keys))
        assert max(keys for _, keys in sizes) <= 20
        held = [sum(keys for owner, keys in sizes if owner == f"shard-{i}") for i in range(4)]
        assert sum(held) == 200
        assert max(held) - min(held) <= 2 * 20, "or a region would have moved"
        assert {key: await x.client.get(key) for key in values} == values

    SimSession(Sharded(by="range")).perform(experiment)


def test_a_range_of_keys_can_be_had_by_range_and_not_by_hash() -> None:
    async def experiment(x: Experimenter) -> Any:
        await filled(x, 100)
        await x.sleep(3.0)
        found = await x.client.scan("key-017", "key-063")
        assert list(found.items()) == [(f"key-{i:03}", i) for i in range(17, 63)]
        assert len(set(await owners(x))) > 1

    SimSession(Sharded(by="range")).perform(experiment)
    with pytest.raises(Refused, match="neighbours are anywhere"):
        SimSession(Sharded()).perform(experiment)


def test_a_shard_refuses_what_it_does_not_own() -> None:
    async def experiment(x: Experimenter) -> None:
        own = (await x.at("directory-0", Directory).where()).owner(place("hash", "a"))
        for i in range(4):
            asked = x.at(f"shard-{i}", Shard).get("a")
            if f"shard-{i}" == own:
                assert await asked is None
            else:
                with pytest.raises(NotOwner):
                    await asked

    SimSession(Sharded(spares=0)).perform(experiment)


def test_a_region_that_is_on_its_way_is_served_by_nobody_and_arrives_whole() -> None:
    async def experiment(x: Experimenter) -> None:
        everything = Span("")
        source, target = x.at("shard-0", Shard), x.at("shard-1", Shard)
        await x.client.put("a", 1)
        first = Move(1, everything, "shard-0", "shard-1")
        content = await source.give(first)
        assert content == await source.give(first) == {"a": 1}
        for shard in (source, target):
            with pytest.raises(NotOwner):
                await shard.get("a")
        for _ in range(2):
            await target.take(first, content)
        await x.control.crash("shard-1")
        await x.control.restart("shard-1")
        assert await target.get("a") == 1
        back = Move(2, everything, "shard-1", "shard-0")
        await source.take(back, await target.give(back))
        for late in (target.take(first, content), source.give(first)):
            with pytest.raises(Refused, match="old copy"):
                await late
        assert await source.get("a") == 1

    SimSession(Sharded(by="range", split=1000)).perform(experiment)


def test_the_directory_is_needed_for_moves_only() -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("directory-0")
        values = await filled(x, 50)
        assert {key: await x.client.get(key) for key in values} == values

    SimSession(Sharded()).perform(experiment)


def test_hashes_spread_neighbours_that_ranges_leave_together() -> None:
    """What is popular together, such as today's orders, is at one shard by range, and at all by hash."""

    def busy(by: str) -> int:
        async def experiment(x: Experimenter) -> int:
            await filled(x, 200)
            await x.sleep(5.0)
            shards = [x.at(f"shard-{i}", Shard) for i in range(4)]
            before = [(await shard.work_done()).served for shard in shards]
            for i in range(30, 45):
                await x.client.get(f"key-{i:03}")
            after = [(await shard.work_done()).served for shard in shards]
            return sum(a > b for a, b in zip(after, before))

        return SimSession(Sharded(by=by)).perform(experiment)

    assert busy("hash") == 4
    assert busy("range") <= 2


# -- regions -----------------------------------------------------------------------------------------------


def test_spans_are_taken_from_each_other() -> None:
    middle = Span("c", "f")
    assert Span("a", "z").without(middle) == [Span("a", "c"), Span("f", "z")]
    assert Span("a").without(middle) == [Span("a", "c"), Span("f")]
    assert Span("d", "e").without(middle) == []
    assert Span("a", "c").without(middle) == [Span("a", "c")]
    assert Span("d").without(Span("a")) == []
    assert not Span("a", "c").meets(middle)
    assert Span("a", "d").meets(middle)
    assert Span("a", "d").without_all([Span("a", "b"), Span("b", "d")]) == []


def test_a_map_finds_every_place() -> None:
    map_ = Map(1, (Region("", "x"), Region("f", "y"))).cut("k")
    assert [map_.owner(p) for p in ("", "e", "f", "j", "k", "zz")] == ["x", "x", "y", "y", "y", "y"]
    moved = map_.moved(map_.span("p"), "z")
    assert moved.spans() == [(Span("", "f"), "x"), (Span("f", "k"), "y"), (Span("k"), "z")]
    assert moved.version == 3


def test_hashes_are_cut_evenly_and_regions_move_from_the_full_to_the_empty() -> None:
    regions = evenly(("a", "b"), 4)
    assert [r.low for r in regions[:4]] == ["", "20000000", "40000000", "60000000"]
    assert [r.owner for r in regions] == ["a", "b"] * 4
    one, two, three = Span("", "1"), Span("1", "2"), Span("2")
    weights = {one: 5, two: 2, three: 1}
    assert heavy({"a": [one, two], "b": [three]}, weights, ("a", "b")) == (two, "a", "b")
    assert heavy({"a": [one], "b": [two, three]}, weights, ("a", "b")) is None
    assert heavy({"a": [one], "b": [two, three]}, weights, ("b",)) == (one, "a", "b")


@pytest.mark.local
def test_live_shards_join_and_leave_and_are_killed() -> None:
    architecture = Sharded(shards=3, slots=8, join_at=0.6, leave_at=1.2)
    question = Question(
        architecture=architecture, job=Kv(keys=30), runtime="local", duration=2.5, rate=300.0,
        faults=["crash:shard-1@0.8-1.1", "crash:directory@1.3-1.6"],
    )  # fmt: skip
    record = run(question)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert record.metrics["moves"] >= 8
    assert record.operations.ok > 500
