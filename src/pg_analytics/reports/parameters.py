"""The parameters of a report run: declared per report, read, checked and normalised."""

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from pg_analytics.errors import invalid
from pg_analytics.http.params import OFFSET, Choice, Day, Flag, Integer, Parameter, Query, Text
from pg_analytics.reports.definition import Filter, ReportDefinition
from pg_analytics.reports.store import CatalogEntry
from pg_analytics.windows import FIRST_DAY, DayRange, Window

#: A request that names no first day gets this many days.
DEFAULT_DAYS: Final = 30

DATE_FROM: Final = Day("date_from", None)
DATE_TO: Final = Day("date_to", None)
FRESH: Final = Flag("fresh", default=False)
LIMIT: Final = Integer("limit", 50, minimum=1, maximum=1000)


class RunParameters(msgspec.Struct, frozen=True):
    """What is asked of a report. `filters` holds the value of each of its filters, None where not narrowed; `fresh`
    asks for the numbers of this moment; `days` are the whole buckets that answer it.
    """

    window: Window
    date_from: date
    date_to: date
    breakdown: str | None
    filters: dict[str, str | None]
    fresh: bool
    limit: int
    offset: int
    days: DayRange

    def identity(self) -> dict[str, object]:
        """Equal for requests that have the same answer, for the cache key. A fresh answer is never kept."""
        return {
            "window": self.window.value,
            "date_from": self.date_from.isoformat(),
            "date_to": self.date_to.isoformat(),
            "breakdown": self.breakdown,
            "filters": self.filters,
            "limit": self.limit,
            "offset": self.offset,
        }


def declared(definition: ReportDefinition, entry: CatalogEntry) -> tuple[Parameter[Any], ...]:
    """The parameters that a report takes, in the order of the reference."""
    return _declared(definition, entry.default_window, entry.allowed_windows)


def read(
    query: Query, definition: ReportDefinition, entry: CatalogEntry, *, now: datetime, max_days: int
) -> RunParameters:
    """What `query` asks for; `ServiceError` (400) naming the parameter that is wrong. `now` is aware, in UTC."""
    query.allow(declared(definition, entry))
    date_from, date_to = _dates(query, today=now.date(), max_days=max_days)
    asked_window = query.value(_window(entry.default_window, entry.allowed_windows))
    window = Window(asked_window or entry.default_window)
    return RunParameters(
        window=window,
        date_from=date_from,
        date_to=date_to,
        breakdown=query.value(_breakdown(definition)) if definition.breakdowns else None,
        filters={f.name: query.value(_filter(f)) for f in definition.filters},
        fresh=query.value(FRESH),
        limit=query.value(LIMIT),
        offset=query.value(OFFSET),
        days=DayRange.inclusive(date_from, date_to).whole_buckets(window),
    )


def check_range(date_from: date, date_to: date, *, max_days: int) -> None:
    """`ServiceError` (400) if the days, both included, are reversed or more than `max_days`."""
    if date_from > date_to:
        raise invalid("date_from", f"must be on or before date_to ({date_to.isoformat()})")
    if DayRange.inclusive(date_from, date_to).day_count > max_days:
        raise invalid("date_from", f"the range must not exceed {max_days} days")


def _dates(query: Query, *, today: date, max_days: int) -> tuple[date, date]:
    date_to = query.value(DATE_TO) or today
    date_from = query.value(DATE_FROM)
    if date_from is None:
        days = min(DEFAULT_DAYS, max_days, (date_to - FIRST_DAY).days + 1)
        date_from = date_to - timedelta(days=days - 1)
    check_range(date_from, date_to, max_days=max_days)
    return date_from, date_to


# A definition never changes, and the windows of a report hardly ever do.


@lru_cache
def _declared(
    definition: ReportDefinition, default_window: Window, allowed_windows: tuple[Window, ...]
) -> tuple[Parameter[Any], ...]:
    breakdown = (_breakdown(definition),) if definition.breakdowns else ()
    filters = (_filter(f) for f in definition.filters)
    return (_window(default_window, allowed_windows), DATE_FROM, DATE_TO, *breakdown, *filters, FRESH, LIMIT, OFFSET)


@lru_cache
def _window(default: Window, allowed: tuple[Window, ...]) -> Choice:
    return Choice("window", default.value, choices=tuple(window.value for window in allowed), ignore_case=True)


@lru_cache
def _breakdown(definition: ReportDefinition) -> Choice:
    choices = tuple(breakdown.name for breakdown in definition.breakdowns)
    return Choice("breakdown", definition.default_breakdown, choices=choices)


@lru_cache
def _filter(f: Filter) -> Parameter[str | None]:
    return Text(f.name, None) if f.values is None else Choice(f.name, None, choices=f.values)
