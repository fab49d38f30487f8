-- What an answer says of its own version and freshness, in the snapshot that its rows come from. A part of every
-- report's statement: the derived table `freshness` (`reports.statement`).
-- Parameters: $1 first day, $2 day after the last, $3 window; of `asked`: rollup, max_fresh_days (NULL: the answer is
-- of snapshots alone), max_log_bytes, slug.
-- Index: primary key of snapshot_buckets; the catalogue has a handful of rows.
-- Without a refresher the change log may become so long that to read it would slow each report down; then an answer of
-- snapshots does not tell its stale buckets (NULL).
WITH stale_buckets AS (
    SELECT DISTINCT
        CASE $3::text WHEN 'week' THEN s.day - (extract(ISODOW FROM s.day)::integer - 1) ELSE s.day END AS bucket_date
    FROM stale AS s
    WHERE NOT s.is_countable
)

SELECT
    (
        SELECT min(b.computed_at)
        FROM snapshot_buckets AS b
        WHERE
            b.rollup = a.rollup AND b.day >= $1::date AND b.day < $2::date
            AND b.day NOT IN (SELECT l.day FROM counted_live AS l)
    ) AS computed_at,
    CASE WHEN a.max_fresh_days IS NOT NULL OR pg_relation_size('event_changes'::regclass) <= a.max_log_bytes THEN (
        SELECT count(*) FROM stale_buckets
    ) END AS stale_buckets,
    -- Days that a fresh answer counts, or, if they are more than max_fresh_days, would have to.
    CASE WHEN a.max_fresh_days IS NOT NULL THEN (
        SELECT count(*) FROM stale AS s WHERE s.is_countable
    ) END AS fresh_days,
    (
        SELECT h.kept_from FROM horizons AS h WHERE h.subject = a.rollup AND h.kept_from > $1::date
    ) AS retained_from,
    -- A commit may lie between the request's look at the catalogue and this snapshot.
    coalesce((SELECT d.version FROM report_definitions AS d WHERE d.slug = a.slug), 0) AS version
FROM asked AS a
