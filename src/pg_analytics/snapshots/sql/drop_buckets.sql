-- Deletes the buckets of some days of a rollup.
-- Parameters: $1 rollup, $2 first day, $3 the day after the last; the caller has locked the days.
-- Index: primary key of snapshot_buckets.
DELETE FROM snapshot_buckets
WHERE rollup = $1 AND day >= $2 AND day < $3
