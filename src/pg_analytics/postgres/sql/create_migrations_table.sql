-- Where the applied migrations stand. The caller holds the migration lock, so that two of these cannot race.
-- Parameters: none.
-- Index: primary key of schema_migrations.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
