"""``polyarch answer``: the lecture question of an architecture, with figures that are measured."""

from __future__ import annotations

import json

import pytest

from polyarch.cli.answer import asked_for
from polyarch.cli.asked import vary
from polyarch.experiment import answers, catalogue
from polyarch.experiment.answers import Shown
from polyarch.report.figures import CHURN, FIGURES


def test_every_peer_to_peer_row_has_an_answer_and_all_of_them_can_be_asked_for() -> None:
    rows = [k.name for k in catalogue.architectures().values() if k.family == "peer-to-peer"]
    assert set(rows) - {"two_computers"} <= set(answers.ANSWERS)  # that has its own: compare compute
    common = {figure.name for figure in (*CHURN, *FIGURES)}
    for name, shown in ((name, one) for name, several in answers.ANSWERS.items() for one in several):
        axis, every, unaffected = vary(asked_for(shown, 0), shown.vary)
        assert len(every) == len(axis.values) > 1
        assert not unaffected, (name, shown.command)
        measured = common | {m.name for m in catalogue.job(shown.job).measures}
        own = set(catalogue.architecture(name).metrics)
        assert set(shown.figures) <= measured | own, (name, set(shown.figures) - measured - own)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown(
        "The way grows", "lookup", "ring_overlay", "nodes=4,16", ("links", "hops"),
        {"formation": "converged", "duration": "1.5", "rate": "20"},
    )  # fmt: skip
    monkeypatch.setitem(answers.ANSWERS, "ring_overlay", (shown,))
    return shown


def test_an_answer_is_the_question_figures_and_how_to_see_more_of_them(polyarch, small, tmp_path) -> None:
    file = tmp_path / "answer.json"
    code, out, _ = polyarch("answer", "ring_overlay", "--json", file)
    assert code == 0
    for text in ("What is the problem with this?", "The way grows", small.command):
        assert text in " ".join(out.split())
    rows = [line.split()[0] for line in out.splitlines() if " ring_overlay " in line]
    assert rows == ["links", "hops", "polyarch"]  # these two, in this order, and no others; then the command
    (seen,) = json.loads(file.read_text())["seen"]
    short, long = (point["figures"]["hops"]["median"] for point in seen["sweep"]["points"])
    assert long > 2 * short > 0
    code, out, _ = polyarch("answer", "ring_overlay", "--json", "-")
    assert json.loads(out)["architecture"] == "ring_overlay"


def test_who_has_no_answer_is_told_who_has(polyarch) -> None:
    assert "no answer is prepared for raft, only for flooding" in polyarch.complaint("answer", "raft")
