-- Deletes the rows of some days of rollup_source_status.
-- Parameters: $1 first day, $2 the day after the last; the caller has locked the days.
-- Index: primary key of rollup_source_status.
DELETE FROM rollup_source_status
WHERE day >= $1 AND day < $2
