-- Enters days that a rollup keeps again into the change log, so that they are built from their events; also days
-- without events of which the rollup still has a bucket, perhaps with rows that are not true any more.
-- Parameters: $1 rollup, $2 first day, $3 the day after the last; the caller has stopped the horizons.
-- Index: analytics_events_occurred_day_idx, from one day to the next that has events, however many; and the primary key
-- of snapshot_buckets.
WITH RECURSIVE days AS (
    SELECT min(occurred_day) AS day
    FROM analytics_events
    WHERE occurred_day >= $2 AND occurred_day < $3
    UNION ALL
    SELECT (SELECT min(e.occurred_day) FROM analytics_events AS e WHERE e.occurred_day > d.day AND e.occurred_day < $3)
    FROM days AS d
    WHERE d.day IS NOT NULL
)

INSERT INTO event_changes (external_ref, occurred_day)
SELECT
    '' AS external_ref,
    day
FROM days
WHERE day IS NOT NULL
UNION
SELECT
    '' AS external_ref,
    day
FROM snapshot_buckets
WHERE rollup = $1 AND day >= $2 AND day < $3
