"""The parameters of a report run: declared per report, read, checked and normalised."""

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

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


class RunParameters(msgspec.Struct, frozen=True, gc=False):
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


class _Declared(NamedTuple):
    """The parameters that a report takes."""

    names: frozenset[str]
    window: Choice
    breakdown: Choice | None
    filters: dict[str, Parameter[str | None]]

    @property
    def all(self) -> tuple[Parameter[Any], ...]:
        """In the order of the reference."""
        breakdown = () if self.breakdown is None else (self.breakdown,)
        return (self.window, DATE_FROM, DATE_TO, *breakdown, *self.filters.values(), FRESH, LIMIT, OFFSET)


def declared(definition: ReportDefinition, entry: CatalogEntry) -> tuple[Parameter[Any], ...]:
    """The parameters that a report takes, in the order of the reference."""
    return _declared(definition, entry.default_window, entry.allowed_windows).all


def read(
    query: Query, definition: ReportDefinition, entry: CatalogEntry, *, now: datetime, max_days: int
) -> RunParameters:
    """What `query` asks for; `ServiceError` (400) naming the parameter that is wrong. `now` is aware, in UTC."""
    known = _declared(definition, entry.default_window, entry.allowed_windows)
    if not query.names <= known.names:
        query.allow(known.all)
    date_from, date_to = _dates(query, today=now.date(), max_days=max_days)
    window = Window(query.value(known.window) or entry.default_window)
    return RunParameters(
        window=window,
        date_from=date_from,
        date_to=date_to,
        breakdown=query.value(known.breakdown) if known.breakdown else None,
        filters={name: query.value(f) for name, f in known.filters.items()},
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


@lru_cache  # a definition never changes, and the windows of a report hardly ever do
def _declared(definition: ReportDefinition, default_window: Window, allowed_windows: tuple[Window, ...]) -> _Declared:
    windows = tuple(window.value for window in allowed_windows)
    breakdowns = tuple(breakdown.name for breakdown in definition.breakdowns)
    declared = _Declared(
        frozenset(),
        Choice("window", default_window.value, choices=windows, ignore_case=True),
        Choice("breakdown", definition.default_breakdown, choices=breakdowns) if breakdowns else None,
        {f.name: _filter(f) for f in definition.filters},
    )
    return declared._replace(names=frozenset(parameter.name for parameter in declared.all))


def _filter(f: Filter) -> Parameter[str | None]:
    return Text(f.name, None) if f.values is None else Choice(f.name, None, choices=f.values)
