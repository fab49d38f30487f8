-- The limit: what PostgreSQL needs to find the groups of rollup_entity, and does nothing with them.
-- Parameters: none.
SELECT count(*)
FROM (
    SELECT count(*) FROM analytics_events
    GROUP BY occurred_day, entity_id
) AS g
