-- top-entities, one row per entity, most events first.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset; $6 first month, $7 month after the last, of those that lie in the range whole; where none does, both are
-- the day after the last. The buckets are whole already, so the window does not change the sums.
-- Index: primary keys of rollup_entity and rollup_entity_month: a range of days before the months, one of months, and
-- one of days after them.
WITH counted AS (
    SELECT
        r.entity_id,
        sum_counts(r.event_count) AS event_count
    FROM (
        SELECT
            d.entity_id,
            d.event_count
        FROM rollup_entity AS d
        WHERE d.day >= $1 AND d.day < $6
        UNION ALL
        SELECT
            m.entity_id,
            m.event_count
        FROM rollup_entity_month AS m
        WHERE m.month >= $6 AND m.month < $7
        UNION ALL
        SELECT
            d.entity_id,
            d.event_count
        FROM rollup_entity AS d
        WHERE d.day >= $7 AND d.day < $2
    ) AS r
    WHERE $3::text IS NOT NULL
    GROUP BY r.entity_id
),

page AS (
    SELECT entity_id, event_count
    FROM counted
    ORDER BY event_count DESC, entity_id
    LIMIT $4 OFFSET $5
)

SELECT
    coalesce(
        (
            SELECT '[' || string_agg(row_to_json(p)::text, ',' ORDER BY p.event_count DESC, p.entity_id) || ']'
            FROM page AS p
        ),
        '[]'
    ) AS rows,
    (SELECT count(*) FROM page) AS row_count,
    (SELECT count(*) FROM counted) AS total
