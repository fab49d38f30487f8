-- Makes the days of rollup_source_status equal to their events, writing only the rows that differ: an unchanged day
-- costs its aggregation and writes nothing.
-- Parameters: $1 days, which the caller has locked.
-- Index: analytics_events_occurred_day_idx and the primary key of rollup_source_status, once per day.
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
            b.source_id,
            b.status,
            -- A kept row has its count here, an event has NULL.
            count(*) FILTER (WHERE b.kept IS NULL) AS event_count,
            max(b.kept) AS kept
        FROM (
            SELECT
                e.day,
                e.source_id,
                e.status,
                NULL::bigint AS kept
            FROM (SELECT occurred_day AS day, source_id, status FROM analytics_events) AS e
            UNION ALL
            SELECT
                r.day,
                r.source_id,
                r.status,
                r.event_count AS kept
            FROM rollup_source_status AS r
        ) AS b
        WHERE b.day = days.day
        GROUP BY b.source_id, b.status
        HAVING count(*) FILTER (WHERE b.kept IS NULL) IS DISTINCT FROM max(b.kept)
    ) AS g
),

removed AS (
    DELETE FROM rollup_source_status AS r
    USING differing AS d
    WHERE
        d.event_count = 0
        AND r.day = ANY($1::date[]) AND r.day = d.day AND r.source_id = d.source_id AND r.status = d.status
),

replaced AS (
    UPDATE rollup_source_status AS r
    SET event_count = d.event_count
    FROM differing AS d
    WHERE
        d.event_count > 0 AND d.kept IS NOT NULL
        AND r.day = ANY($1::date[]) AND r.day = d.day AND r.source_id = d.source_id AND r.status = d.status
),

added AS (
    INSERT INTO rollup_source_status (day, source_id, status, event_count)
    SELECT
        d.day,
        d.source_id,
        d.status,
        d.event_count
    FROM differing AS d
    WHERE d.kept IS NULL
    ORDER BY d.day, d.source_id, d.status
)

SELECT
    count(*) FILTER (WHERE event_count > 0) AS rows_inserted,
    count(*) FILTER (WHERE kept IS NOT NULL) AS rows_deleted,
    -- Every part of a statement sees the table as it was before.
    (SELECT count(*) FROM rollup_source_status AS r WHERE r.day = ANY($1::date[]))
    - count(*) FILTER (WHERE kept IS NOT NULL) AS rows_unchanged
FROM differing
