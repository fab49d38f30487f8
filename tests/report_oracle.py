"""What every report must answer: PostgreSQL counts the events themselves, Python sorts and pages.

Shares nothing with the service: no rollup, no statement, no calendar arithmetic of it.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from pg_analytics.postgres.pool import Connection

#: Every report with each of its breakdowns and its filter.
REPORTS: Final = {
    "volume-by-period": (("period", "source"), "source"),
    "status-counts": (("status", "period"), "status"),
    "top-entities": ((None,), None),
}

_EVENTS: Final = """
    SELECT to_char(date_trunc($1, e.occurred_at AT TIME ZONE 'UTC'), 'YYYY-MM-DD') AS bucket_date,
        s.slug AS source, e.status, e.entity_id
    FROM {events} AS e JOIN event_sources AS s ON s.id = e.source_id
    WHERE date_trunc($1, e.occurred_at AT TIME ZONE 'UTC')
        BETWEEN date_trunc($1, $2::date::timestamp) AND date_trunc($1, $3::date::timestamp)
        AND e.occurred_at AT TIME ZONE 'UTC' >= $4::date::timestamp
"""
_DIMENSIONS: Final = {
    ("volume-by-period", "period"): ("bucket_date",),
    ("volume-by-period", "source"): ("bucket_date", "source"),
    ("status-counts", "status"): ("status",),
    ("status-counts", "period"): ("bucket_date", "status"),
    ("top-entities", None): ("entity_id",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a report; `only` is the value of its filter."""

    slug: str
    window: str
    date_from: date
    date_to: date
    breakdown: str | None
    only: str | None = None
    limit: int = 1000
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """The rows of the page, and how many rows all pages have."""

    rows: list[dict[str, Any]]
    total: int


async def expected(
    connection: Connection, asked: Asked, *, events: str = "analytics_events", since: date = date(1, 1, 8)
) -> Expected:
    """What the service must answer, once every day of the range is rebuilt, or to whom asks for a fresh answer.

    `events` is a table or view to count, `since` the first day that is to be counted.
    """
    dimensions = _DIMENSIONS[asked.slug, asked.breakdown]
    columns = ", ".join(dimensions)
    narrowed = f"WHERE {REPORTS[asked.slug][1]} = $5" if asked.only is not None else ""
    found = _EVENTS.format(events=events)
    counted = f"SELECT {columns}, count(*) AS event_count FROM ({found}) AS e {narrowed} GROUP BY {columns}"
    arguments = [asked.window, asked.date_from, asked.date_to, since, *([] if asked.only is None else [asked.only])]
    rows = [dict(row) for row in await connection.fetch(counted, *arguments)]
    by_count = "bucket_date" not in dimensions
    rows.sort(key=lambda row: (-row["event_count"] if by_count else 0, *(row[name] for name in dimensions)))
    return Expected(rows[asked.offset :][: asked.limit], len(rows))
