-- Marks days whose events have changed after they were frozen: their snapshots stay as they are, and are known to be
-- out of date. Returns the days that were not marked before.
-- Parameters: $1 days.
-- Index: primary key of snapshot_buckets. A day that had no events when it was frozen gets its bucket here, except in
-- a rollup that has dropped the day.
WITH marked AS (
    INSERT INTO snapshot_buckets (rollup, day, computed_at, event_count, stale_since)
    SELECT
        h.subject,
        d.day,
        now(),
        0,
        now()
    FROM unnest($1::date[]) AS d (day)
    INNER JOIN horizons AS h ON d.day >= h.kept_from AND h.subject <> 'events'
    ON CONFLICT (rollup, day) DO UPDATE
        SET stale_since = excluded.stale_since
        WHERE snapshot_buckets.stale_since IS NULL
    RETURNING day
)

SELECT DISTINCT day FROM marked ORDER BY day
