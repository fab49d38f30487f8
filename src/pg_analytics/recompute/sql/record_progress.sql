-- Moves a run's progress on, in the transaction that rebuilt the days: the fence. No row: another worker has the run,
-- or it was cancelled, and the caller must roll back.
-- Parameters: $1 run id, $2 attempt, $3 end of the days that remain, $4 summary and $5 drift so
-- far as JSON, $6 length of the lease.
-- Index: primary key of recompute_runs.
UPDATE recompute_runs
SET
    remaining_until = $3,
    summary = $4::jsonb,
    drift = $5::jsonb,
    waiting_for = NULL,
    failures = 0,
    lease_expires_at = clock_timestamp() + $6::interval
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING id
