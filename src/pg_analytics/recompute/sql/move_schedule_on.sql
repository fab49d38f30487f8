-- Moves a schedule on to its next period that lies in the future. Periods that were missed are not made up for: a run
-- covers what they would have.
-- Parameters: $1 report slug, $2 window.
-- Index: unique index of aggregate_windows.
UPDATE aggregate_windows
SET
    next_run_at = next_run_at + (
        floor(extract(EPOCH FROM clock_timestamp() - next_run_at) / (60.0 * refresh_interval_minutes)) + 1
    )::bigint * refresh_interval_minutes * INTERVAL '1 minute'
WHERE report_slug = $1 AND window_name = $2
