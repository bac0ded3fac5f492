"""Services in a registry: published, found, bound, changed, left; and one of them in another language."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from polyarch.architectures.service_oriented import (
    NoService,
    Portal,
    Registry,
    ServiceOriented,
    WeatherService,
)
from polyarch.blocks import almanac
from polyarch.core import Failure, settle
from polyarch.experiment.run import Question, run
from polyarch.jobs.services import ServicesJob, Weather
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

CITY = almanac.CITIES[0]


def expected(day: int) -> Weather:
    return Weather(CITY.name, day, almanac.forecast(CITY, day) / 10)


def started(**parameters: Any) -> SimSession:
    architecture = ServiceOriented(**parameters)
    session = SimSession(architecture, seed=1)
    session.perform(architecture.ready)
    return session


async def offered(x: Experimenter, service: str = "weather") -> dict[str, int]:
    found = await x.at("registry-0", Registry).find(service)
    return {instance.address: instance.version for instance in found}


async def calls_of(x: Experimenter) -> Any:
    return await x.at("portal-0", Portal).bound()


def test_what_is_published_is_found_and_bound_and_the_registry_is_not_asked_again() -> None:
    session = started(keep=5.0)

    async def experiment(x: Experimenter) -> tuple[Any, dict[str, int], int]:
        before = await x.at("registry-0", Registry).asked()
        answers = [await x.client.weather(CITY.name, day) for day in range(30)]
        assert answers == [expected(day) for day in range(30)]
        finds = await x.at("registry-0", Registry).asked() - before
        return await calls_of(x), await offered(x), finds

    bound, found, finds = session.perform(experiment)
    assert finds == 1
    assert found == {"weather-0": 1, "weather-1": 1, "weather-js-0": 1}
    assert bound.calls == {"Python": 20, "Node.js": 10}  # three instances in turn


def test_dates_are_the_clocks_and_reports_are_put_together_from_both_services() -> None:
    session = started()

    async def experiment(x: Experimenter) -> None:
        begun = x.now
        text = await x.client.date_time("Tokyo")
        assert text.endswith("+09:00")
        assert begun - 0.001 <= almanac.seconds_of(text) <= x.now + 0.001
        report = await x.client.report(CITY.name)
        assert report.weather == expected(almanac.day_of(report.local_time))
        (unknown,) = await settle(x.client.report("Atlantis"))
        assert isinstance(unknown, Failure)
        assert unknown.code == "unknown-city"

    session.perform(experiment)


def test_an_instance_that_leaves_is_found_no_more_and_still_answers_who_is_bound() -> None:
    session = started(weather="python", instances=2)

    async def experiment(x: Experimenter) -> tuple[dict[str, int], Any]:
        await x.client.weather(CITY.name, 1)
        await x.at("weather-0", WeatherService).leave()
        await x.sleep(2.0)  # it does not publish itself again
        for day in range(10):
            assert await x.client.weather(CITY.name, day) == expected(day)
        return await offered(x), await calls_of(x)

    found, bound = session.perform(experiment)
    assert list(found) == ["weather-1"]
    assert bound.failed == 0


def test_one_that_dies_is_named_until_its_lease_ends_and_costs_a_call_each_time_it_is_found() -> None:
    session = started(weather="python", instances=2, lease=3.0, keep=0.0)

    async def experiment(x: Experimenter) -> tuple[int, int, dict[str, int], dict[str, int]]:
        await x.control.crash("weather-0")
        soon = await offered(x)
        for day in range(20):
            assert await x.client.weather(CITY.name, day) == expected(day)  # by the other one
        met = (await calls_of(x)).failed
        await x.sleep(4.0)
        for day in range(20):
            await x.client.weather(CITY.name, day)
        return met, (await calls_of(x)).failed - met, soon, await offered(x)

    met, later, soon, found = session.perform(experiment)
    assert list(soon) == ["weather-0", "weather-1"]
    assert list(found) == ["weather-1"]
    assert met >= 8
    assert later == 0


def test_a_version_that_changes_is_followed_by_who_understands_it() -> None:
    session = started(upgrade=2.0, understands="both")

    async def experiment(x: Experimenter) -> tuple[dict[str, int], dict[str, int], Any]:
        before = await offered(x)
        for day in range(60):
            assert await x.client.weather(CITY.name, day) == expected(day)
            await x.sleep(0.1)
        bound = await calls_of(x)
        await x.control.crash("weather-0")
        await x.control.restart("weather-0")
        await x.sleep(0.5)
        return before, await offered(x), bound

    before, after, bound = session.perform(experiment)
    assert set(before.values()) == {1}
    assert set(after.values()) == {2}
    assert len(after) == 3
    assert 1 <= bound.failed <= 3  # each instance at most once: then it was bound anew


@pytest.mark.parametrize(("understands", "ends"), [("1", "later"), ("2", "first")])
def test_who_understands_one_version_only_is_without_the_service_before_or_after(
    understands: str, ends: str
) -> None:
    session = started(upgrade=2.0, understands=understands)

    async def experiment(x: Experimenter) -> tuple[Any, Any]:
        (first,) = await settle(x.client.weather(CITY.name, 1))
        await x.sleep(6.0)
        (later,) = await settle(x.client.weather(CITY.name, 1))
        return first, later

    told = dict(zip(("first", "later"), session.perform(experiment)))
    assert isinstance(told.pop(ends), NoService)
    assert list(told.values()) == [expected(1)]


def test_without_the_registry_who_is_bound_stays_so_and_back_again_it_is_full_after_a_lease() -> None:
    session = started(keep=1.0, lease=3.0)

    async def experiment(x: Experimenter) -> tuple[dict[str, int], dict[str, int]]:
        await x.client.report(CITY.name)
        await x.control.crash("registry-0")
        for day in range(20):
            assert await x.client.weather(CITY.name, day) == expected(day)
            await x.sleep(0.2)
        await x.control.restart("registry-0")
        empty = await offered(x)
        await x.sleep(1.5)
        return empty, await offered(x)

    empty, full = session.perform(experiment)
    assert empty == {}
    assert len(full) == 3


def test_a_paused_instance_costs_its_patience_and_no_answer() -> None:
    question = Question(
        ServiceOriented(weather="python"), ServicesJob(), duration=8.0, faults=["pause:weather-0@2s-5s"]
    )
    record = run(question)
    assert record.holds
    assert record.operations.failed == record.operations.unknown == 0
    assert 1 <= record.metrics["failed_calls"] <= 200


# -- live ---------------------------------------------------------------------------------------------------


@pytest.mark.local
def test_live_javascript_publishes_itself_is_found_gives_the_same_weather_changes_and_leaves() -> None:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed: its weather service is run in simulations only")
    architecture = ServiceOriented(weather="node", instances=1, upgrade=2.5, lease=1.5, keep=0.2)
    with open_session("local", architecture) as session:

        async def experiment(x: Experimenter) -> Any:
            await architecture.ready(x)
            assert await offered(x) == {"weather-js-0": 1}
            for place in almanac.CITIES:
                for day in range(0, 366, 61):
                    told = await x.client.weather(place.name, day)
                    assert told == Weather(place.name, day, almanac.forecast(place, day) / 10)
            assert almanac.seconds_of(await x.client.date_time("Lima")) == pytest.approx(x.now, abs=0.5)
            for _ in range(100):
                if await offered(x) == {"weather-js-0": 2}:
                    break
                await x.sleep(0.1)
            assert await x.client.weather(CITY.name, 7) == expected(7)
            await x.control.crash("weather-js-0")
            (gone,) = await settle(x.client.weather(CITY.name, 7))
            assert isinstance(gone, Failure)
            await x.control.restart("weather-js-0")
            for _ in range(100):
                if "weather-js-0" in await offered(x):
                    break
                await x.sleep(0.1)
            assert await offered(x) == {"weather-js-0": 2}, "as before the crash"
            assert await x.client.weather(CITY.name, 8) == expected(8)
            return await calls_of(x)

        bound = session.perform(experiment)
        assert bound.calls["Node.js"] >= 50
        port = session.process.http_ports["weather-js-0"]

        def status(path: str) -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        for day in ("&day=x", "&day=400", "", "&day=", "&day=1e2", "&day=-1", "&day=%200x10"):
            assert status(f"/v2/weather?city=Berlin{day}") == 400, day
        assert status("//") == 400
        assert status("/v2/weather?city=Berlin&day=3") == 200
        assert status("/v2/weather?city=Atlantis&day=3") == 409
        assert status("/v1/weather?city=Berlin&day=3") == 409
        assert status("/elsewhere") == 404


@pytest.mark.local
@pytest.mark.parametrize("weather", ["both", "node"])
def test_live_without_node_js_the_others_run_and_if_there_are_none_a_word_says_what_is_missing(
    weather: str,
) -> None:
    main = "from polyarch.cli.main import main; main()"
    options = ["--on", "local", "--duration", "0.5", "--instances", "1", "--weather", weather]
    command = [sys.executable, "-c", main, "run", "service_oriented", *options]
    empty = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=empty)
    assert "install Node.js" in done.stderr
    assert done.returncode == (0 if weather == "both" else 2)
    if weather == "both":
        assert "holds" in done.stdout
