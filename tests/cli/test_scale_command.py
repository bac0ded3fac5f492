"""``polyarch scale``: from the words to the sentence, the record and the page."""

from __future__ import annotations

import json

import pytest


def test_it_answers_in_a_sentence_and_writes_a_record_and_a_page(polyarch, tmp_path):
    record, folder = tmp_path / "scale.json", tmp_path / "page"
    words = ["single_server", "kv", "--nodes", "4,1,2", "--handler-cost", "200us", "--rounds", 1]
    code, out, _ = polyarch("scale", *words, "--json", record, "--report", folder)
    assert code == 0
    document = json.loads(record.read_text())
    assert document["parameter"] == "cores"
    assert [point["size"] for point in document["points"]] == [1, 2, 4]
    assert document["law"]["one_per_s"]["value"] == pytest.approx(5000, rel=0.1)  # a message takes 0.2 ms
    assert document["sentence"].startswith("single_server does kv on sim: linear as far as it was measured")
    assert document["sentence"] in " ".join(out.split())
    assert (folder / "index.html").is_file()


@pytest.mark.local
def test_it_works_on_this_machine_too(polyarch):
    words = ["--on", "local", "--nodes", "1,2,3", "--rounds", 1, "--duration", 0.2, "--clients", 4]
    code, out, _ = polyarch("scale", "quorum", "--n", 1, "--r", 1, "--w", 1, *words)
    assert code == 0
    assert "quorum does kv on local" in " ".join(out.split())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("scale", "needs an ARCHITECTURE"),
        ("scale rafft", "did you mean 'raft'"),
        ("scale raft lookup", "raft does not do the job lookup"),
        ("scale raft --nodes 1,2", "three different sizes or more"),
        ("scale raft --nodes 1,2,2", "three different sizes or more"),
        ("scale raft --nodes 1,2,many", "sizes such as 1,2,4,8"),
        ("scale raft --nodes 0,1,2", "raft's --servers takes an integer of at least 1"),
        ("scale raft --servers 3 --nodes 1,2,3", "--servers is what is scaled"),
        ("scale raft --of nonsense", "there is no option --nonsense"),
        ("scale raft --of heartbeat", "that is no number of anything"),
        ("scale quorum --nodes 1,2,3", "N is at most the number of servers"),
        ("scale raft --duration 2", "--duration goes with --on local"),
        ("scale raft --rounds 0", "--rounds takes an integer from 1"),
        ("scale raft --on local --latency 1ms", "use --on sim"),
        ("scale raft --nodes 1,2,2000000", "a simulation holds at most 1,000,000"),
    ],
)
def test_bad_use_is_one_line(polyarch, command, says):
    assert says in polyarch.complaint(*command.split())
