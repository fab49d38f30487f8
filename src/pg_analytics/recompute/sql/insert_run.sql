-- Puts a run into the backlog.
-- Parameters: $1 report slug, $2 window, $3 and $4 the dates asked for (inclusive), $5 requested by, $6 first day and
-- $7 day after the last of the whole buckets, $8 run id, $9 mode, $10 did a schedule ask?
-- Index: recompute_runs_active_scope refuses a second active run of the same scope.
INSERT INTO recompute_runs
(
    id, report_slug, window_name, date_from, date_to, requested_by, covers_from, covers_until, remaining_until,
    mode, scheduled
)
VALUES ($8, $1, $2, $3, $4, $5, $6, $7, $7, $9, $10)
RETURNING *
