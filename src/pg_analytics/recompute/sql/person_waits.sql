-- Whether a run that somebody asked for is due: one of a schedule lets it go first.
-- Parameters: none.
-- Index: recompute_runs_active.
SELECT EXISTS(
    SELECT FROM recompute_runs
    WHERE NOT scheduled AND status = 'pending' AND run_after <= clock_timestamp()
)
