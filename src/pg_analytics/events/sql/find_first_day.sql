-- The first day of a range that has events, or changes that no rebuild has seen.
-- Parameters: $1 first day, $2 the day after the last.
-- Index: analytics_events_occurred_day_idx; the log is short.
SELECT least(
    (SELECT min(occurred_day) FROM analytics_events WHERE occurred_day >= $1 AND occurred_day < $2),
    (SELECT min(occurred_day) FROM event_changes WHERE occurred_day >= $1 AND occurred_day < $2)
)
