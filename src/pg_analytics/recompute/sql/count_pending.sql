-- How many runs wait in the backlog.
-- Parameters: none.
-- Index: recompute_runs_active.
SELECT count(*) FROM recompute_runs WHERE status = 'pending'
