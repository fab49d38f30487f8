-- Deletes the rows of some days of rollup_entity.
-- Parameters: $1 first day, $2 the day after the last; the caller has locked the days.
-- Index: primary key of rollup_entity.
DELETE FROM rollup_entity
WHERE day >= $1 AND day < $2
