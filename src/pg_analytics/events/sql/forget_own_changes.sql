-- Takes back what the triggers have logged of this transaction's own deletions, and nothing else.
-- Parameters: $1 first day, $2 the day after the last.
-- Index: none; the log is short. Transaction ids come round again: a row of an older one was logged before this began.
DELETE FROM event_changes
WHERE
    occurred_day >= $1 AND occurred_day < $2
    AND xmin = pg_current_xact_id()::xid AND logged_at >= now()
