-- Tells every process of new versions, if and when the transaction commits.
-- Parameters: $1 channel, $2 versions by slug, as JSON.
-- Index: none.
SELECT pg_notify($1, $2)
