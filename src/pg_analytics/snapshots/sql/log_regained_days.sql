-- Enters days that a rollup keeps again into the change log, so that they are built from their events; also days
-- without events of which the rollup still has a bucket, perhaps with rows that are not true any more.
-- Parameters: $1 rollup, $2 first day, $3 the day after the last; the caller has locked the days.
-- Index: analytics_events_occurred_day_idx and the primary key of snapshot_buckets, once per day.
INSERT INTO event_changes (external_ref, occurred_day)
SELECT
    '' AS external_ref,
    days.day
FROM (
    SELECT $2::date + n AS day
    FROM generate_series(0, $3::date - $2::date - 1) AS n
) AS days
WHERE
    EXISTS (SELECT FROM analytics_events AS e WHERE e.occurred_day = days.day)
    OR EXISTS (SELECT FROM snapshot_buckets AS b WHERE b.rollup = $1 AND b.day = days.day)
