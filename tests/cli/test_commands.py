"""The four commands, their records, and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

CONTRACT = {
    "architecture", "job", "runtime", "seed", "parameters", "nodes", "operations", "throughput_per_s",
    "latency_ms", "cost_per_operation", "faults", "verdicts", "metrics", "wall_s", "environment",
}  # fmt: skip


@contextlib.contextmanager
def started(*arguments: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own."""
    command = [sys.executable, "-c", "from polyarch.cli.main import main; main()", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **{**pipes, **options}) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


# -- list and show ----------------------------------------------------------------------------------------


def test_list_tells_what_there_is_and_a_reason_for_each_gap(polyarch):
    code, out, _ = polyarch("list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert {"kv", "lookup", "shop"} <= set(listed["jobs"])
    for job, row in listed["matrix"].items():
        assert set(row) == set(listed["architectures"])
        for architecture, cell in row.items():
            assert cell["offered"] == (job in listed["architectures"][architecture]["jobs"])
            assert cell["offered"] or cell["reason"]
    assert "raft" in polyarch("list")[1]


def test_show_tells_roles_parameters_claims_and_source(polyarch):
    code, out, _ = polyarch("show", "raft", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["roles"] == {"server": {"component": None, "count": 5, "nodes": ["Raft"]}}
    assert shown["parameters"]["servers"]["default"] == 5
    text = polyarch("show", "raft")[1]
    assert "--election-timeout" in text
    assert "linearizable" in text
    assert "Ongaro" in text


def test_show_tells_the_answer_to_the_question_of_a_row_and_the_laws_that_check_it(polyarch):
    shown = json.loads(polyarch("show", "chord", "--json")[1])
    assert shown["question"].startswith("What is the problem with this? ")
    assert {"CH-02", "CH-12"} <= set(shown["laws"])
    assert "RA-08" in json.loads(polyarch("show", "paxos", "--json")[1])["laws"]
    text = polyarch("show", "chord")[1]
    assert "What is the problem with this? " in text
    assert "CH-02, CH-03" in text


def test_every_peer_to_peer_row_answers_what_its_problem_is(polyarch):
    listed = json.loads(polyarch("list", "--json")[1])["architectures"]
    rows = [name for name, row in listed.items() if row["family"] == "peer-to-peer"]
    assert len(rows) > 15
    for name in rows:
        question = json.loads(polyarch("show", name, "--json")[1])["question"]
        assert question.startswith("What is the problem with this? "), name


@pytest.mark.parametrize("command", ["run raft --help", "run raft kv -h", "compare kv --help"])
def test_help_tells_the_parameters_of_the_architecture_and_the_job(polyarch, command):
    code, out, _ = polyarch(*command.split())
    assert code == 0
    for option in ("--seed", "--fault", "--election-timeout", "--keys"):
        assert option in out


# -- run --------------------------------------------------------------------------------------------------


def test_a_record_goes_to_standard_output_and_nothing_else_does(polyarch):
    code, out, err = polyarch("run", "raft", "--duration", "0.5", "--json", "-", "--fault", "loss:1%@0-1")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert set(record) >= CONTRACT | {"trace_hash"}
    operations = record["operations"]
    assert operations["attempted"] == operations["ok"] + operations["failed"] + operations["unknown"] > 0
    assert set(record["latency_ms"]) == {"mean", "p50", "p90", "p99", "max"}
    assert set(record["cost_per_operation"]) == {"messages", "bytes", "hops"}
    assert record["faults"] == ["loss:1%@0-1"]
    assert record["nodes"] == {"server": 5}


def test_parameters_are_written_with_dashes_or_underscores(polyarch):
    for option in ("--election-timeout", "--election_timeout", "--election-timeout=0.2"):
        value = [] if "=" in option else ["0.2"]
        record = json.loads(polyarch("run", "raft", option, *value, "--duration", "0.1", "--json", "-")[1])
        assert record["parameters"]["election_timeout"] == 0.2


def test_a_record_goes_to_a_file_in_a_folder_that_is_made(polyarch, tmp_path):
    file = tmp_path / "deep" / "record.json"
    code, out, _ = polyarch("run", "raft", "--duration", "0.2", "--json", file)
    assert code == 0
    assert "linearizable" in out
    assert json.loads(file.read_text())["job"] == "kv"


def test_an_architecture_in_a_file_of_the_users_own_runs(polyarch, store):
    code, out, _ = polyarch("run", store, "kv", "--duration", "0.3", "--cache-size", "3", "--json", "-")
    record = json.loads(out)
    assert code == 0
    assert record["architecture"] == "one_store"
    assert record["parameters"]["cache_size"] == 3


def test_a_verdict_that_does_not_hold_gives_exit_code_1_and_still_a_record(polyarch, store):
    code, out, err = polyarch("run", store, "--forgets", "true", "--keys", "2", "--json", "-")
    verdicts = {v["name"]: v["holds"] for v in json.loads(out)["verdicts"]}
    assert (code, err) == (1, "")
    assert verdicts["linearizable"] is False


@pytest.mark.local
def test_a_file_of_the_users_own_runs_live_from_another_folder(store):
    arguments = "run", "sub/../one_store.py", "--on", "local", "--duration", "0.3", "--json", "-"
    (store.parent / "sub").mkdir()
    with started(*arguments, cwd=store.parent) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    record = json.loads(out)
    assert "trace_hash" not in record
    assert record["runtime"] == "local"


def test_a_simulation_does_not_depend_on_the_hash_seed():
    def record(hash_seed: str) -> dict[str, object]:
        arguments = "run", "chord", "--nodes", "8", "--duration", "0.5", "--json", "-"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        with started(*arguments, env=environment) as process:
            made = json.loads(process.communicate(timeout=30)[0])
        return {**made, "wall_s": 0}

    assert record("1") == record("2")


def test_a_reader_that_goes_away_is_no_error():
    with started("run", "raft", "--duration", "0.2", "--json", "-") as process:
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""


# -- compare ----------------------------------------------------------------------------------------------


def test_compare_writes_runs_blast_radius_and_sentences(polyarch, store, tmp_path):
    code, out, err = polyarch(
        "compare", "kv", "--architectures", f"raft,{store}", "--duration", "0.3", "--servers", "3",
        "--json", "-", "--report", tmp_path / "report",
    )  # fmt: skip
    result = json.loads(out)
    assert code == (0 if all(v["holds"] for run in result["runs"] for v in run["verdicts"]) else 1)
    assert err == ""
    assert (result["job"], result["runtime"]) == ("kv", "sim")
    assert [run["architecture"] for run in result["runs"]] == ["raft", "one_store"]
    assert result["runs"][0]["parameters"]["servers"] == 3
    assert "servers" not in result["runs"][1]["parameters"]
    cards = {card["architecture"]: card for card in result["blast_radius"]}
    assert not cards["raft"]["single_point_of_failure"]
    assert cards["one_store"]["single_point_of_failure"]
    assert len(result["sentences"]) == 2
    assert (tmp_path / "report" / "index.html").is_file()


# -- serve, and the end -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.local
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_served_system_speaks_http_until_it_is_told_to_end_and_nothing_is_left(signum):
    port = free_port()
    with started("run", "client_server", "--serve", "--port", str(port)) as process:
        first = process.stdout.readline()
        assert first == f"client_server serves shop at http://127.0.0.1:{port}/\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert page.status == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signum)
        assert process.wait(timeout=15) == 0
        assert process.stderr.read() == ""
    psutil.wait_procs(children, timeout=5)
    assert not [c for c in children if c.is_running()]


@pytest.mark.local
def test_a_port_in_use_is_said(polyarch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        complaint = polyarch.complaint("run", "client_server", "--serve", "--port", port)
        assert f"port {port} is in use" in complaint


@pytest.mark.local
def test_a_run_that_is_interrupted_says_so_and_leaves_nothing():
    with started("run", "raft", "--on", "local", "--duration", "60") as process:
        deadline = time.monotonic() + 20
        while len(children := psutil.Process(process.pid).children(recursive=True)) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 130
        assert process.stderr.read() == "polyarch: interrupted\n"
    psutil.wait_procs(children, timeout=5)
    assert not [c for c in children if c.is_running()]
