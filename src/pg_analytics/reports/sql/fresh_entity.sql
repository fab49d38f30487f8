-- rollup_entity as it would be if every stale day had been rebuilt just now: the common table that stands in for
-- rollup_entity in a fresh report (`reports.statement`).
-- Parameters: none of its own. The range of days is put to it by the report's statement.
-- Index: primary key of rollup_entity, as a range of days; analytics_events_occurred_day_idx, once per day (LATERAL),
-- whatever the planner believes of how many days there are.
SELECT
    r.day,
    r.entity_id,
    r.event_count
FROM rollup_entity AS r
WHERE r.day NOT IN (SELECT l.day FROM counted_live AS l)
UNION ALL
SELECT
    l.day,
    g.entity_id,
    g.event_count
FROM counted_live AS l
CROSS JOIN LATERAL (
    SELECT
        e.entity_id,
        count(*) AS event_count
    FROM analytics_events AS e
    WHERE e.occurred_day = l.day
    GROUP BY e.entity_id
) AS g
