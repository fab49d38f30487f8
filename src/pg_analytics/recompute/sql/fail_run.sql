-- Ends a run that cannot be completed.
-- Parameters: $1 run id, $2 attempt, $3 reason.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET status = 'failed', finished_at = clock_timestamp(), error_message = $3, lease_expires_at = NULL, waiting_for = NULL
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING id
