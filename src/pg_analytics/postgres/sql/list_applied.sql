-- The applied migrations.
-- Parameters: none.
-- Index: primary key of schema_migrations.
SELECT version, name, checksum FROM schema_migrations ORDER BY version
