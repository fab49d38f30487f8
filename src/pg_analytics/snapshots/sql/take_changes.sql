-- Takes the days' rows out of the change log, except those that another transaction is about to take.
-- Parameters: $1 first day, $2 day after the last.
-- Index: none; the log is short, and rows are deleted by their physical address.
DELETE FROM event_changes
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM event_changes
    WHERE occurred_day >= $1 AND occurred_day < $2
    FOR UPDATE SKIP LOCKED
))
