-- Makes the days of rollup_source_status equal to fresh_source_status, touching only the rows that differ: an
-- unchanged range writes nothing.
-- Parameters: $1 first day, $2 day after the last.
-- Index: primary key of rollup_source_status, as a range of days.
-- EXCEPT, not an outer join: it is hashed or sorted whatever the planner expects. Where it expects one kept row, as
-- it does for days that came after the last ANALYZE, it would join in a nested loop, which is quadratic.
WITH kept AS MATERIALIZED (
    SELECT day, source_id, status, event_count
    FROM rollup_source_status
    WHERE day >= $1 AND day < $2
),

removed AS (
    DELETE FROM rollup_source_status AS r
    USING (
        SELECT day, source_id, status FROM kept
        EXCEPT
        SELECT day, source_id, status FROM fresh_source_status
    ) AS gone
    WHERE r.day = gone.day AND r.source_id = gone.source_id AND r.status = gone.status
    RETURNING 1
),

written AS (
    INSERT INTO rollup_source_status AS r (day, source_id, status, event_count)
    SELECT day, source_id, status, event_count FROM fresh_source_status
    EXCEPT
    SELECT day, source_id, status, event_count FROM kept
    ORDER BY day, source_id, status
    ON CONFLICT (day, source_id, status) DO UPDATE SET event_count = excluded.event_count
    RETURNING (xmax <> 0) AS replaced
)

SELECT
    (SELECT count(*) FROM written) AS rows_inserted,
    (SELECT count(*) FROM removed) + (SELECT count(*) FILTER (WHERE w.replaced) FROM written AS w) AS rows_deleted,
    (SELECT count(*) FROM fresh_source_status) - (SELECT count(*) FROM written) AS rows_unchanged
