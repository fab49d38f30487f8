"""The parameters of a report run: declared per report, read, checked and normalised."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class RunParameters:
    """What is asked of a report. `filters` holds the value of each of its filters, None where not narrowed; `fresh`
    asks for the numbers of this moment.
    """

    window: Window
    date_from: date
    date_to: date
    breakdown: str | None
    filters: dict[str, str | None]
    fresh: bool
    limit: int
    offset: int

    @property
    def days(self) -> DayRange:
        """The whole buckets that answer the request."""
        return DayRange.inclusive(self.date_from, self.date_to).whole_buckets(self.window)

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


def declared(definition: ReportDefinition, entry: CatalogEntry) -> list[Parameter[Any]]:
    """The parameters that a report takes, in the order of the reference."""
    parameters: list[Parameter[Any]] = [_window(entry), DATE_FROM, DATE_TO]
    if definition.breakdowns:
        parameters.append(_breakdown(definition))
    return [*parameters, *(_filter(f) for f in definition.filters), FRESH, LIMIT, OFFSET]


def read(
    query: Query, definition: ReportDefinition, entry: CatalogEntry, *, now: datetime, max_days: int
) -> RunParameters:
    """What `query` asks for; `ServiceError` (400) naming the parameter that is wrong. `now` is aware, in UTC."""
    query.allow(declared(definition, entry))
    date_from, date_to = _dates(query, today=now.date(), max_days=max_days)
    return RunParameters(
        window=Window(query.value(_window(entry)) or entry.default_window),
        date_from=date_from,
        date_to=date_to,
        breakdown=query.value(_breakdown(definition)) if definition.breakdowns else None,
        filters={f.name: query.value(_filter(f)) for f in definition.filters},
        fresh=query.value(FRESH),
        limit=query.value(LIMIT),
        offset=query.value(OFFSET),
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


def _window(entry: CatalogEntry) -> Choice:
    choices = tuple(window.value for window in entry.allowed_windows)
    return Choice("window", entry.default_window.value, choices=choices, ignore_case=True)


def _breakdown(definition: ReportDefinition) -> Choice:
    choices = tuple(breakdown.name for breakdown in definition.breakdowns)
    return Choice("breakdown", definition.default_breakdown, choices=choices)


def _filter(f: Filter) -> Parameter[str | None]:
    return Text(f.name, None) if f.values is None else Choice(f.name, None, choices=f.values)
