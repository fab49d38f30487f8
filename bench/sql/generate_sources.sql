-- Sources of events.
-- Parameters: $1 how many.
INSERT INTO event_sources (slug, provider_name, description)
SELECT 'source-' || n, 'bench', 'bench'
FROM generate_series(1, $1::integer) AS n
