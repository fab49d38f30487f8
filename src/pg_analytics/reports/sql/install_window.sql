-- Enters a window of a report that comes with the service, with its first scheduled run an interval from now; one that
-- is there already stays.
-- Parameters: $1 report slug, $2 window, $3 retention in days, $4 refresh interval in minutes, $5 is it the default?
INSERT INTO aggregate_windows
(report_slug, window_name, retention_days, refresh_interval_minutes, is_default, next_run_at)
VALUES ($1, $2, $3, $4, $5, now() + $4::integer * INTERVAL '1 minute')
ON CONFLICT (report_slug, window_name) DO NOTHING
