-- Tells whoever listens that a run waits, once the transaction is committed.
-- Parameters: $1 channel.
-- Index: none.
SELECT pg_notify($1, '')
