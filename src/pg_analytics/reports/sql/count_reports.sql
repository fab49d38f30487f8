-- How many reports of the public catalogue match.
-- Parameters: $1 text to find in slug or name, taken literally (NULL: all).
-- Index: none; the catalogue has a handful of rows.
SELECT count(*)
FROM report_definitions
WHERE
    is_public
    AND ($1::text IS NULL OR strpos(lower(slug), lower($1)) > 0 OR strpos(lower(name), lower($1)) > 0)
