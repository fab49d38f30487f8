-- The active run of exactly this scope, if there is one.
-- Parameters: $1 report slug, $2 window, $3 and $4 the dates asked for, $5 mode.
-- Index: recompute_runs_active_scope.
SELECT id
FROM recompute_runs
WHERE
    report_slug = $1 AND window_name = $2 AND date_from = $3 AND date_to = $4 AND mode = $5
    AND status IN ('pending', 'running')
