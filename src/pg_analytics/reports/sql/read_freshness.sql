-- How far a rollup's numbers reach, when it was last rebuilt, and how many days have events that no rebuild has seen.
-- Parameters: $1 rollup.
-- Index: primary key of snapshot_buckets; the change log is short.
SELECT
    (SELECT max(b.day) FROM snapshot_buckets AS b WHERE b.rollup = $1 AND b.event_count > 0) AS data_through,
    (SELECT max(b.computed_at) FROM snapshot_buckets AS b WHERE b.rollup = $1) AS computed_at,
    (SELECT count(DISTINCT c.occurred_day) FROM event_changes AS c) AS stale_days
