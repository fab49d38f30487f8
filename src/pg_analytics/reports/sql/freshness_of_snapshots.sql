-- What an answer of snapshots says of its own version and freshness, in the snapshot of the database that its rows come
-- from. A part of every such report's statement: the derived table `freshness` (`reports.statement`).
-- Parameters: $1 first day, $2 day after the last, $3 window; of `asked`: rollup, max_log_bytes, slug.
-- Index: primary key of snapshot_buckets, as one range. The change log is short: without a refresher it may become so
-- long that to read it would slow each report down; then an answer does not tell its stale buckets (NULL).
-- Days that the rollup dropped are not stale: no rebuild brings them back.
SELECT
    b.computed_at,
    CASE WHEN pg_relation_size('event_changes'::regclass) <= a.max_log_bytes THEN (
        SELECT
            count(DISTINCT CASE $3::text
                WHEN 'week' THEN s.day - (extract(ISODOW FROM s.day)::integer - 1)
                ELSE s.day
            END)
        FROM (
            SELECT c.occurred_day AS day
            FROM event_changes AS c
            WHERE c.occurred_day >= $1::date AND c.occurred_day < $2::date
            UNION ALL
            SELECT unnest(b.out_of_date) AS day
        ) AS s
        WHERE s.day >= h.kept_from
    ) END AS stale_buckets,
    NULL::bigint AS fresh_days,
    CASE WHEN h.kept_from > $1::date THEN h.kept_from END AS retained_from,
    -- A commit may lie between the request's look at the catalogue and this snapshot.
    coalesce((SELECT d.version FROM report_definitions AS d WHERE d.slug = a.slug), 0) AS version
FROM asked AS a
INNER JOIN horizons AS h ON a.rollup = h.subject
CROSS JOIN LATERAL (
    SELECT
        min(k.computed_at) AS computed_at,
        array_agg(k.day) FILTER (WHERE k.stale_since IS NOT NULL) AS out_of_date
    FROM snapshot_buckets AS k
    WHERE k.rollup = h.subject AND k.day >= $1::date AND k.day < $2::date
) AS b
