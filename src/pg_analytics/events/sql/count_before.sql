-- How many events of days before a day there are: of days that are not frozen yet, and of frozen ones.
-- Parameters: $1 day.
-- Index: analytics_events_occurred_day_idx.
SELECT
    count(*) FILTER (WHERE e.occurred_day >= h.kept_from) AS events,
    count(*) FILTER (WHERE e.occurred_day < h.kept_from) AS late_events
FROM analytics_events AS e
INNER JOIN horizons AS h ON h.subject = 'events'
WHERE e.occurred_day < $1
