-- The heartbeat: prolongs the lease of a run that the caller still holds. No row: it is lost, or was cancelled.
-- Parameters: $1 run id, $2 attempt, $3 length of the lease.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET lease_expires_at = clock_timestamp() + $3::interval
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING id
