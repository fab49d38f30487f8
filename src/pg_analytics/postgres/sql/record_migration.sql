-- Records a migration, in the transaction that applied it.
-- Parameters: $1 version, $2 name, $3 checksum.
-- Index: primary key of schema_migrations.
INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)
