-- How many rows of the rollups do not equal the events: a fast answer that is wrong would be worth nothing.
WITH source_status AS (
    SELECT occurred_day AS day, source_id, status, count(*) AS event_count
    FROM analytics_events GROUP BY occurred_day, source_id, status
),

entity AS (
    SELECT occurred_day AS day, entity_id, count(*) AS event_count
    FROM analytics_events GROUP BY occurred_day, entity_id
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
