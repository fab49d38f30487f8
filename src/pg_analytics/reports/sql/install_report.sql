-- Enters a report that comes with the service; one that is there already stays as its operators left it.
-- Parameters: $1 slug, $2 name, $3 description, $4 cache TTL in seconds, $5 default window, $6 filters as JSON,
-- $7 rollup.
INSERT INTO report_definitions
(slug, name, description, cache_ttl_seconds, default_window, supported_filters, rollup)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
ON CONFLICT (slug) DO NOTHING
