"""The statements of the catalogue and of the reports, one function each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import msgspec

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import ReportDefinition
from pg_analytics.reports.statement import batch_statement, run_statement
from pg_analytics.windows import DayRange, Window

_LIST_REPORTS: Final = statement(__package__, "list_reports")
_COUNT_REPORTS: Final = statement(__package__, "count_reports")
_READ_CATALOG: Final = statement(__package__, "read_catalog")
_READ_FRESHNESS: Final = statement(__package__, "read_freshness")
_READ_STALE_DAYS: Final = statement(__package__, "read_stale_days")
_INSTALL_REPORT: Final = statement(__package__, "install_report")
_INSTALL_WINDOW: Final = statement(__package__, "install_window")

#: A change log longer than this (about 250,000 entries, some 50 ms) is not read for an answer that does not depend on
#: it: that would take longer than most reports.
_MAX_LOG_BYTES: Final = 16 * 1024 * 1024
#: How many questions share a statement at most, and over how many days together.
_MOST_TOGETHER: Final = 16
_MOST_DAYS_TOGETHER: Final = 512


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A report as its row in the catalogue stands. `version` names the generation of its numbers."""

    slug: str
    name: str
    description: str
    cache_ttl_seconds: int
    default_window: Window
    allowed_windows: tuple[Window, ...]
    supported_filters: dict[str, str]
    timezone: str
    cache_epoch: str
    version: int


class ReportSummary(msgspec.Struct, frozen=True):
    """A report as a page of the catalogue lists it."""

    slug: str
    name: str
    description: str
    cache_ttl_seconds: int
    default_window: str
    supported_filters: msgspec.Raw
    allowed_windows: list[str]


class ReportRows(msgspec.Struct, frozen=True, gc=False):
    """What a report's statement returned: the page as JSON text, its size and the size of all pages.

    `computed_at` is the oldest rebuild among the snapshots that were read (None: there was none), `stale_buckets` how
    many buckets have changes that are not in the rows (None: the log is too long to tell), `fresh_days` how many stale
    days a fresh answer counts (None: it is not a fresh one), and `retained_from` the first day that is kept, where the
    range begins before it. `version` is that of the report's numbers in the very snapshot that the rows are of (0: it
    is not in the catalogue any more).
    """

    #: How long the statement took, in seconds. Then its columns, in their order.
    took_s: float
    rows: str
    row_count: int
    total: int
    computed_at: datetime | None
    stale_buckets: int | None
    fresh_days: int | None
    retained_from: date | None
    version: int


class ReportCall(msgspec.Struct, frozen=True, gc=False):
    """A report's statement and its arguments: those of the question, and those that all questions of the report have in
    common. Several questions of one `statement` can be answered by `batch_statement`, where there is one.
    """

    statement: str
    batch_statement: str | None
    asked: list[object]
    common: list[object]
    #: How much of a batch it is.
    share: float
    #: Whether it reads whole months: so many rows that how to read them is worth a plan for these very days.
    is_long: bool = False

    @property
    def arguments(self) -> list[object]:
        """Those of `statement`."""
        return [*self.asked, *self.common]


@dataclass(frozen=True, slots=True)
class Freshness:
    """How current a rollup is: the newest day with events in it, its last rebuild, how many days (of all) have changes
    that no rebuild has seen or will ever see, and for how many seconds the oldest change has been waiting for one.
    """

    data_through: date | None
    computed_at: datetime | None
    stale_days: int
    lag_seconds: float


async def list_reports(
    connection: Connection, *, search: str | None, sort: str, descending: bool, limit: int, offset: int
) -> list[ReportSummary]:
    """A page of the public catalogue, ties broken by slug."""
    return [
        ReportSummary(**{**row, "supported_filters": msgspec.Raw(row["supported_filters"].encode())})
        for row in await connection.fetch(_LIST_REPORTS, search, sort, descending, limit, offset)
    ]


async def count_reports(connection: Connection, *, search: str | None) -> int:
    """How many reports of the public catalogue match."""
    return int(await connection.fetchval(_COUNT_REPORTS, search))


