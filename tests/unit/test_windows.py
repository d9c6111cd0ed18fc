"""Windows to archive in: parsed, open or closed, and when the next one opens, whatever the clocks do."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.segments.windows import Window, Windows

VIENNA = "Europe/Vienna"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def windows(*texts: str, zone: str = VIENNA) -> Windows:
    return Windows(tuple(map(Window.parse, texts)), zone)


def at(text: str, zone: str = VIENNA, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def test_without_windows_it_is_always_open() -> None:
    assert Windows().opens_at(at("2026-05-06 12:00")) is None


@pytest.mark.parametrize(
    ("texts", "now", "opens"),
    [
        (("22:00-06:00",), "2026-05-06 21:59:59", "2026-05-06 22:00"),
        (("22:00-06:00",), "2026-05-06 22:00", None),
        (("22:00-06:00",), "2026-05-07 05:59:59", None),
        (("22:00-06:00",), "2026-05-07 06:00", "2026-05-07 22:00"),
        (("00:00-24:00",), "2026-05-07 23:59:59", None),
        (("Sat-Sun 00:00-24:00",), "2026-05-08 23:59", "2026-05-09 00:00"),
        (("Sat-Sun 00:00-24:00",), "2026-05-10 23:59", None),
        (("Sat-Sun 00:00-24:00",), "2026-05-11 00:00", "2026-05-16 00:00"),
        # The days are those on which a window begins: Friday's reaches into Saturday.
        (("Mon-Fri 22:00-06:00",), "2026-05-09 05:00", None),
        (("Mon-Fri 22:00-06:00",), "2026-05-09 06:00", "2026-05-11 22:00"),
        (("Fri-Mon 10:00-11:00",), "2026-05-12 10:30", "2026-05-15 10:00"),
        (("mon 10:00-11:00", "Tue 12:00 - 13:00"), "2026-05-12 10:30", "2026-05-12 12:00"),
        (("09:00-12:00", "11:00-14:00"), "2026-05-12 13:00", None),
    ],
)
def test_it_opens_and_closes_by_the_clock_on_the_wall(texts: tuple[str, ...], now: str, opens: str | None) -> None:
    assert windows(*texts).opens_at(at(now)) == (None if opens is None else at(opens))


def test_it_keeps_its_time_when_daylight_saving_begins_and_ends() -> None:
    nightly = windows("22:00-06:00")
    # In the night to 2026-03-29 an hour is missing, in the one to 2026-10-25 one occurs twice.
    assert at("2026-03-29 06:00") - at("2026-03-28 22:00") == 7 * 3600
    assert nightly.opens_at(at("2026-03-29 05:59")) is None
    assert nightly.opens_at(at("2026-03-29 06:00")) == at("2026-03-29 22:00")
    assert at("2026-10-25 06:00") - at("2026-10-24 22:00") == 9 * 3600
    assert nightly.opens_at(at("2026-10-25 05:59")) is None
    assert nightly.opens_at(at("2026-10-25 06:00")) == at("2026-10-25 22:00")


def test_a_time_that_occurs_twice_opens_once_and_closes_late() -> None:
    assert windows("01:00-02:30").opens_at(at("2026-10-25 02:29", fold=1)) is None
    assert windows("01:00-02:30").opens_at(at("2026-10-25 02:45")) is None
    assert windows("01:00-02:30").opens_at(at("2026-10-25 02:30", fold=1)) == at("2026-10-26 01:00")
    assert windows("02:30-04:00").opens_at(at("2026-10-25 02:29")) == at("2026-10-25 02:30")


def test_a_window_that_a_day_does_not_have_opens_the_next_time() -> None:
    only = windows("Sun 02:15-02:45")
    assert only.opens_at(at("2026-03-29 01:59")) == at("2026-04-05 02:15")


def test_the_moment_is_told_in_the_windows_own_time() -> None:
    assert windows("22:00-06:00").describe(at("2026-07-06 22:00")) == "Mon 2026-07-06 22:00 CEST"


@given(
    st.lists(
        st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS), st.integers(0, 1439), st.integers(1, 1440)).filter(
            lambda each: each[2] != each[3]
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([VIENNA, "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.floats(1_700_000_000, 1_900_000_000),
)
def test_when_it_opens_it_is_open_and_not_before(parts: list[tuple[str, str, int, int]], zone: str, now: float) -> None:
    texts = [f"{a}-{b} {s // 60:02}:{s % 60:02}-{e // 60:02}:{e % 60:02}" for a, b, s, e in parts]
    found = windows(*texts, zone=zone)
    opens = found.opens_at(now)
    if opens is not None:
        assert now < opens
        assert found.opens_at(opens) is None
        assert found.opens_at((now + opens) / 2) == opens


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("22:00", "is no window"),
        ("22-06", "is no window"),
        ("nightly", "is no window"),
        ("Mon,Tue 22:00-06:00", "is no window"),
        ("Foo 22:00-06:00", "has the day Foo: known are Mon"),
        ("25:00-06:00", "has no time of the day: 25:00"),
        ("22:60-06:00", "has no time of the day: 22:60"),
        ("24:00-06:00", "is an empty window"),
        ("06:00-06:00", "is an empty window"),
    ],
)
def test_what_is_no_window_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Window.parse(text)
