"""Calendar arithmetic: days, weeks, and the half-open ranges that everything below the edge works on.

A client speaks of dates with both ends inclusive; inside, a range is `[start, end)`. The step from one to the
other is taken once, here. A window coarser than a day is answered in whole buckets, so a range is widened to
the buckets that it touches before anything is read or rebuilt. Weeks start on Monday (ISO 8601).
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

_DAY: Final = timedelta(days=1)

#: The days that can be asked for: whole weeks. The first week of the year 1 is left out, as its Monday would reach
#: PostgreSQL as `-infinity` (asyncpg takes `date.min` for that); the last week ends within `date`.
FIRST_DAY: Final = date(1, 1, 8)
LAST_DAY: Final = date(9999, 12, 26)

_ISO_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Window(StrEnum):
    """The width of a bucket."""

    DAY = "day"
    WEEK = "week"

    @property
    def days(self) -> int:
        """How many days a bucket has."""
        return 7 if self is Window.WEEK else 1

    def bucket_start(self, day: date) -> date:
        """First day of the bucket that `day` lies in."""
        return day - timedelta(days=day.weekday()) if self is Window.WEEK else day


class DayRange(msgspec.Struct, frozen=True, gc=False):
    """The days `start <= day < end`."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise ValueError(f"range ends ({self.end}) before it starts ({self.start})")

    @classmethod
    def inclusive(cls, first: date, last: date) -> "DayRange":
        """The range from `first` to `last`, both included."""
        return cls(first, last + _DAY)

    @property
    def last(self) -> date:
        """Last day of the range, included."""
        return self.end - _DAY

    @property
    def day_count(self) -> int:
        """How many days there are."""
        return (self.end - self.start).days

    def __iter__(self) -> Iterator[date]:
        """Every day, ascending."""
        return (self.start + timedelta(days=n) for n in range(self.day_count))

    def whole_buckets(self, window: Window) -> "DayRange":
        """The days of every bucket of `window` that this (not empty) range intersects."""
        if window is Window.DAY:
            return self
        return DayRange(
            window.bucket_start(self.start),
            window.bucket_start(self.last) + timedelta(days=window.days),
        )

    def bucket_count(self, window: Window) -> int:
        """How many buckets there are in a range that starts with one; the last may be there in part."""
        return -(-self.day_count // window.days)

    def whole_months(self) -> "DayRange":
        """The days of the calendar months that lie in the range whole; if none does, no day, at the range's end."""
        end = self.end.replace(day=1)
        if self.start >= end:
            return DayRange(self.end, self.end)
        start = self.start if self.start.day == 1 else month_of(self.start).end
        return DayRange(start, end) if start < end else DayRange(self.end, self.end)

    def newest(self, days: int) -> "DayRange":
        """The last `days` days of the range, or all of it where it is shorter."""
        return DayRange(max(self.start, self.end - timedelta(days=min(days, self.day_count))), self.end)


def month_of(day: date) -> DayRange:
    """The days of the calendar month that `day` lies in, but for those that cannot be asked for."""
    start = day.replace(day=1)
    if (day.year, day.month) == (LAST_DAY.year, LAST_DAY.month):
        return DayRange(start, LAST_DAY + _DAY)
    return DayRange(max(start, FIRST_DAY), (start + timedelta(days=31)).replace(day=1))


@lru_cache(maxsize=4096)  # some eleven years: the same days are asked for again and again
def parse_day(text: str) -> date:
    """The day written as `YYYY-MM-DD`; `ValueError` for any other form, day, or a day that cannot be asked for."""
    if not _ISO_DATE.fullmatch(text):
        raise ValueError("not YYYY-MM-DD")
    day = date.fromisoformat(text)
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError("out of range")
    return day
