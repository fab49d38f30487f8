-- Ends a run whose last chunk is committed.
-- Parameters: $1 run id, $2 attempt, $3 summary as JSON.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET
    status = 'completed',
    finished_at = clock_timestamp(),
    error_message = NULL,
    summary = $3::jsonb,
    lease_expires_at = NULL,
    waiting_for = NULL
WHERE id = $1 AND attempt = $2 AND status = 'running' AND remaining_until = covers_from
RETURNING id
