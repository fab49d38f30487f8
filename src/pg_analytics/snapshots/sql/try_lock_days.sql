-- Locks those of the days that nobody is rebuilding, until the transaction ends, and returns them.
-- Parameters: $1 days, $2 class of the lock.
-- Index: none.
SELECT d.day
FROM unnest($1::date[]) AS d (day)
WHERE pg_try_advisory_xact_lock($2::integer, d.day - DATE '2000-01-01')
