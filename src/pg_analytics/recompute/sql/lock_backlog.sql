-- Lets one trigger at a time count the backlog and add to it, until its transaction ends.
-- Parameters: $1 key of the lock.
-- Index: none.
SELECT pg_advisory_xact_lock($1::bigint)
