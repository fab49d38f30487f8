-- Takes the days' rows out of the change log, except those that another transaction is about to take.
-- Parameters: $1 days.
-- Index: none; the log is short, and rows are deleted by their physical address.
DELETE FROM event_changes
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM event_changes
    WHERE occurred_day = ANY($1::date[])
    FOR UPDATE SKIP LOCKED
))
