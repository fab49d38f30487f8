-- The days' events by entity, once, into a table of this transaction.
-- Parameters: $1 first day, $2 day after the last.
-- Index: analytics_events_occurred_day_idx. CREATE TABLE AS may aggregate in parallel; INSERT … SELECT may not.
CREATE TEMPORARY TABLE fresh_entity ON COMMIT DROP AS
SELECT
    occurred_day AS day,
    entity_id,
    count(*) AS event_count
FROM analytics_events
WHERE occurred_day >= $1 AND occurred_day < $2
GROUP BY occurred_day, entity_id
