-- Whether the change log holds rows of some days that are not of this transaction: changes that have been committed
-- since it took the log, or whose rows a rebuild is about to take.
-- Parameters: $1 first day, $2 the day after the last.
-- Index: none; the log is short.
SELECT EXISTS(
    SELECT FROM event_changes
    WHERE
        occurred_day >= $1 AND occurred_day < $2
        AND (xmin <> pg_current_xact_id()::xid OR logged_at < now())
)
