-- Deletes the rows of some days of rollup_entity, and returns how many they were and what their months lose with them.
-- Parameters: $1 first day, $2 the day after the last; the caller has locked the days.
-- Index: primary key of rollup_entity.
WITH deleted AS (
    DELETE FROM rollup_entity
    WHERE day >= $1 AND day < $2
    RETURNING day, entity_id, event_count
),

lost AS (
    SELECT
        max(d.day) AS day,
        d.entity_id,
        -sum(d.event_count)::bigint AS difference
    FROM deleted AS d
    GROUP BY d.day - (extract(DAY FROM d.day)::integer - 1), d.entity_id
)

SELECT
    (SELECT count(*) FROM deleted) AS rows_deleted,
    coalesce(array_agg(l.day), '{}') AS days,
    coalesce(array_agg(l.entity_id), '{}') AS entities,
    coalesce(array_agg(l.difference), '{}') AS differences
FROM lost AS l
