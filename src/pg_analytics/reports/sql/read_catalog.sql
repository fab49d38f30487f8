-- Every public report with what a request needs to know of it: polled by each serving process.
-- Parameters: none.
-- Index: none; the catalogue has a handful of rows.
SELECT
    d.slug,
    d.name,
    d.description,
    d.cache_ttl_seconds,
    d.default_window,
    d.supported_filters,
    d.timezone,
    -- A copy of a database brings its epochs along; in one cluster, the oid tells copy and original apart.
    d.cache_epoch || '/' || (SELECT p.oid FROM pg_database AS p WHERE p.datname = current_database()) AS cache_epoch,
    d.version,
    ARRAY(
        SELECT w.window_name FROM aggregate_windows AS w WHERE w.report_slug = d.slug ORDER BY w.window_name
    ) AS allowed_windows
FROM report_definitions AS d
WHERE d.is_public
ORDER BY d.slug
