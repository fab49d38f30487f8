-- Marks days whose events have changed after they were frozen: their snapshots stay as they are, and are known to be
-- out of date. Returns the days that were not marked before.
-- Parameters: $1 days.
-- Index: primary key of snapshot_buckets. A day that had no events when it was frozen gets its bucket here.
WITH marked AS (
    INSERT INTO snapshot_buckets (rollup, day, computed_at, event_count, stale_since)
    SELECT
        r.rollup,
        d.day,
        now(),
        0,
        now()
    FROM unnest($1::date[]) AS d (day)
    CROSS JOIN (VALUES ('source_status'), ('entity')) AS r (rollup)
    ON CONFLICT (rollup, day) DO UPDATE
        SET stale_since = excluded.stale_since
        WHERE snapshot_buckets.stale_since IS NULL
    RETURNING day
)

SELECT DISTINCT day FROM marked ORDER BY day
