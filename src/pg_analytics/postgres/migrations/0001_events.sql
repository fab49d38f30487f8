-- Events, and the log of the days that they changed.
--
-- Other programs write into event_sources and analytics_events with plain SQL: these columns keep the names and
-- meanings of the system that this service implements.

CREATE TABLE event_sources (
    id bigserial PRIMARY KEY,
    slug text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(slug) BETWEEN 1 AND 255),
    provider_name text NOT NULL,
    description text NOT NULL,
    is_active boolean NOT NULL DEFAULT TRUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE SEQUENCE analytics_events_id_seq;

CREATE TABLE analytics_events (
    -- Collation C: no dictionary rules on a key that is only compared for equality, on the hottest index.
    external_ref text COLLATE "C" PRIMARY KEY,
    -- A plain sequence without a second unique index: the idempotency key is external_ref.
    id bigint NOT NULL DEFAULT nextval('analytics_events_id_seq'),
    source_id bigint NOT NULL REFERENCES event_sources (id),
    -- The bound keeps a rollup's key within what a B-tree entry may hold (about 2,700 bytes).
    entity_id text COLLATE "C" NOT NULL CHECK (octet_length(entity_id) <= 2048),
    status text COLLATE "C" NOT NULL CHECK (status IN ('success', 'failed', 'pending')),
    processing_ms integer NOT NULL CHECK (processing_ms >= 0),
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    -- The days that a report can be asked for: windows.FIRST_DAY to windows.LAST_DAY.
    occurred_at timestamptz NOT NULL
    CHECK (occurred_at >= '0001-01-08 00:00:00+00' AND occurred_at < '9999-12-27 00:00:00+00'),
    payload jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Stored, so that the planner has statistics on it: grouped by an expression it expects a group per event.
    occurred_day date NOT NULL GENERATED ALWAYS AS ((occurred_at AT TIME ZONE 'UTC')::date) STORED
);

ALTER SEQUENCE analytics_events_id_seq OWNED BY analytics_events.id;

CREATE INDEX analytics_events_occurred_day_idx ON analytics_events (occurred_day);

-- The append-only log of days whose snapshots are out of date. A row becomes visible together with the events
-- that it stands for. No index and no duplicates removed: both were shown to lose updates or to slow writers.
CREATE TABLE event_changes (
    external_ref text COLLATE "C" NOT NULL,
    occurred_day date NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Logs each day that a statement touched, once: of an update the day before and the day after.
-- SECURITY DEFINER: a program that may write events need not know of the log.
CREATE FUNCTION log_event_changes() RETURNS trigger
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
        -- TRUNCATE has no transition table. Every day with events either has a snapshot or stands in the log.
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT DISTINCT '', day FROM snapshot_buckets;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER analytics_events_inserted AFTER INSERT ON analytics_events
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION log_event_changes();

CREATE TRIGGER analytics_events_updated AFTER UPDATE ON analytics_events
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION log_event_changes();

CREATE TRIGGER analytics_events_deleted AFTER DELETE ON analytics_events
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION log_event_changes();

CREATE TRIGGER analytics_events_truncated AFTER TRUNCATE ON analytics_events
FOR EACH STATEMENT EXECUTE FUNCTION log_event_changes();
