-- The days whose events a report counts, in place of their snapshots: none where they are more than are allowed.
-- A part of every fresh report's statement: the common table `counted_live` (`reports.statement`).
-- Parameters: of `asked`: max_fresh_days.
-- Index: none.
SELECT s.day
FROM stale AS s
WHERE
    (SELECT count(*) FROM stale AS c WHERE c.is_countable) <= (SELECT a.max_fresh_days FROM asked AS a)
    AND s.is_countable
