"""Windows of the day in which cycles archive. Pure: the time is an argument.

A window is ``22:00-06:00``, or with days in front ``Mon-Fri 22:00-06:00``: the days on which it begins. Times are those
of the clock on the wall, so that a window keeps them when daylight saving time begins or ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW = re.compile(r"(?:(?P<days>[A-Za-z]{3}(?:-[A-Za-z]{3})?) +)?(?P<start>\d\d:\d\d) *- *(?P<end>\d\d:\d\d)")
_WEEK, _DAY = 7, 24 * 60
FORM = "a window is like 22:00-06:00, or Mon-Fri 22:00-06:00"


@dataclass(frozen=True, slots=True)
class Window:
    """``days`` are those it begins on, Monday is 0. ``start``, ``end``: minutes of the day; an earlier end is the next
    day's.
    """

    days: frozenset[int]
    start: int
    end: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Window:
        """Raises `ValueError`, which says what is wrong."""
        found = _WINDOW.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no window: {FORM}")
        start, end = _minutes(found["start"], text), _minutes(found["end"], text)
        if start in {_DAY, end}:
            raise ValueError(f"{text!r} is an empty window: 00:00-24:00 is the whole day")
        return cls(_days(found["days"] or "", text), start, end, text.strip())

    def __str__(self) -> str:
        return self.text

    def begun_on(self, day: date, zone: ZoneInfo | None) -> tuple[float, float]:
        """When the window that begins on this day opens and closes. It may be empty where the clock goes forward."""
        ends = day + timedelta(days=(self.end <= self.start) + self.end // _DAY)
        opens = datetime.combine(day, _time(self.start), zone)
        # Of a time that occurs twice the first opens, and the last closes.
        closes = datetime.combine(ends, _time(self.end % _DAY), zone).replace(fold=1)
        return opens.timestamp(), closes.timestamp()


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a configuration; ``zone`` is a name such as ``Europe/Vienna``, empty for this machine's time.

    Without windows it is always open.
    """

    windows: tuple[Window, ...] = ()
    zone: str = ""

    def opens_at(self, now: float) -> float | None:
        """When the next window opens; None while one is open."""
        if not self.windows:
            return None
        found = list(self._around(now))
        if any(opens <= now < closes for opens, closes in found):
            return None
        return min(opens for opens, closes in found if now < opens < closes)

    def describe(self, moment: float) -> str:
        """A moment for people, in the windows' own time."""
        local = datetime.fromtimestamp(moment, self._zone).astimezone(self._zone)
        return f"{local:%a %Y-%m-%d %H:%M} {local.tzname()}"

    @property
    def _zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.zone) if self.zone else None

    def _around(self, now: float) -> Iterator[tuple[float, float]]:
        """From yesterday on, for a week and a day more: one that does not exist on a day may be the only one."""
        zone = self._zone
        today = datetime.fromtimestamp(now, zone).date()
        for days in range(-1, 2 * _WEEK):
            day = today + timedelta(days=days)
            yield from (window.begun_on(day, zone) for window in self.windows if day.weekday() in window.days)


def _minutes(text: str, window: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY:
        raise ValueError(f"{window!r} has no time of the day: {text}")
    return hours * 60 + minutes


def _time(minutes: int) -> time:
    return time(minutes // 60, minutes % 60)


def _days(text: str, window: str) -> frozenset[int]:
    if not text:
        return frozenset(range(_WEEK))
    names = [name.capitalize() for name in text.split("-")]
    if unknown := [name for name in names if name not in _DAYS]:
        raise ValueError(f"{window!r} has the day {unknown[0]}: known are {', '.join(_DAYS)}")
    first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
    return frozenset((first + days) % _WEEK for days in range((last - first) % _WEEK + 1))
