"""``polyarch verify``: verdicts on recorded histories, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HISTORIES = Path("/work/shared/data/histories")
VERDICTS = json.loads((HISTORIES / "verdicts.json").read_text()) if HISTORIES.exists() else {}
PORCUPINE = {"kv_c01_ok.txt": True, "kv_c10_ok.txt": True, "kv_c10_bad.txt": False}


@pytest.mark.skipif(not HISTORIES.exists(), reason="the shared histories are not here")
@pytest.mark.parametrize(("name", "holds"), [*VERDICTS.items(), *PORCUPINE.items()])
def test_a_known_history_gets_its_verdict(polyarch: Any, name: str, holds: bool) -> None:
    model = "kv" if name.startswith("kv") else "register"
    code, out, _ = polyarch("verify", HISTORIES / name, "--model", model, "--json", "-")
    record = json.loads(out)
    assert (code, record["verdict"]) == ((0, "true") if holds else (1, "false"))
    assert bool(record["conflict"]) is not holds


LINES = [
    {"client": 0, "name": "put", "arguments": ["a", 1], "start": 0.0, "end": 1.0},
    {"client": 1, "name": "put", "arguments": ["b", 9], "start": 0.0, "end": 0.5, "outcome": "ok"},
    {"client": 1, "name": "put", "arguments": ["a", 2], "start": 1.5, "outcome": "info"},
    {"client": 2, "name": "put", "arguments": ["a", 3], "start": 1.5, "end": 2.0, "outcome": "fail"},
    {"client": 2, "name": "get", "arguments": ["a"], "start": 2.5, "end": 3.0, "outcome": "ok", "value": 2},
    {"client": 2, "name": "get", "arguments": ["b"], "start": 3.5, "end": 4.0, "value": 9},
]
BACK = {"client": 3, "name": "get", "arguments": ["a"], "start": 5.0, "end": 6.0, "value": 1}


@pytest.fixture
def history(tmp_path: Path) -> Any:
    def write(*lines: Any) -> Path:
        path = tmp_path / "history.jsonl"
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return path

    return write


def test_json_lines_are_read(polyarch: Any, history: Any) -> None:
    code, out, _ = polyarch("verify", history(*LINES))
    assert code == 0
    assert "true" in out


def test_false_tells_the_shortest_prefix_and_what_cannot_be_ordered(polyarch: Any, history: Any) -> None:
    later = {"client": 0, "name": "put", "arguments": ["a", 7], "start": 8.0, "end": 9.0}
    code, out, _ = polyarch("verify", history(*LINES, BACK, later), "--json", "-")
    record = json.loads(out)
    assert code == 1
    # Two writes, one write without return, three reads; what was refused and what came later is not there.
    assert record["prefix"] == 2 * 2 + 1 + 3 * 2
    told = " ".join(record["conflict"])
    assert "client 3: get() = 1 from 5 to 6" in told
    assert "client 2: get() = 2 from 2.5 to 3" in told
    assert "9" not in told  # the other key has nothing to do with it


def test_what_is_out_of_the_budget_is_unknown(polyarch: Any, history: Any) -> None:
    code, out, _ = polyarch("verify", history(*LINES), "--budget", 1)
    assert code == 2
    assert "unknown" in out


def test_a_register_has_no_keys(polyarch: Any, history: Any) -> None:
    write = {"name": "write", "arguments": [1], "start": 0, "end": 1}
    read = {"name": "read", "start": 2, "end": 3, "value": 1}
    swap = {"name": "cas", "arguments": [1, 2], "start": 4, "end": 5, "value": True}
    assert polyarch("verify", history(write, read, swap), "--model", "register")[0] == 0
    assert polyarch("verify", history(write, {**read, "value": None}), "--model", "register")[0] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"name": "put"', "line 1"),
        ({"name": "put", "arguments": ["a"], "start": 0, "end": 1}, "line 1: put takes 2 arguments, not 1"),
        ({"name": "put", "arguments": ["a", 1], "start": 2, "end": 1}, "has an end, not before its start"),
        ({"name": "read", "start": 0, "end": 1}, "use --model register"),
        ({"name": "steal", "arguments": ["a"], "start": 0, "end": 1}, "kv has no operation 'steal'"),
        ({"name": "get", "arguments": ["a"]}, "missing required field `start`"),
        ("hello", "is no history"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(polyarch: Any, history: Any, line: Any, says: str) -> None:
    assert says in polyarch.complaint("verify", history(line))


def test_a_file_that_is_not_there_is_told(polyarch: Any) -> None:
    assert "'nowhere' is not there" in polyarch.complaint("verify", "nowhere")
