-- Says what keeps a run from going on. No row: another worker has the run, or it was cancelled.
-- Parameters: $1 run id, $2 attempt, $3 reason.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET waiting_for = $3
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING id
