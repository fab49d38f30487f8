-- The limit: what PostgreSQL needs to find the groups of rollup_source_status, and does nothing with them.
-- Parameters: none.
SELECT count(*)
FROM (
    SELECT count(*) FROM analytics_events
    GROUP BY occurred_day, source_id, status
) AS g
