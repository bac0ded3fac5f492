"""Golden dialogues: who says what to whom, as text that a person can read and a change shows up in.

    pytest tests/stories --refresh-stories      writes them anew; read the difference before you commit it

(The habit is etcd-io/raft's: ``testdata/*.txt``, refreshed by one flag.)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from polyarch.architectures.chord import ChordRing
from polyarch.architectures.microservices import Microservices
from polyarch.architectures.raft import RaftStore
from polyarch.architectures.service_oriented import ServiceOriented
from polyarch.architectures.two_computers import TwoComputers
from polyarch.core import Failure, Request, Response, gather
from polyarch.core.system import Architecture
from polyarch.jobs.shop_books import Line, Product
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

HERE = Path(__file__).parent
Experiment = Callable[[Experimenter], Coroutine[Any, Any, Any]]


def told(
    architecture: Architecture, before: Experiment, story: Experiment, about: Callable[[str], bool]
) -> str:
    """The messages of ``story``, one a line; those whose name ``about`` accepts."""
    session = SimSession(architecture, seed=1)
    session.perform(before)
    kernel = session.kernel
    begun, lines = kernel.now, []

    def observe(
        kind: str, time: int, sender: str, target: str, method: Any, what: Any, arrivals: Any
    ) -> None:
        if "experimenter" in (sender, target) or not about(method.name):
            return
        at = f"{(time - begun) * 1e-6:8.2f} ms"
        lost = "" if arrivals else "   (lost)"
        if kind in ("answer", "failure"):
            said = f"{method.name}: {shown(what)}"
        else:
            names = (p.name for p in method.parameters)
            said = f"{method.name}({', '.join(f'{n}={shown(v)}' for n, v in zip(names, what))})"
        arrow = "-->" if kind in ("answer", "failure") else "-> "
        lines.append(f"{at}  {sender:<14} {arrow} {target:<14} {said}{lost}")

    kernel.observer = observe
    session.perform(story)
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A value, short."""
    if isinstance(value, Failure):
        return str(value)
    if isinstance(value, Request):
        return f"{value.method} {value.target} {value.body.decode()}".strip()
    if isinstance(value, Response):
        return f"{value.status} {value.body.decode()}"
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


async def raft_ready(x: Experimenter) -> None:
    await RaftStore().ready(x)


async def raft_put(x: Experimenter) -> None:
    await x.client.put("colour", "red")


async def chord_ready(x: Experimenter) -> None:
    await x.sleep(1.0)


async def chord_lookup(x: Experimenter) -> None:
    await x.client.lookup(123_456_789)


async def shop_ready(x: Experimenter) -> None:
    await x.client.supply((Product("tea", "Tea", 250, 10),))
    await x.client.fill("o-1", "ann", (Line("tea", 2),))


async def shop_checkout(x: Experimenter) -> None:
    await x.client.checkout("o-1")
    await x.sleep(0.2)


async def two_ready(x: Experimenter) -> None:
    await x.sleep(1.0)


async def two_ask(x: Experimenter) -> None:
    await gather(x.client.add(3, 4), x.client.sort((3, 1, 2)))


async def service_ready(x: Experimenter) -> None:
    await ServiceOriented().ready(x)


async def service_report(x: Experimenter) -> None:
    await x.client.report("Berlin")


SERVICES = frozenset(("http", "place", "reserve", "charge", "confirm", "basket", "publish", "ship", "take"))
STORIES: dict[str, tuple[Architecture, Experiment, Experiment, Callable[[str], bool]]] = {
    "raft_write": (RaftStore(servers=3), raft_ready, raft_put, lambda name: name != "pre_vote"),
    "chord_lookup": (
        ChordRing(nodes=32, formation="converged", stabilize=0), chord_ready, chord_lookup, lambda name: True
    ),
    "two_computers": (TwoComputers(), two_ready, two_ask, "ask".__eq__),
    "service_report": (ServiceOriented(), service_ready, service_report, "http".__eq__),
    "microservices_checkout": (Microservices(), shop_ready, shop_checkout, SERVICES.__contains__),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_the_dialogue_is_the_one_that_was_read_and_committed(
    name: str, request: pytest.FixtureRequest
) -> None:
    dialogue = told(*STORIES[name])
    file = HERE / f"{name}.txt"
    if request.config.getoption("--refresh-stories"):
        file.write_text(dialogue)
    assert dialogue == file.read_text(), f"read the difference, then: pytest {HERE} --refresh-stories"
