"""A witness inside the database: what was committed about each run, by which process, told by triggers of the test's.

The service does not know of it. It lets a test say, after any story, that a run went only through the states that it
may go through, that nobody but the holder of an attempt moved its progress, that numbers and progress were committed
together, and that the audit trail tells exactly what happened.

Each process is known by a setting of its sessions, which its `DATABASE_URL` carries.
"""

from typing import Final

from pg_analytics.postgres.pool import Connection

_WITNESS: Final = """
    CREATE SCHEMA story;

    CREATE TABLE story.run_changes (
        id bigserial PRIMARY KEY,
        run_id uuid NOT NULL,
        tx bigint NOT NULL DEFAULT txid_current(),
        process text NOT NULL DEFAULT current_setting('story.process', true),
        was text NOT NULL,
        became text NOT NULL,
        old_attempt integer NOT NULL,
        new_attempt integer NOT NULL,
        old_remaining date NOT NULL,
        new_remaining date NOT NULL,
        lease_was_over boolean NOT NULL
    );

    CREATE TABLE story.built_days (
        run_id uuid NOT NULL,
        tx bigint NOT NULL DEFAULT txid_current(),
        day date NOT NULL
    );

    CREATE FUNCTION story.see_run() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO story.run_changes
        (run_id, was, became, old_attempt, new_attempt, old_remaining, new_remaining, lease_was_over)
        VALUES (
            NEW.id, OLD.status, NEW.status, OLD.attempt, NEW.attempt, OLD.remaining_until, NEW.remaining_until,
            coalesce(OLD.lease_expires_at <= clock_timestamp(), false)
        );
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER see_run AFTER UPDATE ON recompute_runs FOR EACH ROW EXECUTE FUNCTION story.see_run();

    CREATE FUNCTION story.see_day() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO story.built_days (run_id, day) VALUES (NEW.run_id, NEW.day);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER see_day AFTER INSERT OR UPDATE ON snapshot_buckets
    FOR EACH ROW WHEN (NEW.run_id IS NOT NULL) EXECUTE FUNCTION story.see_day();
"""

FORGET: Final = "TRUNCATE story.run_changes, story.built_days"

#: The changes that the picture in `pg_analytics.recompute` allows; a claim is told by the attempt that it counts up.
_ALLOWED: Final = """
    CASE WHEN new_attempt = old_attempt + 1 THEN
        became = 'running' AND (was = 'pending' OR was = 'running' AND lease_was_over)
    ELSE
        new_attempt = old_attempt AND (
            was = 'running' AND became IN ('running', 'pending', 'completed', 'failed', 'cancelled')
            OR was = 'pending' AND became = 'cancelled'
        )
    END
"""

