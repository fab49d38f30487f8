-- Locks each day for rebuilding, until the transaction ends.
-- Parameters: $1 days, ascending, so that two rebuilds cannot deadlock; $2 class of the lock.
-- Index: none. unnest yields the days in their order, and nothing re-orders them.
SELECT count(pg_advisory_xact_lock($2::integer, d.day - DATE '2000-01-01'))
FROM unnest($1::date[]) AS d (day)
