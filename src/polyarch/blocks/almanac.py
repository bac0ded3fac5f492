"""What the reusable services know: the calendar, and the weather of a few cities.

The weather is invented, and a pure function of city and day in whole numbers, so that a service in any
language gives the same (``components/scripts/weather.mjs`` does), and every answer can be checked.
"""

from __future__ import annotations

from polyarch.core.errors import Refused
from polyarch.core.records import Record

__all__ = ["CITIES", "City", "UnknownCity", "city", "day_of", "forecast", "iso", "seconds_of"]

EPOCH = 20_454 * 86_400
"""What the clocks of services show when a run begins: 1 January 2026, 00:00 UTC, in Unix time."""


class UnknownCity(Refused, code="unknown-city"):
    """Nothing is known about the city."""


class City(Record):
    """A city: its time and its weather."""

    name: str
    hours: int
    """Of its standard time, ahead of UTC."""
    july: int
    january: int
    """Usual temperatures in tenths of a degree Celsius."""


CITIES = (
    City("Berlin", 1, 200, 10),
    City("Cairo", 2, 285, 140),
    City("Lima", -5, 170, 230),
    City("Nairobi", 3, 165, 195),
    City("New York", -5, 250, 5),
    City("Sydney", 10, 130, 235),
    City("Tokyo", 9, 260, 55),
    City("Tromso", 1, 120, -35),
)


def city(name: str) -> City:
    """The city of this name; ``UnknownCity``."""
    for known in CITIES:
        if known.name == name:
            return known
    raise UnknownCity(f"{name}; known are {', '.join(known.name for known in CITIES)}")


def forecast(place: City, day: int) -> int:
    """Tenths of a degree Celsius on a day of the year (0 to 365): between January and July, and a whim."""
    away = abs(day - 196)  # from the middle of July
    away = min(away, 365 - away)
    whim = (day * 37 + sum(map(ord, place.name)) * 101) % 81 - 40
    return place.july - (place.july - place.january) * away // 182 + whim


def iso(clock: float, hours: int) -> str:
    """Date and time where it is so many hours later than UTC, by a clock that began with the run."""
    thousandths = round(clock * 1000) + (EPOCH + hours * 3600) * 1000
    seconds, thousandths = divmod(thousandths, 1000)
    days, seconds = divmod(seconds, 86_400)
    year, month, day = _civil(days)
    return (
        f"{year:04}-{month:02}-{day:02}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        f".{thousandths:03}{hours:+03}:00"
    )


def seconds_of(text: str) -> float:
    """The clock's reading again, from what ``iso`` has made of it; ``ValueError`` for anything else."""
    year, month, day, hour, minute = (
        int(text[i:j]) for i, j in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16))
    )
    seconds = _days(year, month, day) * 86_400 + hour * 3600 + minute * 60 - int(text[23:26]) * 3600
    return seconds - EPOCH + float(text[17:23])


def day_of(text: str) -> int:
    """The day of the year, from 0 on, of a date and time."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    return _days(year, month, day) - _days(year, 1, 1)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 (Hinnant, "chrono-compatible low-level date algorithms", 2013)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day (the same)."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    return year + era * 400 + (month <= 2), month, day
