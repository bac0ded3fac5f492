"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# The same examples everywhere, so that a failure is everybody's; POLYARCH_EXPLORE=1 looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", max_examples=1000)
settings.load_profile("explore" if os.environ.get("POLYARCH_EXPLORE") else "same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-stories", action="store_true", help="write the golden dialogues anew")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """No garbage is collected while a failure is written up.  pytest parses the source then, and a destructor
    that fails meanwhile (coroutines of nodes that are no more) has its traceback made, which parses too: in
    Python 3.11 the first parser then ends with a SystemError, and pytest with an INTERNALERROR and no word of
    the failure."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
