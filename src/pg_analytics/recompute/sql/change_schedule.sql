-- Changes a schedule's settings. A new interval begins now, and so does one that is resumed after its run was due;
-- otherwise the next run stays when it was.
-- Parameters: $1 report slug, $2 window, $3 refresh interval in minutes, $4 retention in days, $5 paused?
-- Index: unique index of aggregate_windows.
UPDATE aggregate_windows
SET
    refresh_interval_minutes = $3,
    retention_days = $4,
    paused = $5,
    next_run_at = CASE
        WHEN refresh_interval_minutes <> $3 OR (paused AND NOT $5 AND next_run_at <= statement_timestamp())
            THEN statement_timestamp() + $3::integer * INTERVAL '1 minute'
        ELSE next_run_at
    END,
    updated_at = statement_timestamp()
WHERE report_slug = $1 AND window_name = $2
