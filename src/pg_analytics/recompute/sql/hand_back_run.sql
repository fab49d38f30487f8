-- Puts a run back into the backlog, to go on from its last chunk: at once (shutdown) or after a while (a fault that may
-- pass, whose reason is kept).
-- Parameters: $1 run id, $2 attempt, $3 how long to wait, $4 reason or NULL.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET
    status = 'pending',
    lease_expires_at = NULL,
    waiting_for = NULL,
    run_after = clock_timestamp() + $3::interval,
    failures = failures + CASE WHEN $4::text IS NULL THEN 0 ELSE 1 END,
    error_message = coalesce($4, error_message)
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING id
