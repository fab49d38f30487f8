-- The days whose events have changed since their snapshots were built, newest first, and since when.
-- Parameters: none.
-- Index: none; the log is short.
SELECT
    occurred_day AS day,
    min(logged_at) AS since,
    greatest(extract(EPOCH FROM clock_timestamp() - min(logged_at)), 0)::double precision AS age_s
FROM event_changes
GROUP BY occurred_day
ORDER BY occurred_day DESC
