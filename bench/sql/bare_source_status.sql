-- The limit: what PostgreSQL needs to find the groups of rollup_source_status, and does nothing with them.
-- Parameters: $1 days, or NULL for all.
SELECT count(*)
FROM (
    SELECT count(*) FROM analytics_events
    WHERE $1::date[] IS NULL OR occurred_day = ANY($1)
    GROUP BY occurred_day, source_id, status
) AS g