#: What must never be found, by what it would mean.
_NEVER: Final = {
    "a run took a way that no run may take": f"SELECT * FROM story.run_changes WHERE NOT ({_ALLOWED})",
    "the progress of a run went back": "SELECT * FROM story.run_changes WHERE new_remaining > old_remaining",
    "a process wrote for an attempt that was not its own": """
        SELECT c.* FROM story.run_changes AS c
        JOIN story.run_changes AS claim
            ON claim.run_id = c.run_id AND claim.new_attempt = c.new_attempt AND claim.new_attempt > claim.old_attempt
        WHERE c.became <> 'cancelled' AND c.process <> claim.process
    """,
    "numbers of a run were committed without its progress": """
        SELECT b.* FROM story.built_days AS b
        WHERE NOT EXISTS (
            SELECT FROM story.run_changes AS c
            WHERE c.run_id = b.run_id AND c.tx = b.tx AND c.new_remaining < c.old_remaining
                AND b.day >= c.new_remaining AND b.day < c.old_remaining
        )
    """,
    "the progress of a run was committed without its numbers": """
        SELECT c.* FROM story.run_changes AS c JOIN recompute_runs AS r ON r.id = c.run_id
        WHERE r.mode = 'rebuild' AND c.new_remaining < c.old_remaining AND c.old_remaining - c.new_remaining <> (
            SELECT count(DISTINCT b.day) FROM story.built_days AS b WHERE b.run_id = c.run_id AND b.tx = c.tx
        )
    """,
    "a completed run has days left, or a mode that writes what it must not": """
        SELECT r.* FROM recompute_runs AS r
        WHERE r.status = 'completed' AND (
            r.remaining_until <> r.covers_from
            OR r.mode = 'verify' AND EXISTS (SELECT FROM story.built_days AS b WHERE b.run_id = r.id)
        )
    """,
    "a verification found drift": "SELECT * FROM recompute_runs WHERE drift <> '[]'",
    "a run failed though its attempts were not used up": """
        SELECT * FROM recompute_runs
        WHERE status = 'failed' AND (failures < 5 OR error_message NOT LIKE 'gave up after %')
    """,
    "the trail of a run does not tell what happened": """
        SELECT r.id, r.status, r.attempt, told.trail, seen.trail AS right_trail
        FROM recompute_runs AS r
        CROSS JOIN LATERAL (
            SELECT array_agg(a.action ORDER BY a.id) AS trail FROM audit_entries AS a
            WHERE a.resource_id = r.id::text AND a.action <> 'recompute.rejected'
        ) AS told
        CROSS JOIN LATERAL (
            SELECT array_prepend('recompute.triggered', array_agg(s.action ORDER BY s.id)) AS trail
            FROM (
                SELECT c.id, 'recompute.rescued' AS action FROM story.run_changes AS c
                WHERE c.run_id = r.id AND c.was = 'running' AND c.new_attempt > c.old_attempt
                UNION ALL
                SELECT c.id, 'recompute.' || c.became FROM story.run_changes AS c
                WHERE c.run_id = r.id AND c.became IN ('completed', 'failed', 'cancelled')
            ) AS s
        ) AS seen
        WHERE told.trail IS DISTINCT FROM seen.trail
    """,
    "an entry was committed apart from what it records": """
        SELECT a.* FROM audit_entries AS a JOIN recompute_runs AS r ON r.id::text = a.resource_id
        WHERE a.action IN ('recompute.rescued', 'recompute.completed', 'recompute.failed', 'recompute.cancelled')
            AND NOT EXISTS (
                SELECT FROM story.run_changes AS c
                WHERE c.run_id = r.id AND c.tx % (2::bigint ^ 32)::bigint = a.xmin::text::bigint
            )
    """,
}

#: In one statement, hence in one snapshot, taken at any moment: the promise that everything else rests on.
_DIFFERENT_AND_NOT_LOGGED: Final = """
    WITH source_status AS (
        SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, source_id, status, count(*)
        FROM analytics_events GROUP BY 1, 2, 3
    ),
    entity AS (
        SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, entity_id, count(*) FROM analytics_events GROUP BY 1, 2
    ),
    differing AS (
        SELECT day FROM (TABLE source_status EXCEPT ALL TABLE rollup_source_status) AS missing
        UNION SELECT day FROM (TABLE rollup_source_status EXCEPT ALL TABLE source_status) AS surplus
        UNION SELECT day FROM (TABLE entity EXCEPT ALL TABLE rollup_entity) AS missing
        UNION SELECT day FROM (TABLE rollup_entity EXCEPT ALL TABLE entity) AS surplus
    )
    SELECT day FROM differing EXCEPT SELECT occurred_day FROM event_changes
"""


async def call_witness(connection: Connection) -> None:
    """Let the database take note from now on."""
    await connection.execute(_WITNESS)


async def assert_differences_are_logged(connection: Connection) -> None:
    """A day whose snapshots do not equal its events waits for its rebuild: at any moment, whoever is in the middle of
    something.
    """
    lost = await connection.fetch(_DIFFERENT_AND_NOT_LOGGED)
    assert not lost, f"lost: days that differ from their events, and that no rebuild is due for: {lost}"


async def assert_runs_took_allowed_ways(connection: Connection) -> None:
    """Every run did only what it may, and its trail tells it. To be asked when no run is active."""
    for meaning, question in _NEVER.items():
        found = await connection.fetch(question)
        assert not found, f"{meaning}: {found[:3]}"
