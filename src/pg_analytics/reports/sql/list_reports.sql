-- A page of the public catalogue.
-- Parameters: $1 text to find in slug or name, taken literally (NULL: all), $2 column to sort by, $3 descending?,
-- $4 limit, $5 offset.
-- Index: none; the catalogue has a handful of rows.
SELECT
    d.slug,
    d.name,
    d.description,
    d.cache_ttl_seconds,
    d.default_window,
    d.supported_filters,
    ARRAY(
        SELECT w.window_name FROM aggregate_windows AS w WHERE w.report_slug = d.slug ORDER BY w.window_name
    ) AS allowed_windows
FROM report_definitions AS d
WHERE
    d.is_public
    AND ($1::text IS NULL OR strpos(lower(d.slug), lower($1)) > 0 OR strpos(lower(d.name), lower($1)) > 0)
ORDER BY
    CASE WHEN $2::text = 'slug' AND NOT $3::boolean THEN d.slug END,
    CASE WHEN $2 = 'slug' AND $3 THEN d.slug END DESC,
    CASE WHEN $2 = 'name' AND NOT $3 THEN d.name END,
    CASE WHEN $2 = 'name' AND $3 THEN d.name END DESC,
    CASE WHEN $2 = 'updated_at' AND NOT $3 THEN d.updated_at END,
    CASE WHEN $2 = 'updated_at' AND $3 THEN d.updated_at END DESC,
    CASE WHEN $2 = 'cache_ttl_seconds' AND NOT $3 THEN d.cache_ttl_seconds END,
    CASE WHEN $2 = 'cache_ttl_seconds' AND $3 THEN d.cache_ttl_seconds END DESC,
    d.slug
LIMIT $4 OFFSET $5
