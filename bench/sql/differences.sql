-- How many rows of the rollups do not equal the events: a fast answer that is wrong would be worth nothing.
WITH source_status AS (
    SELECT occurred_day AS day, source_id, status, count(*) AS event_count
    FROM analytics_events GROUP BY occurred_day, source_id, status
),

entity AS (
    SELECT occurred_day AS day, entity_id, count(*) AS event_count
    FROM analytics_events GROUP BY occurred_day, entity_id
),

months AS (
    SELECT date_trunc('month', day::timestamp)::date AS month, entity_id, sum(event_count)::bigint AS event_count
    FROM entity GROUP BY 1, 2
),

margins AS (
    SELECT 'all' AS dimension, '' AS member, day, sum(event_count)::bigint AS event_count
    FROM source_status GROUP BY day
    UNION ALL
    SELECT 'source' AS dimension, source_id::text AS member, day, sum(event_count)::bigint AS event_count
    FROM source_status GROUP BY day, source_id
    UNION ALL
    SELECT 'status' AS dimension, status AS member, day, sum(event_count)::bigint AS event_count
    FROM source_status GROUP BY day, status
)

SELECT
    (
        SELECT count(
            *) FROM (
            SELECT * FROM source_status
            EXCEPT ALL
            SELECT * FROM rollup_source_status
        ) AS a
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM rollup_source_status
            EXCEPT ALL
            SELECT * FROM source_status
        ) AS b
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM entity
            EXCEPT ALL
            SELECT * FROM rollup_entity
        ) AS c
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM rollup_entity
            EXCEPT ALL
            SELECT * FROM entity
        ) AS d
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM months
            EXCEPT ALL
            SELECT * FROM rollup_entity_month
        ) AS e
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM rollup_entity_month
            EXCEPT ALL
            SELECT * FROM months
        ) AS f
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM margins
            EXCEPT ALL
            SELECT * FROM rollup_source_status_margin
        ) AS g
    )
    + (
        SELECT count(
            *) FROM (
            SELECT * FROM rollup_source_status_margin
            EXCEPT ALL
            SELECT * FROM margins
        ) AS h
    )
