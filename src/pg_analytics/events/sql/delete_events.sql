-- Deletes the events of some days, and puts aside what of them counts: exactly what is deleted is counted.
-- Parameters: $1 first day, $2 the day after the last; the caller has locked the days.
-- Index: analytics_events_occurred_day_idx. An event that is moved out of these days meanwhile is neither deleted nor
-- put aside: after the wait for its row, PostgreSQL looks at the day that it has now.
WITH deleted AS (
    DELETE FROM analytics_events
    WHERE occurred_day >= $1 AND occurred_day < $2
    RETURNING occurred_day, source_id, status, entity_id
)

INSERT INTO pruned_events (occurred_day, source_id, status, entity_id)
SELECT
    occurred_day,
    source_id,
    status,
    entity_id
FROM deleted
