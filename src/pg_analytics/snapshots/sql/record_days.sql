-- Records when, and by which run, each day of each rollup was rebuilt, and how many events it held. The time is
-- that of the transaction's start: every event that was committed before it is in the numbers.
-- Parameters: $1 first day, $2 day after the last, $3 run id or NULL.
-- Index: primary key of snapshot_buckets. Returns the events that were read.
WITH days AS (
    SELECT
        d.day::date AS day,
        coalesce(sum(f.event_count), 0)::bigint AS event_count
    FROM generate_series($1::date::timestamp, $2::date::timestamp - INTERVAL '1 day', INTERVAL '1 day') AS d (day)
    LEFT JOIN fresh_source_status AS f ON d.day::date = f.day
    GROUP BY d.day
),

recorded AS (
    INSERT INTO snapshot_buckets (rollup, day, computed_at, run_id, event_count)
    SELECT r.rollup, d.day, now(), $3::uuid, d.event_count
    FROM days AS d
    CROSS JOIN (VALUES ('source_status'), ('entity')) AS r (rollup)
    ORDER BY r.rollup, d.day
    ON CONFLICT (rollup, day) DO UPDATE
        SET computed_at = excluded.computed_at, run_id = excluded.run_id, event_count = excluded.event_count
)

SELECT coalesce(sum(event_count), 0)::bigint FROM days
