-- The days whose events a report counts, in place of their snapshots: none where they are more than are allowed.
-- A part of every report's statement: the common table `counted_live` (`reports.statement`).
-- Parameters: of `asked`: max_fresh_days (NULL: none; then nothing is read).
-- Index: none.
SELECT s.day
FROM stale AS s
WHERE
    (SELECT a.max_fresh_days FROM asked AS a) IS NOT NULL
    AND (SELECT count(*) FROM stale AS c WHERE c.is_countable) <= (SELECT a.max_fresh_days FROM asked AS a)
    AND s.is_countable
