-- Per rollup, the days with changes that no rebuild has seen, or will ever see, newest first: polled by each serving
-- process. No row where the change log is too long to be polled.
-- Parameters: $1 most days per rollup, $2 most bytes of the change log.
-- Index: none; the change log and snapshot_buckets are short.
WITH logged AS (
    SELECT DISTINCT c.occurred_day AS day FROM event_changes AS c
)

SELECT
    h.subject AS rollup,
    ARRAY(
        SELECT d.day
        FROM (
            SELECT l.day FROM logged AS l
            UNION
            SELECT b.day FROM snapshot_buckets AS b WHERE b.rollup = h.subject AND b.stale_since IS NOT NULL
        ) AS d
        WHERE d.day >= h.kept_from
        ORDER BY d.day DESC
        LIMIT $1
    ) AS days
FROM horizons AS h
WHERE h.subject <> 'events' AND pg_relation_size('event_changes'::regclass) <= $2::bigint
