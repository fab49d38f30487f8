-- What following the events by itself needs: the age of a change, days that may not be rebuilt any more, runs that only
-- look, and runs that come by themselves.

-- When a change was logged. Its age, while it waits, is the lag of the snapshots.
ALTER TABLE event_changes ADD COLUMN logged_at timestamptz NOT NULL DEFAULT statement_timestamp();

-- From which day on something is kept. Days before `events` are frozen: their events were pruned, so that their
-- snapshots can only be kept as they are. Days before a rollup's own were dropped from it by its retention.
CREATE TABLE horizons (
    subject text COLLATE "C" PRIMARY KEY CHECK (subject IN ('events', 'source_status', 'entity')),
    kept_from date NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO horizons (subject, kept_from)
VALUES ('events', '0001-01-08'), ('source_status', '0001-01-08'), ('entity', '0001-01-08');

-- Since when a frozen day has had changes that its snapshot can never show.
ALTER TABLE snapshot_buckets ADD COLUMN stale_since timestamptz;

-- A run either rebuilds its days or only verifies them; one that a schedule asked for waits behind everybody else's.
-- `waiting_for` says what keeps a running one from going on, `drift` which buckets a verification found wrong.
ALTER TABLE recompute_runs
ADD COLUMN mode text NOT NULL DEFAULT 'rebuild' CHECK (mode IN ('rebuild', 'verify')),
ADD COLUMN scheduled boolean NOT NULL DEFAULT FALSE,
ADD COLUMN waiting_for text,
ADD COLUMN drift jsonb NOT NULL DEFAULT '[]';

-- The table of runs is short: neither its indexes nor their absence make anybody wait for long.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX recompute_runs_active_scope;
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX recompute_runs_active_scope
ON recompute_runs (report_slug, window_name, date_from, date_to, mode)
WHERE status IN ('pending', 'running');

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX recompute_runs_active;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX recompute_runs_active ON recompute_runs (scheduled, requested_at)
WHERE status IN ('pending', 'running');

-- A schedule: a run per period, from `next_run_at` on.
ALTER TABLE aggregate_windows
ADD COLUMN paused boolean NOT NULL DEFAULT FALSE,
ADD COLUMN next_run_at timestamptz NOT NULL DEFAULT now(),
ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

UPDATE aggregate_windows SET next_run_at = now() + refresh_interval_minutes * INTERVAL '1 minute';
