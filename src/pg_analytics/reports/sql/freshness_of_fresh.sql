-- What a fresh answer says of its own version and freshness, in the snapshot of the database that its rows come from. A
-- part of every such report's statement: the derived table `freshness` (`reports.statement`).
-- Parameters: $1 first day, $2 day after the last, $3 window; of `asked`: rollup, slug.
-- Index: primary key of snapshot_buckets.
SELECT
    (
        SELECT min(b.computed_at)
        FROM snapshot_buckets AS b
        WHERE
            b.rollup = a.rollup AND b.day >= $1::date AND b.day < $2::date
            AND b.day NOT IN (SELECT l.day FROM counted_live AS l)
    ) AS computed_at,
    (
        SELECT
            count(DISTINCT CASE $3::text
                WHEN 'week' THEN s.day - (extract(ISODOW FROM s.day)::integer - 1)
                ELSE s.day
            END)
        FROM stale AS s
        WHERE NOT s.is_countable
    ) AS stale_buckets,
    -- Days that a fresh answer counts, or, if they are more than max_fresh_days, would have to.
    (SELECT count(*) FROM stale AS s WHERE s.is_countable) AS fresh_days,
    (
        SELECT h.kept_from FROM horizons AS h WHERE h.subject = a.rollup AND h.kept_from > $1::date
    ) AS retained_from,
    -- A commit may lie between the request's look at the catalogue and this snapshot.
    coalesce((SELECT d.version FROM report_definitions AS d WHERE d.slug = a.slug), 0) AS version
FROM asked AS a
