-- A schedule's settings, which nobody else changes until the transaction ends.
-- Parameters: $1 report slug, $2 window.
-- Index: unique index of aggregate_windows.
SELECT
    refresh_interval_minutes,
    retention_days,
    paused
FROM aggregate_windows
WHERE report_slug = $1 AND window_name = $2
FOR UPDATE
