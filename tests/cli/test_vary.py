"""``polyarch compare JOB A,B --vary PARAMETER=v1,v2``: from the words to the table, the record, the page."""

from __future__ import annotations

import dataclasses
import json

import pytest

from polyarch.cli.answer import asked_for
from polyarch.cli.asked import axis_of
from polyarch.experiment.answers import Shown


def test_a_sweep_writes_a_table_a_record_and_a_page_and_says_where_the_break_even_is(polyarch, tmp_path):
    record, folder = tmp_path / "sweep.json", tmp_path / "page"
    words = ["lookup", "chord,central_index", "--vary", "nodes=48,6", "--rounds", 2, "--duration", 0.6]
    code, out, _ = polyarch(
        "compare", *words, "--stabilize", 0, "--formation", "converged", "--json", record, "--report", folder
    )
    assert code == 0
    assert "nodes varied, 2 rounds" in out
    assert f"report: {folder / 'index.html'}" in out
    document = json.loads(record.read_text())
    assert document["axis"] == {"parameter": "nodes", "places": [6.0, 48.0], "values": ["6", "48"]}
    assert [(p["architecture"], p["value"]) for p in document["points"]] == [
        ("chord", "6"), ("chord", "48"), ("central_index", "6"), ("central_index", "48"),
    ]  # fmt: skip
    assert [run["nodes"]["peer"] for run in document["points"][1]["runs"]] == [48, 48]
    assert [run["seed"] for run in document["points"][0]["runs"]] == [0, 1]
    assert (
        document["points"][1]["figures"]["hops"]["median"]
        > document["points"][0]["figures"]["hops"]["median"]
    )
    assert document["sentences"]
    assert document["sentences"][0] in out


@pytest.mark.parametrize("vary", ["latency=1ms,100us", "rate=50,200", "skew=0,1.5", "clients=32,64"])
def test_a_load_or_a_parameter_of_the_job_can_be_varied_too(polyarch, tmp_path, vary):
    record = tmp_path / "sweep.json"
    code, _, _ = polyarch(
        "compare", "kv", "single_server", "--vary", vary, "--rounds", 1, "--duration", 0.2, "--json", record
    )
    assert code == 0
    low, high = json.loads(record.read_text())["points"]
    changed = {
        "latency": lambda run: run["latency_ms"]["p50"],
        "rate": lambda run: run["rate_per_s"],
        "skew": lambda run: run["parameters"]["skew"],
        "clients": lambda run: run["saturation_throughput_per_s"]["median"],
    }[vary.partition("=")[0]]
    assert changed(low["runs"][0]) < changed(high["runs"][0])


def test_an_architecture_is_compared_with_itself(polyarch, tmp_path):
    record = tmp_path / "sweep.json"
    words = ["two_tier:split=b", "two_tier:split=d:rows=1,two_tier:split=d", "--vary", "power=0.1,10"]
    more = ["--rows", 4, "--rounds", 1, "--duration", 0.1, "--on", "sim"]
    code, out, _ = polyarch("compare", "kv", *words, *more, "--json", record)
    assert code == 0
    document = json.loads(record.read_text())
    assert document["architectures"] == ["two_tier:split=b", "two_tier:rows=1:split=d", "two_tier:split=d"]
    asked = {p["architecture"]: p["runs"][0]["parameters"] for p in document["points"] if p["value"] == "10"}
    assert [(p["split"], p["rows"], p["power"]) for p in asked.values()] == [
        ("b", 4, 10.0), ("d", 1, 10.0), ("d", 4, 10.0),
    ]  # fmt: skip
    table = out.splitlines()
    assert table[2].split()[0] == "two_tier", "said once"
    assert [line.split()[0] for line in table if "rows=1:split=d" in line]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("raft:severs=3", "raft:severs=3: there is no option --severs; did you mean --servers?"),
        ("raft:servers=3:servers=5", "servers is there twice"),
        ("raft:servers=3,raft:servers=3", "names raft:servers=3 twice"),
        ("raft:servers=three", "--servers takes an integer"),
        ("raft:servers", "there is no architecture 'raft:servers'"),
        ("raft:keys=3", "there is no option --keys"),
        ("raft --vary servers=3,5 --figure beauty", "nothing is called 'beauty'; there are"),
        ("raft --vary servers=3,5 --figure latency", "did you mean 'latency p"),
        ("raft:servers=3,raft:servers=5 --servers 7", "--servers is for nobody"),
        ("raft:servers=3,raft:servers=5 --vary servers=3,5", "each of the architectures has its own"),
    ],
)
def test_settings_that_are_wrong_are_one_line(polyarch, command, says):
    assert says in polyarch.complaint("compare", "kv", *command.split())


def test_who_does_not_have_the_parameter_is_named(polyarch):
    code, out, _ = polyarch(
        "compare", "kv", "single_server,chain", "--vary", "servers=2,4", "--rounds", 1, "--duration", 0.1
    )
    assert code == 0
    assert "single_server is the same at each servers" in out


@pytest.mark.parametrize(
    ("values", "ordered", "places", "unit"),
    [
        (["64", "8"], ("8", "64"), (8, 64), ""),
        (["1ms", "500us", "2s"], ("500us", "1ms", "2s"), (0.5, 1, 2000), "ms"),
        (["poisson:2:crash", "poisson:0.5:crash"], ("poisson:0.5:crash", "poisson:2:crash"), (0.5, 2), ""),
        (["joined", "converged"], ("joined", "converged"), (), ""),
        (["exp:1ms", "2ms"], ("exp:1ms", "2ms"), (), ""),
        (["1", "1ms"], ("1", "1ms"), (), ""),
    ],
)
def test_values_are_numbers_where_they_can_be(values, ordered, places, unit):
    axis = axis_of("x", values)
    assert (axis.values, axis.places, axis.unit) == (ordered, pytest.approx(places), unit)


@pytest.mark.parametrize(("latency", "seconds"), [("regions", 9.0), ("1ms", 1.8)])
def test_between_regions_rounds_are_longer_than_their_round_trips(latency, seconds):
    shown = Shown("", "lookup", "chord", "nodes=4,8", ())
    (question,), pace = dataclasses.replace(asked_for(shown, 0), latency=latency).questions()
    assert question.duration * pace.rounds == pytest.approx(seconds)
