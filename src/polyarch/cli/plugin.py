"""``polyarch check`` from pytest: the fixture ``polyarch_check``.

    def test_my_store_is_linearizable(polyarch_check):
        polyarch_check(MyStore(servers=3), Kv(keys=3), seeds=200)

A test that fails tells the story, the seed, and the command that replays it.  Seeds that failed are kept in
``.polyarch/failing`` (``--polyarch-folder``) and tried first the next time, until they pass.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from polyarch.cli.testing import Check

__all__ = ["polyarch_check", "pytest_addoption"]


def pytest_addoption(parser: Any) -> None:
    """How many schedules, and where those that fail are kept."""
    group = parser.getgroup("polyarch")
    group.addoption("--polyarch-seeds", type=int, help="schedules to try in each test, whatever it says")
    kept = "where schedules that fail are kept (%(default)s)"
    group.addoption("--polyarch-folder", default=".polyarch/failing", help=kept)


@pytest.fixture
def polyarch_check(request: Any) -> Check:
    """Check an architecture in this test."""
    from polyarch.cli.testing import Check  # only for who asks: other tests start as fast as ever

    folder = Path(request.config.getoption("--polyarch-folder"))
    if not folder.is_absolute():
        folder = request.config.rootpath / folder
    name = re.sub(r"\W+", "-", request.node.nodeid).strip("-")
    return Check(folder / name, request.config.getoption("--polyarch-seeds"))
