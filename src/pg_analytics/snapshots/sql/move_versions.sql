-- Moves on the version of every report over the rollups that changed, and returns the new versions.
-- Parameters: $1 rollups.
-- Index: none; the catalogue has a handful of rows. They are locked in slug order, so that two rebuilds cannot
-- deadlock.
WITH locked AS MATERIALIZED (
    SELECT slug FROM report_definitions
    WHERE rollup = ANY($1::text[])
    ORDER BY slug
    FOR NO KEY UPDATE
)

UPDATE report_definitions AS d
SET version = d.version + 1
FROM locked AS l
WHERE d.slug = l.slug
RETURNING d.slug, d.version
