"""What the snapshots must be: the aggregation over the events, in SQL that shares nothing with the service's."""

from pg_analytics.postgres.pool import Connection

_EVENTS = {
    "rollup_source_status": """
        SELECT (occurred_at AT TIME ZONE 'UTC')::date, source_id, status, count(*)
        FROM analytics_events GROUP BY 1, 2, 3
    """,
    "rollup_entity": """
        SELECT (occurred_at AT TIME ZONE 'UTC')::date, entity_id, count(*)
        FROM analytics_events GROUP BY 1, 2
    """,
}


async def assert_snapshots_equal_events(connection: Connection) -> None:
    """Every rollup equals its events, both ways, row for row."""
    for table, events in _EVENTS.items():
        surplus = await connection.fetch(f"SELECT * FROM {table} EXCEPT ALL ({events})")
        missing = await connection.fetch(f"({events}) EXCEPT ALL SELECT * FROM {table}")
        assert not surplus, f"{table} has rows that the events do not give: {surplus[:5]}"
        assert not missing, f"{table} lacks rows that the events give: {missing[:5]}"


async def assert_nothing_stuck(connection: Connection) -> None:
    """No run is active, no advisory lock is held, and every run's trail is whole."""
    assert not await connection.fetch("SELECT id FROM recompute_runs WHERE status IN ('pending', 'running')")
    held = """
        SELECT l.objid FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    """
    assert not await connection.fetch(held)
    untold = """
        SELECT r.id, r.status FROM recompute_runs AS r
        WHERE NOT EXISTS (
            SELECT FROM audit_entries AS a
            WHERE a.resource_id = r.id::text AND a.action = 'recompute.' || r.status
        )
    """
    assert not await connection.fetch(untold)
