"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples everywhere, so that a failure is everybody's; POLYARCH_EXPLORE=1 looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", max_examples=1000)
settings.load_profile("explore" if os.environ.get("POLYARCH_EXPLORE") else "same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-stories", action="store_true", help="write the golden dialogues anew")
