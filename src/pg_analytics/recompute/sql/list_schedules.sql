-- The schedules, each with the last run that it asked for.
-- Parameters: $1 report slug and $2 window of the only one to show, or NULL.
-- Index: recompute_runs_scheduled, once per schedule; of windows there are a handful.
SELECT
    w.report_slug,
    w.window_name,
    w.refresh_interval_minutes,
    w.retention_days,
    w.paused,
    w.next_run_at,
    w.updated_at,
    r.id AS run_id,
    r.status AS run_status,
    r.requested_at AS run_requested_at
FROM aggregate_windows AS w
LEFT JOIN LATERAL (
    SELECT
        r.id,
        r.status,
        r.requested_at
    FROM recompute_runs AS r
    WHERE r.scheduled AND r.report_slug = w.report_slug AND r.window_name = w.window_name
    ORDER BY r.requested_at DESC
    LIMIT 1
) AS r ON TRUE
WHERE ($1::text IS NULL OR w.report_slug = $1) AND ($2::text IS NULL OR w.window_name = $2)
ORDER BY w.report_slug, w.window_name
