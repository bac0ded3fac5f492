"""The contract of the result records (``polyarch run --json``, ``polyarch compare --json``)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from polyarch.experiment import catalogue, record
from polyarch.experiment.record import BadRecord, Comparison, Cost, Operations, RunRecord, Spread

from .conftest import make_card, make_run


def test_figures_have_names_without_spaces() -> None:
    """A program reads them: ``longest_wait_s``, not ``longest wait``."""
    names = [(kind.name, name) for kind in catalogue.architectures().values() for name in kind.metrics]
    names += [(job.name, measure.name) for job in catalogue.jobs().values() for measure in job.measures]
    assert len(names) > 100
    assert not [name for name in names if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name[1])]


def test_a_figure_that_was_not_measured_is_absent_not_zero() -> None:
    written = json.loads(record.dumps(make_run(cost_per_operation=Cost(messages=2.0))))
    assert written["cost_per_operation"] == {"messages": 2.0}
    for name in ("trace_hash", "latency_ms", "throughput_per_s", "memory_mb", "saturation_throughput_per_s"):
        assert name not in written


def test_what_every_run_must_say_is_there_even_when_it_is_empty() -> None:
    written = json.loads(record.dumps(make_run()))
    assert written["faults"] == []
    assert written["verdicts"] == []
    assert written["metrics"] == {}
    assert written["operations"] == {"attempted": 5000, "ok": 5000, "failed": 0, "unknown": 0}


def test_a_role_that_did_not_recover_says_so_instead_of_leaving_it_out() -> None:
    assert json.loads(record.dumps(make_card(recovery_s=None)))["recovery_s"] is None


def test_a_comparison_reads_back_as_it_was_written(comparison: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "compare.json"
    record.save(comparison, file)
    assert record.load(file, Comparison) == comparison


def test_equal_records_are_written_alike_whatever_the_order_of_their_dictionaries() -> None:
    one = make_run(parameters={"a": 1, "b": 2}, nodes={"web": 1, "data": 1})
    other = make_run(parameters={"b": 2, "a": 1}, nodes={"data": 1, "web": 1})
    assert record.dumps(one) == record.dumps(other)


def test_a_dash_writes_to_standard_output_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    record.save(make_run(), "-")
    assert msgspec.json.decode(capsys.readouterr().out, type=RunRecord) == make_run()


def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "compare.json"
    file.write_text('{"job": 1}')
    with pytest.raises(BadRecord, match=r"compare\.json is not a Comparison: .*\$\.job") as caught:
        record.load(file, Comparison)
    assert "\n" not in str(caught.value)


def test_operations_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="attempted"):
        Operations(attempted=3, ok=1, failed=1, unknown=0)


def test_a_spread_is_the_median_and_the_range_of_its_rounds() -> None:
    spread = Spread.of([90, 100, 130])
    assert (spread.median, spread.low, spread.high, spread.plus_minus) == (100, 90, 130, 30)
    assert spread.overlaps(Spread.of([130, 140]))
    assert not spread.overlaps(Spread.of([131, 140]))


def test_the_environment_is_the_same_when_asked_twice() -> None:
    assert record.environment() == record.environment()
    assert record.environment().cpus >= 1
