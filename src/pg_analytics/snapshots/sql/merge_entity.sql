-- Makes the days of rollup_entity equal to their events, writing only the rows that differ: an unchanged day
-- costs its aggregation and writes nothing. Returns what it wrote, and what it leaves to be added to the months.
-- Parameters: $1 days, which the caller has locked.
-- Index: analytics_events_occurred_day_idx and the primary key of rollup_entity, once per day.
-- Day by day (LATERAL), so that each day's groups fit into memory and the plan does not depend on how many days there
-- are. What is kept and what was counted meet in one hash table, not in a join, whose plan would depend on statistics
-- that are missing for new days. What differs is found again within these days, whichever join the planner takes: a
-- plan that it keeps may have been made for a table of another size.
WITH differing AS MATERIALIZED (
    SELECT
        days.day,
        g.*
    FROM unnest($1::date[]) AS days (day)
    CROSS JOIN LATERAL (
        SELECT
            b.entity_id,
            -- A kept row has its count here, an event has NULL.
            count(*) FILTER (WHERE b.kept IS NULL) AS event_count,
            max(b.kept) AS kept
        FROM (
            SELECT
                e.day,
                e.entity_id,
                NULL::bigint AS kept
            FROM (SELECT occurred_day AS day, entity_id FROM analytics_events) AS e
            UNION ALL
            SELECT
                r.day,
                r.entity_id,
                r.event_count AS kept
            FROM rollup_entity AS r
        ) AS b
        WHERE b.day = days.day
        GROUP BY b.entity_id
        HAVING count(*) FILTER (WHERE b.kept IS NULL) IS DISTINCT FROM max(b.kept)
    ) AS g
),

removed AS (
    DELETE FROM rollup_entity AS r
    USING differing AS d
    WHERE
        d.event_count = 0
        AND r.day = ANY($1::date[]) AND r.day = d.day AND r.entity_id = d.entity_id
),

replaced AS (
    UPDATE rollup_entity AS r
    SET event_count = d.event_count
    FROM differing AS d
    WHERE
        d.event_count > 0 AND d.kept IS NOT NULL
        AND r.day = ANY($1::date[]) AND r.day = d.day AND r.entity_id = d.entity_id
),

added AS (
    INSERT INTO rollup_entity (day, entity_id, event_count)
    SELECT
        d.day,
        d.entity_id,
        d.event_count
    FROM differing AS d
    WHERE d.kept IS NULL
    ORDER BY d.day, d.entity_id
),

months AS (
    SELECT
        max(d.day) AS day,
        d.entity_id,
        sum(d.event_count - coalesce(d.kept, 0))::bigint AS difference
    FROM differing AS d
    GROUP BY d.day - (extract(DAY FROM d.day)::integer - 1), d.entity_id
    HAVING sum(d.event_count - coalesce(d.kept, 0)) <> 0
)

SELECT
    rows.*,
    differences.*
FROM (
    SELECT
        count(*) FILTER (WHERE event_count > 0) AS rows_inserted,
        count(*) FILTER (WHERE kept IS NOT NULL) AS rows_deleted,
        -- Every part of a statement sees the table as it was before.
        (SELECT count(*) FROM rollup_entity AS r WHERE r.day = ANY($1::date[]))
        - count(*) FILTER (WHERE kept IS NOT NULL) AS rows_unchanged
    FROM differing
) AS rows
CROSS JOIN (
    SELECT
        coalesce(array_agg(m.day), '{}') AS days,
        coalesce(array_agg(m.entity_id), '{}') AS entities,
        coalesce(array_agg(m.difference), '{}') AS differences
    FROM months AS m
) AS differences
