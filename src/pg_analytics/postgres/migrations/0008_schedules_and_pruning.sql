-- What schedules, and days whose events were pruned, need of the schema.

-- `infinity` has no next period to move on to. The table has a handful of rows.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE aggregate_windows ADD CONSTRAINT aggregate_windows_next_run_at_check CHECK (isfinite(next_run_at));

-- NULL: for ever. Nothing has acted on retentions so far; from now on, only on those that somebody asks for.
-- squawk-ignore ban-drop-not-null
ALTER TABLE aggregate_windows ALTER COLUMN retention_days DROP NOT NULL;
UPDATE aggregate_windows SET retention_days = NULL;

-- The last run of each schedule.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX recompute_runs_scheduled ON recompute_runs (report_slug, window_name, requested_at DESC) WHERE scheduled;

-- As in 0001, but for TRUNCATE: it takes no event from a day that was frozen, so the log must not say so. Otherwise
-- every frozen day would be marked as out of date for ever.
CREATE OR REPLACE FUNCTION log_event_changes() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT min(external_ref), occurred_day FROM new_rows GROUP BY occurred_day;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT min(external_ref), occurred_day FROM old_rows GROUP BY occurred_day;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT min(external_ref), occurred_day
        FROM (
            SELECT external_ref, occurred_day FROM old_rows
            UNION ALL
            SELECT external_ref, occurred_day FROM new_rows
        ) AS touched
        GROUP BY occurred_day;
    ELSE
        -- A snapshot from before a rebuild does not know of the buckets that it made: at an isolation where that matters,
        -- this fails, and the truncation with it.
        PERFORM FROM report_definitions FOR SHARE;
        -- TRUNCATE has no transition table. Every day with events either has a snapshot or stands in the log; a late
        -- event of a frozen day had marked it when it came.
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT DISTINCT '', day
        FROM snapshot_buckets
        WHERE day >= (SELECT kept_from FROM horizons WHERE subject = 'events');
    END IF;
    RETURN NULL;
END
$$;
