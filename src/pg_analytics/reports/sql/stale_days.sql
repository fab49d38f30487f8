-- The days of a range with changes that no rebuild has seen, or will ever see, and whether their events can be counted
-- instead. A part of every fresh report's statement: the common table `stale` (`reports.statement`).
-- Parameters: $1 first day, $2 day after the last; of `asked`: rollup.
-- Index: primary key of snapshot_buckets; the change log is short.
-- Days that the rollup dropped are left out: no rebuild brings them back. Of a frozen day the events are not all there.
SELECT
    d.day,
    d.day >= (SELECT h.kept_from FROM horizons AS h WHERE h.subject = 'events') AS is_countable
FROM (
    SELECT c.occurred_day AS day
    FROM event_changes AS c
    WHERE c.occurred_day >= $1::date AND c.occurred_day < $2::date
    UNION
    SELECT b.day
    FROM snapshot_buckets AS b
    WHERE
        b.rollup = (SELECT a.rollup FROM asked AS a)
        AND b.day >= $1::date AND b.day < $2::date
        AND b.stale_since IS NOT NULL
) AS d
WHERE d.day >= (SELECT h.kept_from FROM horizons AS h WHERE h.subject = (SELECT a.rollup FROM asked AS a))
