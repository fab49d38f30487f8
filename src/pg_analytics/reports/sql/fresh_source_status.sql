-- rollup_source_status as it would be if every stale day had been rebuilt just now: the common table that stands in for
-- rollup_source_status in a fresh report (`reports.statement`).
-- Parameters: none of its own. The range of days is put to it by the report's statement.
-- Index: primary key of rollup_source_status, as a range of days; analytics_events_occurred_day_idx, once per day
-- (LATERAL), whatever the planner believes of how many days there are.
SELECT
    r.day,
    r.source_id,
    r.status,
    r.event_count
FROM rollup_source_status AS r
WHERE r.day NOT IN (SELECT l.day FROM counted_live AS l)
UNION ALL
SELECT
    l.day,
    g.source_id,
    g.status,
    g.event_count
FROM counted_live AS l
CROSS JOIN LATERAL (
    SELECT
        e.source_id,
        e.status,
        count(*) AS event_count
    FROM analytics_events AS e
    WHERE e.occurred_day = l.day
    GROUP BY e.source_id, e.status
) AS g