async def read_catalog(connection: Connection) -> dict[str, CatalogEntry]:
    """Every public report by slug."""
    return {
        row["slug"]: CatalogEntry(
            slug=row["slug"],
            name=row["name"],
            description=row["description"],
            cache_ttl_seconds=row["cache_ttl_seconds"],
            default_window=Window(row["default_window"]),
            allowed_windows=tuple(Window(name) for name in row["allowed_windows"]),
            supported_filters=msgspec.json.decode(row["supported_filters"], type=dict[str, str]),
            timezone=row["timezone"],
            cache_epoch=row["cache_epoch"],
            version=row["version"],
        )
        for row in await connection.fetch(_READ_CATALOG)
    }


async def read_freshness(connection: Connection, rollup: str) -> Freshness:
    """How current `rollup` is."""
    return Freshness(**(await connection.fetch(_READ_FRESHNESS, rollup))[0])


async def read_stale_days(connection: Connection, *, most: int) -> dict[str, list[date]]:
    """Per rollup, up to `most` days that are stale, newest first. Empty if the change log is too long to be polled."""
    found = await connection.fetch(_READ_STALE_DAYS, most, _MAX_LOG_BYTES)
    return {row["rollup"]: row["days"] for row in found}


def report_call(
    definition: ReportDefinition,
    breakdown: str | None,
    *,
    days: DayRange,
    window: Window,
    limit: int,
    offset: int,
    filters: list[str | None],
    max_fresh_days: int | None = None,
) -> ReportCall:
    """The statement that runs a report.

    With `max_fresh_days`, the rows are those of this very moment: the events of stale days are counted. Where there
    are more such days than that, `fresh_days` says so, and the rows are not fresh.
    """
    fresh = max_fresh_days is not None
    batched = definition.batched and not fresh
    asked: list[object] = [days.start, days.end, window.value, limit, offset, *filters]
    # A fresh answer counts events in place of days, and knows of no such months.
    months = DayRange(days.end, days.end) if fresh or not definition.reads_months else days.whole_months()
    if definition.reads_months:
        asked += [months.start, months.end]
    return ReportCall(
        run_statement(definition.slug, breakdown, fresh=fresh),
        batch_statement(definition.slug, breakdown) if batched else None,
        asked,
        [definition.rollup, max_fresh_days if fresh else _MAX_LOG_BYTES, definition.slug],
        max(1 / _MOST_TOGETHER, days.day_count / _MOST_DAYS_TOGETHER) if batched else 1.0,
        is_long=months.day_count > 0 and not batched,
    )


async def run_reports(connection: Connection, calls: Sequence[ReportCall]) -> list[ReportRows]:
    """Run reports of one statement, in one statement, so in one snapshot: no answer mixes two states."""
    first, started = calls[0], time.perf_counter()
    if first.is_long:
        async with transaction(connection, prepare=[first.statement]):
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            rows = await connection.fetch(first.statement, *first.arguments)
    elif len(calls) == 1:
        rows = await connection.fetch(first.statement, *first.arguments)
    else:
        assert first.batch_statement is not None  # noqa: S101 - else they would not have been put together
        columns = map(list, zip(*(call.asked for call in calls), strict=True))
        rows = await connection.fetch(first.batch_statement, *columns, *first.common)
    took_s = time.perf_counter() - started
    return [ReportRows(took_s, *row) for row in rows]


async def install_report(connection: Connection, definition: ReportDefinition) -> None:
    """Enter `definition` and its windows into the catalogue, where they are missing."""
    await connection.execute(
        _INSTALL_REPORT,
        definition.slug,
        definition.name,
        definition.description,
        definition.cache_ttl_seconds,
        definition.default_window.value,
        msgspec.json.encode(definition.supported_filters).decode(),
        definition.rollup,
    )
    for window in definition.windows:
        await connection.execute(
            _INSTALL_WINDOW,
            definition.slug,
            window.name.value,
            window.retention_days,
            window.refresh_interval_minutes,
            window.name is definition.default_window,
        )
