-- top-entities, one row per entity, most events first.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset. The buckets are whole already, so the window does not change the sums.
-- Index: primary key of rollup_entity, as a range of days.
WITH counted AS (
    SELECT
        r.entity_id,
        sum(r.event_count)::bigint AS event_count
    FROM rollup_entity AS r
    WHERE
        r.day >= $1 AND r.day < $2
        AND $3::text IS NOT NULL
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
