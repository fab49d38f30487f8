"""Recomputation as a client sees it."""

from datetime import date

import asyncpg
import pytest
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.running import Service

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

Connection = asyncpg.Connection  # generic in its stubs only


async def insert(connection: "asyncpg.Connection[asyncpg.Record]", day: date, count: int, *, prefix: str = "e") -> None:
    """`count` events of one day, by plain SQL as another program would."""
    await connection.execute(
        """
        INSERT INTO event_sources (slug, provider_name, description) VALUES ('shop', 'Shop', '') ON CONFLICT DO NOTHING
        """
    )
    await connection.execute(
        """
        INSERT INTO analytics_events (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
        SELECT $1 || '-' || $2::date || '-' || n, (SELECT id FROM event_sources WHERE slug = 'shop'), 'entity-' || n % 7,
            (ARRAY['success', 'failed', 'pending'])[1 + n % 3], 1, 1,
            $2::date + n % 24 * INTERVAL '1 hour'
        FROM generate_series(1, $3) AS n
        """,
        prefix,
        day,
        count,
    )


async def test_events_appear_in_a_report_once_their_days_are_recomputed(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    day = date(2026, 3, 4)
    await insert(connection, day, 100)
    asked = {"date_from": day, "date_to": day}
    assert service.report("volume-by-period", **asked)["data"]["rows"] == []

    run = service.recompute("volume-by-period", "day", day, day)

    assert run["summary"]["rows_inserted"] > 0
    rows = service.report("volume-by-period", **asked)["data"]["rows"]
    assert rows == [{"bucket_date": "2026-03-04", "event_count": 100}]
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)
