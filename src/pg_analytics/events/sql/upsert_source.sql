-- The id of a source, which is entered if it is new.
-- Parameters: $1 slug, $2 provider name, $3 description.
-- Index: unique index on event_sources.slug. The update changes nothing; it makes RETURNING see the old row.
INSERT INTO event_sources (slug, provider_name, description)
VALUES ($1, $2, $3)
ON CONFLICT (slug) DO UPDATE SET slug = excluded.slug
RETURNING id
