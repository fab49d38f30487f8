-- A page of runs, newest first.
-- Parameters: $1 status or NULL, $2 report slug or NULL, $3 mode or NULL, $4 limit, $5 offset.
-- Index: recompute_runs_newest.
SELECT *
FROM recompute_runs
WHERE
    ($1::text IS NULL OR status = $1)
    AND ($2::text IS NULL OR report_slug = $2)
    AND ($3::text IS NULL OR mode = $3)
ORDER BY requested_at DESC, id DESC
LIMIT $4 OFFSET $5
