-- Locks each day for rebuilding, until the transaction ends. Ascending, so that two rebuilds cannot deadlock.
-- Parameters: $1 first day, $2 how many days, $3 class of the lock.
-- Index: none. The series yields its numbers in order, and nothing re-orders them.
SELECT count(pg_advisory_xact_lock($3::integer, ($1::date - DATE '2000-01-01') + n))
FROM generate_series(0, $2::integer - 1) AS n
