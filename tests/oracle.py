"""What the snapshots must be: the aggregation over the events, in SQL that shares nothing with the service's."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pg_analytics.postgres.pool import Connection
from tests.waiting import until_true

#: What a day's events add up to, by rollup; the first column is the day, the last one the count.
_EVENTS = {
    "source_status": """
        SELECT (occurred_at AT TIME ZONE 'UTC')::date, source_id, status, count(*)
        FROM analytics_events GROUP BY 1, 2, 3
    """,
    "entity": """
        SELECT (occurred_at AT TIME ZONE 'UTC')::date, entity_id, count(*)
        FROM analytics_events GROUP BY 1, 2
    """,
}

#: What the margins must be, made of the rows that the events above give.
_MARGINS = """
    SELECT 'all', '', day, sum(event_count)::bigint FROM rollup_source_status GROUP BY day
    UNION ALL
    SELECT 'source', source_id::text, day, sum(event_count)::bigint FROM rollup_source_status GROUP BY source_id, day
    UNION ALL
    SELECT 'status', status, day, sum(event_count)::bigint FROM rollup_source_status GROUP BY status, day
"""

#: What the months must be.
_MONTHS = """
    SELECT date_trunc('month', day::timestamp)::date, entity_id, sum(event_count)::bigint
    FROM rollup_entity GROUP BY 1, 2
"""

#: Rows of the rollups, by rollup.
Numbers = Mapping[str, Sequence[tuple[Any, ...]]]


async def snapshot_numbers(connection: Connection, *, before: date) -> Numbers:
    """What the rollups hold of the days before a day: to be kept when the events of these days are pruned."""
    return {
        rollup: [tuple(row) for row in await connection.fetch(f"SELECT * FROM rollup_{rollup} WHERE day < $1", before)]
        for rollup in _EVENTS
    }


async def assert_snapshots_equal_events(connection: Connection, *, frozen: Numbers | None = None) -> None:
    """Every rollup equals its events, both ways, row for row, and so does what is made of its rows and what is recorded
    of each of its days.

    Days before a rollup's own horizon must have no rows in it. Days whose events were pruned are compared with
    `frozen` (of `snapshot_numbers`) if it is given, and left out if not.
    """
    horizons = {row["subject"]: row["kept_from"] for row in await connection.fetch("SELECT * FROM horizons")}
    frozen_until = horizons["events"]
    for rollup, events in _EVENTS.items():
        kept_from = horizons[rollup]
        dropped = await connection.fetch(f"SELECT * FROM rollup_{rollup} WHERE day < $1", kept_from)
        assert not dropped, f"rollup_{rollup} has rows of days before {kept_from}: {dropped[:5]}"
        if frozen is not None:
            expected = {row for row in frozen[rollup] if kept_from <= row[0] < frozen_until}
            found = set((await snapshot_numbers(connection, before=frozen_until))[rollup])
            assert found == expected, f"frozen days of rollup_{rollup} have changed: {list(found ^ expected)[:5]}"
        await _assert_rows(connection, rollup, events, max(frozen_until, kept_from))
        await _assert_buckets(connection, rollup, kept_from)
    await _assert_same(connection, "rollup_source_status_margin", "SELECT * FROM rollup_source_status_margin", _MARGINS)
    await _assert_same(connection, "rollup_entity_month", "SELECT * FROM rollup_entity_month", _MONTHS)
    marked = "SELECT rollup, day FROM snapshot_buckets WHERE stale_since IS NOT NULL AND day >= $1"
    assert not await connection.fetch(marked, frozen_until), "days that are not frozen are out of date for good"


async def _assert_rows(connection: Connection, rollup: str, events: str, compared_from: date) -> None:
    rows = f"SELECT * FROM rollup_{rollup} WHERE day >= $1"
    events = f"SELECT * FROM ({events}) AS e (day) WHERE day >= $1"
    await _assert_same(connection, f"rollup_{rollup}", rows, events, compared_from)


async def _assert_same(connection: Connection, table: str, rows: str, events: str, *arguments: Any) -> None:
    surplus = await connection.fetch(f"({rows}) EXCEPT ALL ({events})", *arguments)
    missing = await connection.fetch(f"({events}) EXCEPT ALL ({rows})", *arguments)
    assert not surplus, f"{table} has rows that the events do not give: {surplus[:5]}"
    assert not missing, f"{table} lacks rows that the events give: {missing[:5]}"


async def _assert_buckets(connection: Connection, rollup: str, kept_from: date) -> None:
    """Each day with rows is recorded as built, and each recorded day with as many events as its rows count."""
    unrecorded = await connection.fetch(
        f"SELECT day FROM rollup_{rollup} EXCEPT SELECT day FROM snapshot_buckets WHERE rollup = $1", rollup
    )
    assert not unrecorded, f"days of rollup_{rollup} are not in snapshot_buckets: {unrecorded[:5]}"
    miscounted = await connection.fetch(
        f"""
        SELECT b.day, b.event_count, coalesce(sum(r.event_count), 0) AS counted
        FROM snapshot_buckets AS b LEFT JOIN rollup_{rollup} AS r USING (day)
        WHERE b.rollup = $1 AND b.day >= $2
        GROUP BY b.day, b.event_count
        HAVING b.event_count <> coalesce(sum(r.event_count), 0)
        """,
        rollup,
        kept_from,
    )
    assert not miscounted, f"snapshot_buckets counts other events than rollup_{rollup}: {miscounted[:5]}"


async def assert_nothing_stuck(connection: Connection) -> None:
    """No run is active or waits for something, no advisory lock is held, no session of the service has left a
    transaction open, and every run's trail is whole.
    """
    assert not await connection.fetch("SELECT id FROM recompute_runs WHERE status IN ('pending', 'running')")
    waiting = "SELECT id, status, waiting_for FROM recompute_runs WHERE waiting_for IS NOT NULL"
    assert not await connection.fetch(waiting)
    held = """
        SELECT l.objid FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    """
    assert not await connection.fetch(held)
    await _assert_no_transaction_is_left_open(connection)
    untold = """
        SELECT r.id, r.status FROM recompute_runs AS r
        WHERE NOT EXISTS (
            SELECT FROM audit_entries AS a
            WHERE a.resource_id = r.id::text AND a.action = 'recompute.' || r.status
        )
    """
    assert not await connection.fetch(untold)


async def _assert_no_transaction_is_left_open(connection: Connection) -> None:
    """A service that is alive is between two statements at times; one that has left a transaction stays there. What
    is idle now must have gone on well before the server itself would end it (after ten seconds).
    """
    idle = """
        SELECT pid, state_change FROM pg_stat_activity
        WHERE
            datname = current_database() AND application_name LIKE 'pg-analytics %'
            AND state LIKE 'idle in transaction%'
    """
    for session in await connection.fetch(idle):
        left = f"SELECT NOT EXISTS(SELECT FROM ({idle}) AS i WHERE pid = $1 AND state_change = $2)"
        await until_true(connection, left, session["pid"], session["state_change"], within_s=5)
