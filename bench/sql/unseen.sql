-- Which of some days still have an event of a batch that no rebuild has seen: the log holds a row that is as old as the
-- batch, or older.
-- Parameters: $1 days, $2 when the batch was committed.
SELECT DISTINCT occurred_day FROM event_changes WHERE occurred_day = ANY($1::date[]) AND logged_at <= $2
