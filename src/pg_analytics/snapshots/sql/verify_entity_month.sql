-- Compares months of rollup_entity_month with what the days of rollup_entity add up to. Both are committed together, so
-- in any snapshot they are equal, whatever waits, was pruned or dropped.
-- Parameters: $1 days; their months are compared.
-- Index: the primary keys of rollup_entity and rollup_entity_month, once per month.
-- Returns the months that differ, by their first day.
SELECT
    months.day,
    g.rows_missing,
    g.rows_surplus,
    g.rows_different
FROM (
    SELECT DISTINCT d.day - (extract(DAY FROM d.day)::integer - 1) AS day FROM unnest($1::date[]) AS d (day)
) AS months
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
                    r.entity_id,
                    r.event_count AS counted,
                    NULL::bigint AS kept
                FROM rollup_entity AS r
                WHERE r.day >= months.day AND r.day < months.day + INTERVAL '1 month'
                UNION ALL
                SELECT
                    r.entity_id,
                    NULL AS counted,
                    r.event_count AS kept
                FROM rollup_entity_month AS r
                WHERE r.month = months.day
            ) AS b
            GROUP BY b.entity_id
        ) AS e
        WHERE e.event_count IS DISTINCT FROM e.kept
    ) AS g
WHERE g.rows_missing + g.rows_surplus + g.rows_different > 0
ORDER BY months.day
