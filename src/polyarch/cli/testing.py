"""Checking from a test: what the pytest fixture ``polyarch_check`` (``plugin.py``) gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polyarch.core.job import Job
from polyarch.core.system import Architecture
from polyarch.experiment.explore import CheckRecord, check, load
from polyarch.experiment.mischief import RANDOM_FAULTS
from polyarch.experiment.schedule import Setting
from polyarch.report.story import diagram, tell

__all__ = ["Check"]


class Check:
    """Callable: explores schedules, and fails the test when one breaks a promise."""

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder = folder
        """Of this test alone: what fails in it is kept here."""
        self.most = most

    def __call__(
        self,
        architecture: Architecture,
        job: Job | None = None,
        *,
        seeds: int = 100,
        first: int = 0,
        duration: float = 10.0,
        clients: int = 5,
        rate: float = 10.0,
        random: Sequence[str] = RANDOM_FAULTS,
        workers: int | None = None,
    ) -> CheckRecord:
        """Try ``seeds`` schedules, those that failed before first; ``pytest.fail`` with the story if one
        breaks a promise.  The record, if none does."""
        kind: Any = architecture.jobs[0]
        setting = Setting(
            architecture,
            kind(**kind.small) if job is None else job,
            duration=duration,
            clients=clients,
            rate=rate,
            kinds=tuple(random),
        )
        record, _ = check(
            setting,
            self.most or seeds,
            first=first,
            again=self._failed_before(setting),
            workers=workers,
            folder=self.folder,
        )
        found = record.violation
        if found is None:
            for path in self.folder.glob("*.json"):  # mended
                path.unlink()
            return record
        assert found.file is not None
        story = tell(load(Path(found.file)))
        pytest.fail(
            "\n".join(
                [
                    f"{story.title}",
                    "",
                    *story.summary,
                    "",
                    *(line for _, line in diagram(story)),
                    "",
                    f"seed {found.seed}; {found.events} events shrank to {found.shrunk_events}",
                    f"polyarch replay {found.file}",
                ]
            ),
            pytrace=False,
        )

    def _failed_before(self, setting: Setting) -> list[int]:
        """Seeds of the files kept for this test."""
        seeds: list[int] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                seeds.append(load(path).found_with_seed)
            except ValueError:  # of an older format: of no use any more
                path.unlink()
        return seeds
