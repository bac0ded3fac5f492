"""Laws: the engine tells right from wrong, and the laws hold, at small sizes, also where no list has them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polyarch.cli.main import main
from polyarch.core import parameter
from polyarch.experiment import laws as engine
from polyarch.experiment.catalogue import UnknownName
from polyarch.experiment.laws import (
    Expected,
    Figure,
    Law,
    Tell,
    at_least,
    between,
    check,
    exactly,
    relative,
    within,
)

LISTED = Path(__file__).parents[3] / "shared" / "laws.json"
FINISHED = ("RA", "PB", "CP", "TR", "CH", "PA", "KA", "UN", "CY", "EP", "SW", "QU", "LB")
"""Families of the list; the others are not all there yet."""


def _square(job: int | str) -> int:
    if job == "die":
        os.kill(os.getpid(), 9)
    if job == "fail":
        raise FileNotFoundError(2, "gone")
    return int(job) ** 2


def test_what_is_spread_out_comes_in_order_and_who_dies_of_it_is_not_waited_for() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one core nothing is spread out")
    assert engine.spread_out(_square, range(20), lambda done: None) == [i * i for i in range(20)]
    with pytest.raises(FileNotFoundError, match="gone"):
        engine.spread_out(_square, [1, "fail", 3], lambda done: None)
    with pytest.raises(RuntimeError, match="has died"):
        engine.spread_out(_square, [1, "die", 3, 4, 5], lambda done: None)


class Half(Law):
    """A law about nothing but a parameter."""

    id = "XX-01"
    architecture = "none"
    claim = "half of n"
    source = "here"
    certainty = "computed"
    n: int = parameter(4, "something", least=0)
    listed = ({"n": 4}, {"n": 6})
    long = ({"n": 1000},)
    measured: dict[str, Figure] | Exception | None = None

    def expected(self) -> dict[str, Expected]:
        return {"half": within(self.n / 2, 0.1)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        if isinstance(self.measured, Exception):
            raise self.measured
        return {"half": self.n * 0.5} if self.measured is None else self.measured


# -- the engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        (exactly(3), 3, 4),
        (exactly(0.1 + 0.2), 0.3, 0.31),
        (within(1.0, 0.5), 1.49, 1.51),
        (relative(200.0, 0.03), 194.5, 193.0),
        (between(15, 60, 35), 60, 14.9),
        (at_least(2), 2, 1.99),
        (within(1.0, 0.5), 1.0, float("nan")),
    ],
)
def test_tolerances(expected: Expected, good: float, bad: float) -> None:
    assert expected.holds(good)
    assert not expected.holds(bad)


def test_a_law_is_checked_at_all_its_settings_and_says_which_it_left_out() -> None:
    record = check(Half, seed=7)
    assert record.holds
    assert record.expected == {"n 4: half": 2.0, "n 6: half": 3.0}
    assert record.seeds == (7, 8, 9)
    assert record.skipped == ({"n": 1000},)
    assert check(Half, whole=True).measured["n 1000: half"] == 500
    assert check(Half, given={"n": "10"}).expected == {"half": 5.0}


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"half": 9.0}, "n 4: half: 9, expected 2 (±0.1)"),
        ({}, "n 4: half: not measured"),
        (ZeroDivisionError("oh no"), "n 4: not measured: ZeroDivisionError: oh no"),
    ],
)
def test_what_is_wrong_or_missing_or_raises_does_not_hold(measured: Any, why: str) -> None:
    class Wrong(Half):
        pass

    Wrong.measured = measured
    record = check(Wrong)
    assert not record.holds
    assert record.wrong[0] == why


def test_a_law_with_a_wrong_expectation_fails_on_the_real_nodes() -> None:
    right = engine.laws()["RA-06"]

    class TooFast(right):  # type: ignore[misc, valid-type]
        def expected(self) -> dict[str, Expected]:
            return {**super().expected(), "commit (ms)": exactly(10.0)}

    assert check(right).holds
    record = check(TooFast)
    assert not record.holds
    assert record.wrong == ("commit (ms): 20, expected 10 (exact)",)


def test_ids_are_found_by_their_beginnings_and_wrong_ones_with_what_was_meant() -> None:
    assert [law.id for law in engine.select(["ra-01"])] == ["RA-01"]
    assert {law.id[:2] for law in engine.select(["RA", "CP"])} == {"RA", "CP"}
    assert len(engine.select([])) == len(engine.laws()) > 20
    for wrong, hint in (("RB-01", "did you mean 'RA-01'"), ("zzz", "there are those of"), ("", "no law")):
        with pytest.raises(UnknownName, match=hint):
            engine.select([wrong])
    for absent in engine.reasons():
        with pytest.raises(UnknownName, match="is not checked: "):
            engine.select([absent])


@pytest.mark.skipif(not LISTED.exists(), reason="the list of laws is not here")
def test_every_listed_law_of_a_finished_family_is_checked_or_its_absence_has_a_reason() -> None:
    listed = {entry["id"] for entry in json.loads(LISTED.read_text())}
    known = engine.laws().keys() | engine.reasons().keys()
    assert {id for id in listed if id[:2] in FINISHED} <= known
    assert engine.reasons().keys() <= listed
    assert not engine.laws().keys() & engine.reasons().keys()


@pytest.mark.skipif(not LISTED.exists(), reason="the list of laws is not here")
def test_a_law_that_the_list_does_not_have_has_a_letter_so_that_no_number_means_two_things() -> None:
    listed = {entry["id"] for entry in json.loads(LISTED.read_text())}
    for id in engine.laws().keys() - listed:
        assert re.fullmatch("[A-Z]{2}-[A-Z]", id), f"{id}: the list may give this number to another law"


GROWN = {"UN-11": 200, "UN-12": 200, "SC-A": 100}
"""Laws that grow whole overlays on paper to know what to expect: 100 s at all sizes, so at these."""


def test_every_law_says_where_it_comes_from_and_how_sure_it_is() -> None:
    for law in engine.laws().values():
        assert law.claim
        assert law.source
        assert law.certainty
        for setting in (*law.listed, *law.long):
            asked = law(**setting)
            assert law.id in GROWN or asked.expected()
        if law.id in GROWN:
            assert law(**{**law.listed[-1], "n": GROWN[law.id]}).expected()


# -- the laws, small, and at settings that no list has ------------------------------------------------------

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("RA-01", {"n": 5, "latency": 0.3, "elections": 1200}),
    ("RA-01", {"n": 4, "latency": 0.1, "elections": 1200}),
    ("RA-03", {"n": 3, "timeout": 200.0, "latency": 5.0, "elections": 1200}),
    ("RA-04", {"trials": 60}),
    ("RA-05", {"n": 5, "timeout": 100.0, "elections": 1000}),
    ("RA-06", {"n": 4, "step": 7.0}),
    ("RA-06", {"n": 7}),
    ("RA-07", {"schedules": 12}),
    ("RA-08", {"n": 4}),
    ("RA-09", {"n": 4, "p": 0.8}),
    ("RA-10", {"n": 4, "p": 0.9}),
    ("RA-12", {"way": "central", "n": 9}),
    ("LB-12", {"contention": 0.2, "coherence": 0.01, "processors": 7, "size": 5, "rounds": 20}),
    ("RA-12", {"way": "ricart_agrawala", "n": 3}),
    ("RA-12", {"way": "token_ring", "n": 7}),
    ("RA-13", {"n": 4}),
    ("PB-01", {"n": 5, "r": 2, "w": 2, "reads": 4000}),
    ("PB-03", {"n": 4, "reads": 200}),
    ("PB-04", {"operations": 2000}),
    ("PB-05", {"n": 300, "failing": 0.03, "chunks": 5000, "trials": 300}),
    ("PB-05", {"n": 300, "failing": 0.05, "placement": "copysets", "chunks": 2000, "trials": 1000}),
    ("CP-01", {"n": 3, "minority": 1}),
    ("TR-02", {"n": 4, "a": 3.0}),
    ("TR-03", {"n": 5, "waits": 1500}),
    ("CH-02", {"n": 256, "lookups": 5000}),
    ("CH-06", {"n": 200, "lookups": 1000}),
    ("CH-07", {"n": 500, "lookups": 3000}),
    ("CH-08", {"n": 200, "p": 0.1, "lookups": 2000}),
    ("CH-11", {"n": 1000, "r": 3, "per_node": 50}),
    ("CH-12", {"n": 200, "r": 10, "rate": 0.05, "lookups": 500}),
    ("CH-13", {"n": 200, "r": 10, "rate": 0.05, "lookups": 500}),
    ("CH-14", {"n": 20, "repeats": 30}),
    ("CH-15", {"n": 2000, "x": 1.5}),
]


@pytest.mark.parametrize(("id", "given"), SMALL, ids=lambda value: value if isinstance(value, str) else "")
def test_a_law_holds(id: str, given: dict[str, Any]) -> None:
    record = check(engine.laws()[id], 11, given)
    assert record.holds, record.wrong


def test_a_bad_setting_is_refused_before_anything_is_measured() -> None:
    for id, given in (
        ("RA-01", {"n": 5, "s": 2}),
        ("RA-03", {"latency": 100.0}),
        ("PB-01", {"n": 3, "r": 4}),
        ("CP-01", {"n": 5, "minority": 3}),
        ("RA-09", {"p": 1.5}),
    ):
        with pytest.raises(ValueError, match="--"):
            check(engine.laws()[id], given=given)


# -- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def polyarch(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["laws", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_command_prints_a_table_and_json(polyarch: Any, tmp_path: Path) -> None:
    code, out, _ = polyarch("RA-06", "TR-02", "--seed", "3", "--json", str(tmp_path / "laws.json"))
    assert code == 0
    assert "2 of 2 laws hold" in out
    record = json.loads((tmp_path / "laws.json").read_text())
    (first, _) = record["laws"]
    assert first.keys() >= {"id", "claim", "source", "expected", "measured", "tolerance", "holds", "seconds"}
    assert first["measured"] == {"commit (ms)": 20.0, "messages": 8}
    assert first["seeds"] == [3, 4, 5]
    code, out, _ = polyarch("RA-06", "--n", "9", "--json", "-")
    assert json.loads(out)["laws"][0]["expected"] == {"commit (ms)": 40.0, "messages": 16}


def test_a_law_that_does_not_hold_ends_with_1(polyarch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.laws()["RA-06"], "expected", lambda self: {"messages": exactly(9)})
    code, out, _ = polyarch("RA-06")
    assert code == 1
    assert "not: RA-06" in out


def test_the_list_measures_nothing(polyarch: Any) -> None:
    code, out, _ = polyarch("--list")
    assert code == 0
    assert "RA-01" in out
    assert all(id in out for id in engine.reasons())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["RA-99"], "there is no law 'RA-99'; did you mean"),
        (["RA-06", "--steps", "3"], "no option --steps of these laws; did you mean --step?"),
        (["RA-06", "--n", "many"], "--n takes an integer from 2 to 25, not 'many'"),
        (["RA-06", "--seed", "-1"], "--seed takes an integer from 0"),
        (["RA-01", "--n", "5", "--s", "2"], "--s takes an integer from 3 to 4 with --n 5"),
    ],
)
def test_bad_use_ends_with_2_and_one_line(polyarch: Any, arguments: list[str], line: str) -> None:
    code, out, err = polyarch(*arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1
