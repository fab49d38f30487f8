-- A run.
-- Parameters: $1 run id.
-- Index: primary key of recompute_runs.
SELECT * FROM recompute_runs WHERE id = $1
