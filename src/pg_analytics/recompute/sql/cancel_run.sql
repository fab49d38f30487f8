-- Cancels a run that has not ended. A worker that holds it is fenced: its next write finds no row.
-- Parameters: $1 run id.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET status = 'cancelled', finished_at = clock_timestamp(), lease_expires_at = NULL, waiting_for = NULL
WHERE id = $1 AND status IN ('pending', 'running')
RETURNING *
