-- Makes the days of rollup_entity equal to fresh_entity, touching only the rows that differ: an unchanged range writes
-- nothing.
-- Parameters: $1 first day, $2 day after the last.
-- Index: primary key of rollup_entity, as a range of days.
-- EXCEPT, not an outer join: it is hashed or sorted whatever the planner expects. Where it expects one kept row, as
-- it does for days that came after the last ANALYZE, it would join in a nested loop, which is quadratic.
WITH kept AS MATERIALIZED (
    SELECT day, entity_id, event_count
    FROM rollup_entity
    WHERE day >= $1 AND day < $2
),

removed AS (
    DELETE FROM rollup_entity AS r
    USING (
        SELECT day, entity_id FROM kept
        EXCEPT
        SELECT day, entity_id FROM fresh_entity
    ) AS gone
    WHERE r.day = gone.day AND r.entity_id = gone.entity_id
    RETURNING 1
),

written AS (
    INSERT INTO rollup_entity AS r (day, entity_id, event_count)
    SELECT day, entity_id, event_count FROM fresh_entity
    EXCEPT
    SELECT day, entity_id, event_count FROM kept
    ORDER BY day, entity_id
    ON CONFLICT (day, entity_id) DO UPDATE SET event_count = excluded.event_count
    RETURNING (xmax <> 0) AS replaced
)

SELECT
    (SELECT count(*) FROM written) AS rows_inserted,
    (SELECT count(*) FROM removed) + (SELECT count(*) FILTER (WHERE w.replaced) FROM written AS w) AS rows_deleted,
    (SELECT count(*) FROM fresh_entity) - (SELECT count(*) FROM written) AS rows_unchanged
