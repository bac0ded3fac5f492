"""One suite, every runtime: ``run`` performs an experiment on the lab, on each runtime in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from systems import Lab, Run, Server

from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter, Session


@pytest.fixture(scope="session")
def labs() -> Iterator[Callable[[str], Session]]:
    """The lab's session on a runtime: one for all tests."""
    open_labs: dict[str, Session] = {}

    def lab(runtime: str) -> Session:
        if runtime not in open_labs:
            open_labs[runtime] = open_session(runtime, Lab(), seed=7)
        return open_labs[runtime]

    yield lab
    for session in open_labs.values():
        session.close()


@pytest.fixture(params=["sim", pytest.param("local", marks=pytest.mark.local)])
def session(request: pytest.FixtureRequest, labs: Callable[[str], Session]) -> Session:
    return labs(request.param)


@pytest.fixture
def run(session: Session) -> Iterator[Run]:
    """Perform an experiment; afterwards everything is healed, up, and has forgotten what it heard."""
    yield session.perform

    async def repair(x: Experimenter) -> None:
        await x.control.heal()
        for process in await x.control.resources():
            await x.control.resume(process)
        for process in ("server-0", "patient-0", "client", "front-0", "relay-0"):
            await x.control.restart(process)
            await x.control.skew(process)
        await x.at("server-0", Server).stop()
        await x.at("server-0", Server).forget()

    session.perform(repair)
