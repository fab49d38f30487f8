-- The limit: what PostgreSQL needs to find the groups of rollup_source_status, and does nothing with them.
-- Parameters: $1 days.
SELECT count(*)
FROM (
    SELECT count(*) FROM analytics_events
    WHERE occurred_day = ANY($1::date[])
    GROUP BY occurred_day, source_id, status
) AS g
