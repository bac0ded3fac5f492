"""The calendar is the world's, and the weather is a pure function."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.blocks.almanac import CITIES, EPOCH, UnknownCity, city, day_of, forecast, iso, seconds_of

MILLISECONDS = st.integers(min_value=-60_000_000_000_000, max_value=200_000_000_000_000)


@given(MILLISECONDS, st.integers(-12, 14))
def test_dates_are_those_of_the_calendar_and_give_the_clocks_reading_again(clock: int, hours: int) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=hours))
    right = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(
        seconds=EPOCH, milliseconds=clock
    )
    right = right.astimezone(zone)
    text = iso(clock / 1000, hours)
    assert text == right.isoformat(timespec="milliseconds")
    assert seconds_of(text) == pytest.approx(clock / 1000, abs=1e-4)
    assert day_of(text) == right.timetuple().tm_yday - 1


def test_the_weather_is_warm_in_summer_and_whole_numbers_for_every_city_and_day() -> None:
    for place in CITIES:
        year = [forecast(place, day) for day in range(366)]
        assert all(type(tenths) is int for tenths in year)
        low, high = sorted((place.january, place.july))
        assert low - 45 <= min(year)
        assert max(year) <= high + 45
        assert len(set(year)) > 20


def test_a_city_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownCity, match="Berlin"):
        city("Atlantis")
