"""Ask for the date and the time, and for the weather: small things that many others need.

Services are there to be used again: the report of a day is put together from both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyarch.blocks.almanac import CITIES, city, day_of, forecast, seconds_of
from polyarch.core import Done, Job, Node, Operation, Random, Record, Verdict, Visit, get, parameter

__all__ = ["Almanac", "Report", "ServicesJob", "Weather"]


class Weather(Record):
    """The weather in a city on a day of the year."""

    city: str
    day: int
    celsius: float


class Report(Record):
    """What a traveller wants to know."""

    local_time: str
    weather: Weather


class Almanac(Node):
    """The port: what clients ask for."""

    timeout = 10.0

    @get("/date-time")
    async def date_time(self, city: str) -> str:
        """The local date and time, as ISO 8601 has it."""
        raise NotImplementedError

    @get("/weather")
    async def weather(self, city: str, day: int) -> Weather:
        """The weather on a day of the year, from 0 on."""
        raise NotImplementedError

    @get("/report")
    async def report(self, city: str) -> Report:
        """The local time, and the weather of that day."""
        raise NotImplementedError


class ServicesJob(Job):
    """Ask for the date and time, and for the weather, of a city.

    What is checked: the weather is that of the city and the day; and all dates were read from clocks that
    agree: some difference between the clients' clock and the services' fits all of them.
    """

    name = "services"
    port = Almanac

    dates: float = parameter(0.4, "weight of questions for the date and time", least=0)
    weathers: float = parameter(0.4, "weight of questions for the weather", least=0)
    reports: float = parameter(0.2, "weight of questions for both together", least=0)
    apart: float = parameter(0.005, "by which the services' clocks may differ", least=0, unit="s")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.dates + self.weathers + self.reports <= 0:
            raise ValueError("--dates, --weathers and --reports are all 0: nothing to ask for")

    def visits(self, random: Random) -> Iterator[Visit]:
        total = self.dates + self.weathers + self.reports
        while True:
            draw, place = total * random.random(), random.choice(CITIES).name
            if draw < self.dates:
                yield (Operation("date_time", (place,)),)
            elif draw < self.dates + self.weathers:
                yield (Operation("weather", (place, random.below(365))),)
            else:
                yield (Operation("report", (place,)),)

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        answered = [done for done in history if done.outcome == "ok"]
        wrong = [done for done in answered if not right(done)]
        first = f"; first: {wrong[0].name}{wrong[0].arguments} gave {wrong[0].value}" if wrong else ""
        detail = f"{len(answered)} of {len(history)} answered, {len(wrong)} of them wrong{first}"
        verdicts = [Verdict("the weather is that of the city and the day", not wrong, detail)]
        # A clock that is d seconds ahead of ours was read between start + d and end + d.
        dated = [(done, seconds_of(date)) for done in answered if (date := date_in(done))]
        low = max((read - done.end for done, read in dated), default=0.0)
        high = min((read - done.start for done, read in dated), default=0.0)
        # Dates are told in thousandths of a second.
        apart = max(0.0, low - high - 0.001)
        detail = f"{len(dated)} dates; their clocks are at least {apart:.3f} s apart"
        return [*verdicts, Verdict("the dates are from clocks that agree", apart <= self.apart, detail)]


def date_in(done: Done) -> str:
    """The date in an answer; empty if there is none."""
    if done.name == "report":
        return str(_field(done.value, "local_time"))
    return str(done.value) if done.name == "date_time" else ""


def right(done: Done) -> bool:
    """Whether the weather in an answer is right."""
    if done.name == "date_time":
        return True
    place = city(done.arguments[0])
    weather = done.value
    if done.name == "report":
        weather, day = _field(done.value, "weather"), day_of(_field(done.value, "local_time"))
    else:
        day = done.arguments[1]
    told = (_field(weather, "city"), _field(weather, "day"), round(10 * _field(weather, "celsius")))
    return bool(told == (place.name, day, forecast(place, day)))


def _field(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, dict) else getattr(value, name)
