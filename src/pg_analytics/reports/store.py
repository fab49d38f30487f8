"""The statements of the catalogue and of the reports, one function each."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import msgspec

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import ReportDefinition
from pg_analytics.windows import DayRange, Window

_LIST_REPORTS: Final = statement(__package__, "list_reports")
_COUNT_REPORTS: Final = statement(__package__, "count_reports")
_READ_CATALOG: Final = statement(__package__, "read_catalog")
_READ_FRESHNESS: Final = statement(__package__, "read_freshness")
_INSTALL_REPORT: Final = statement(__package__, "install_report")
_INSTALL_WINDOW: Final = statement(__package__, "install_window")


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


@dataclass(frozen=True, slots=True)
class ReportRows:
    """What a report's statement returned: the page as JSON text, its size, the size of all pages, and the oldest
    rebuild among the days that were read (None: none was ever built).
    """

    rows: str
    row_count: int
    total: int
    computed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How current a rollup is: the newest day with events in it, its last rebuild, and how many days (of all) have
    events that no rebuild has seen.
    """

    data_through: date | None
    computed_at: datetime | None
    stale_days: int


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


async def run_report(
    connection: Connection,
    sql: str,
    *,
    days: DayRange,
    window: Window,
    limit: int,
    offset: int,
    filters: list[str | None],
) -> ReportRows:
    """Run a report's statement. One statement, so one snapshot: no answer mixes two states."""
    row = (await connection.fetch(sql, days.start, days.end, window.value, limit, offset, *filters))[0]
    return ReportRows(row["rows"], row["row_count"], row["total"], row["computed_at"])


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
