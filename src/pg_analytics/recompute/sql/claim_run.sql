-- Claims the oldest run that is due, a schedule's only if nobody else's is: one that waits, or one whose worker let
-- its lease run out. The caller learns from `was_running` which of the two it is.
-- Parameters: $1 length of the lease.
-- Index: recompute_runs_active. Two workers never get the same run: the row is locked, and locked rows are skipped.
WITH due AS (
    SELECT id, status
    FROM recompute_runs
    WHERE
        (status = 'pending' AND run_after <= clock_timestamp())
        OR (status = 'running' AND lease_expires_at <= clock_timestamp())
    ORDER BY scheduled, requested_at, id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)

UPDATE recompute_runs AS r
SET
    status = 'running',
    attempt = r.attempt + 1,
    failures = r.failures + CASE d.status WHEN 'running' THEN 1 ELSE 0 END,
    started_at = coalesce(r.started_at, clock_timestamp()),
    waiting_for = NULL,
    lease_expires_at = clock_timestamp() + $1::interval
FROM due AS d
WHERE r.id = d.id
RETURNING r.*, d.status = 'running' AS was_running
