-- Compares the margins of some days with what the days' rows in rollup_source_status add up to. Both are committed
-- together, so in any snapshot they are equal, whatever waits, was pruned or dropped.
-- Parameters: $1 days.
-- Index: the primary keys of rollup_source_status and rollup_source_status_margin, once per day and dimension.
-- Returns the days that differ.
SELECT
    days.day,
    g.rows_missing,
    g.rows_surplus,
    g.rows_different
FROM unnest($1::date[]) AS days (day)
CROSS JOIN
    LATERAL (
        SELECT
            count(*) FILTER (WHERE e.kept IS NULL) AS rows_missing,
            count(*) FILTER (WHERE e.event_count IS NULL) AS rows_surplus,
            count(*) FILTER (WHERE e.kept <> e.event_count) AS rows_different
        FROM (
            SELECT
                sum(b.counted)::bigint AS event_count,
                max(b.kept) AS kept
            FROM (
                SELECT
                    m.dimension,
                    m.member,
                    r.event_count AS counted,
                    NULL::bigint AS kept
                FROM rollup_source_status AS r
                CROSS JOIN
                    LATERAL (
                        VALUES ('all', ''), ('source', r.source_id::text), ('status', r.status)
                    ) AS m (dimension, member)
                WHERE r.day = days.day
                UNION ALL
                SELECT
                    r.dimension,
                    r.member,
                    NULL AS counted,
                    r.event_count AS kept
                FROM rollup_source_status_margin AS r
                WHERE r.dimension IN ('all', 'source', 'status') AND r.day = days.day
            ) AS b
            GROUP BY b.dimension, b.member
        ) AS e
        WHERE e.event_count IS DISTINCT FROM e.kept
    ) AS g
WHERE g.rows_missing + g.rows_surplus + g.rows_different > 0
