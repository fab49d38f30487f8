-- Deletes the margins of some days of rollup_source_status.
-- Parameters: $1 first day, $2 the day after the last; the caller has locked the days.
-- Index: primary key of rollup_source_status_margin, once per dimension.
DELETE FROM rollup_source_status_margin
WHERE dimension IN ('all', 'source', 'status') AND day >= $1 AND day < $2
