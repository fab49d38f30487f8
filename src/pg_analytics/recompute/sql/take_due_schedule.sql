-- A schedule whose run is due, the longest overdue first, held until the transaction ends: two schedulers never get
-- the same one.
-- Parameters: none.
-- Index: none; there are a handful of windows.
SELECT
    report_slug,
    window_name
FROM aggregate_windows
WHERE NOT paused AND next_run_at <= clock_timestamp()
ORDER BY next_run_at, id
LIMIT 1
FOR UPDATE SKIP LOCKED
