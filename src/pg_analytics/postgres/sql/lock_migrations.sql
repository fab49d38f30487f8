-- Lets one instance at a time migrate, until its transaction ends.
-- Parameters: $1 key of the lock.
-- Index: none.
SELECT pg_advisory_xact_lock($1::bigint)
