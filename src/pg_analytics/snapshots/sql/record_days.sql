-- Records when, and by which run, each day of a rollup was rebuilt, and how many events it held. The time is that of
-- the transaction's start: every event that was committed before it is in the numbers.
-- Parameters: $1 rollup, $2 days, $3 run id or NULL.
-- Index: primary keys of the rollups and of snapshot_buckets.
-- Returns the events that were read.
WITH days AS (
    SELECT
        d.day,
        coalesce(
            (SELECT sum(r.event_count) FROM rollup_source_status AS r WHERE r.day = d.day),
            -- Many more rows, and only needed where retention has dropped the others.
            (SELECT sum(r.event_count) FROM rollup_entity AS r WHERE r.day = d.day),
            0
        )::bigint AS event_count
    FROM unnest($2::date[]) AS d (day)
),

recorded AS (
    INSERT INTO snapshot_buckets (rollup, day, computed_at, run_id, event_count)
    SELECT
        $1,
        day,
        now(),
        $3::uuid,
        event_count
    FROM days
    ORDER BY day
    ON CONFLICT (rollup, day) DO UPDATE
        SET
            computed_at = excluded.computed_at,
            run_id = excluded.run_id,
            event_count = excluded.event_count,
            stale_since = NULL
)

SELECT coalesce(sum(event_count), 0)::bigint FROM days
