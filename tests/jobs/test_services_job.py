"""The job finds wrong weather and clocks that disagree, and asks for what it was told to."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from polyarch.blocks.almanac import CITIES, day_of, forecast, iso
from polyarch.core import Done, Random
from polyarch.jobs.services import ServicesJob

CITY = CITIES[0]


def done(name: str, arguments: tuple[Any, ...], value: Any, start: float = 1.0, end: float = 1.002) -> Done:
    return Done(0, name, arguments, start, start, end, "ok", value)


def weather(day: int, more: float = 0.0) -> dict[str, Any]:
    return {"city": CITY.name, "day": day, "celsius": forecast(CITY, day) / 10 + more}


def holds(*history: Done) -> list[bool]:
    return [verdict.holds for verdict in ServicesJob().check(history, None)]


def test_right_weather_passes_and_any_other_does_not() -> None:
    assert holds(done("weather", (CITY.name, 5), weather(5))) == [True, True]
    assert holds(done("weather", (CITY.name, 5), weather(6))) == [False, True]
    assert holds(done("weather", (CITY.name, 5), weather(5, 0.1))) == [False, True]


def test_a_report_has_the_weather_of_its_own_day() -> None:
    date = iso(86_400 * 3.5, CITY.hours)
    assert day_of(date) == 3
    assert holds(done("report", (CITY.name,), {"local_time": date, "weather": weather(3)})) == [True, True]
    assert holds(done("report", (CITY.name,), {"local_time": date, "weather": weather(4)})) == [False, True]


def test_clocks_may_be_ahead_of_ours_but_all_by_as_much() -> None:
    ahead = [
        done("date_time", (CITY.name,), iso(1000 + t, CITY.hours), t, t + 0.002) for t in (1.0, 2.0, 3.0)
    ]
    assert holds(*ahead) == [True, True]
    late = done("date_time", (CITY.name,), iso(1004 + 0.05, CITY.hours), 4.0, 4.002)
    assert holds(*ahead, late) == [True, False]


def test_the_mix_is_as_asked_for_and_nothing_to_ask_for_is_said() -> None:
    job = ServicesJob(dates=0.0, weathers=1.0, reports=1.0)
    names = [visit[0].name for visit in islice(job.visits(Random(1)), 2000)]
    assert set(names) == {"weather", "report"}
    assert 900 < names.count("report") < 1100
    with pytest.raises(ValueError, match="nothing to ask for"):
        next(ServicesJob(dates=0.0, weathers=0.0, reports=0.0).visits(Random(1)))
