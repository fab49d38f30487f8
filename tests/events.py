"""Events, written as other programs write them: by plain SQL, past the service."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from pg_analytics.postgres.pool import Connection

SOURCE: Final = "shop"

_FILL: Final = """
    INSERT INTO analytics_events
    (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
    SELECT
        $1 || '-' || day::date || '-' || n,
        (SELECT id FROM event_sources WHERE slug = 'shop'),
        'entity-' || n % 7,
        (ARRAY['success', 'failed', 'pending'])[1 + n % 3],
        1,
        1,
        day::date::timestamp AT TIME ZONE 'UTC' + n % 24 * INTERVAL '1 hour'
    FROM generate_series($2::date::timestamp, $3::date::timestamp, INTERVAL '1 day') AS day, generate_series(1, $4) AS n
"""
_WRITE: Final = """
    INSERT INTO analytics_events
    (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
    SELECT e.external_ref, s.id, e.entity_id, e.status, 1, 1, e.occurred_at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        AS e (external_ref, source, entity_id, status, occurred_at)
    JOIN event_sources AS s ON s.slug = e.source
"""


@dataclass(frozen=True, slots=True)
class Event:
    """What of an event counts; `occurred_at` is aware."""

    external_ref: str
    source: str
    entity_id: str
    status: str
    occurred_at: datetime


async def add_source(connection: Connection, slug: str = SOURCE) -> None:
    """A source, unless it is there."""
    await connection.execute(
        "INSERT INTO event_sources (slug, provider_name, description) VALUES ($1, $1, '') ON CONFLICT DO NOTHING", slug
    )


async def insert(
    connection: Connection, day: date, count: int, *, last_day: date | None = None, prefix: str = "e"
) -> None:
    """`count` events of `day`, or of each day up to `last_day`: seven entities, three statuses, every hour."""
    await add_source(connection)
    await connection.execute(_FILL, prefix, day, last_day or day, count)


async def write(connection: Connection, events: list[Event]) -> None:
    """These very events, whose sources are there, in one statement."""
    columns = [[getattr(event, name) for event in events] for name in Event.__slots__]
    await connection.execute(_WRITE, *columns)
