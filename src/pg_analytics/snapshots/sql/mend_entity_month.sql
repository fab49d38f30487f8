-- Makes a month of rollup_entity_month equal to what its days in rollup_entity add up to, whatever somebody has written
-- into either; returns how many rows were not.
-- Parameters: $1 a day of the month, all of whose days the caller has locked.
-- Index: the primary keys of rollup_entity and rollup_entity_month, as a range.
WITH asked AS (
    SELECT $1::date - (extract(DAY FROM $1::date)::integer - 1) AS month
),

differing AS MATERIALIZED (
    SELECT
        b.entity_id,
        sum(b.counted)::bigint AS event_count,
        max(b.kept) AS kept
    FROM (
        SELECT
            r.entity_id,
            r.event_count AS counted,
            NULL::bigint AS kept
        FROM rollup_entity AS r
        WHERE
            r.day >= (SELECT a.month FROM asked AS a)
            AND r.day < (SELECT a.month + INTERVAL '1 month' FROM asked AS a)
        UNION ALL
        SELECT
            r.entity_id,
            NULL AS counted,
            r.event_count AS kept
        FROM rollup_entity_month AS r
        WHERE r.month = (SELECT a.month FROM asked AS a)
    ) AS b
    GROUP BY b.entity_id
    HAVING sum(b.counted) IS DISTINCT FROM max(b.kept)
),

removed AS (
    DELETE FROM rollup_entity_month AS r
    USING differing AS d
    WHERE d.event_count IS NULL AND r.month = (SELECT a.month FROM asked AS a) AND r.entity_id = d.entity_id
),

replaced AS (
    UPDATE rollup_entity_month AS r
    SET event_count = d.event_count
    FROM differing AS d
    WHERE
        d.event_count IS NOT NULL AND d.kept IS NOT NULL
        AND r.month = (SELECT a.month FROM asked AS a) AND r.entity_id = d.entity_id
),

added AS (
    INSERT INTO rollup_entity_month (month, entity_id, event_count)
    SELECT
        a.month,
        d.entity_id,
        d.event_count
    FROM differing AS d
    CROSS JOIN asked AS a
    WHERE d.kept IS NULL
    ORDER BY d.entity_id
)

SELECT count(*) FROM differing
