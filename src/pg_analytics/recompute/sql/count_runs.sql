-- How many runs match.
-- Parameters: $1 status or NULL, $2 report slug or NULL, $3 mode or NULL.
-- Index: none; the history is short against the events.
SELECT count(*)
FROM recompute_runs
WHERE
    ($1::text IS NULL OR status = $1)
    AND ($2::text IS NULL OR report_slug = $2)
    AND ($3::text IS NULL OR mode = $3)
