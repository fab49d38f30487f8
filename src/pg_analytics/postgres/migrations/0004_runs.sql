-- Recompute runs: the backlog, the work in progress and the history, in one table.

CREATE TABLE recompute_runs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    report_slug text COLLATE "C" NOT NULL REFERENCES report_definitions (slug),
    window_name text NOT NULL CHECK (window_name IN ('day', 'week')),
    -- As asked for, both ends inclusive.
    date_from date NOT NULL,
    date_to date NOT NULL CHECK (date_to >= date_from),
    requested_by text NOT NULL,
    status text NOT NULL DEFAULT 'pending'
    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    error_message text,
    summary jsonb NOT NULL DEFAULT '{}',
    -- The whole buckets to rebuild: covers_from <= day < covers_until. Newest days go first, so
    -- [remaining_until, covers_until) is done.
    covers_from date NOT NULL,
    covers_until date NOT NULL,
    remaining_until date NOT NULL,
    -- Each claim counts one up. It fences: a worker may only write while the run still carries its attempt.
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    -- Attempts since the last progress that failed or whose worker went silent.
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    lease_expires_at timestamptz,
    run_after timestamptz NOT NULL DEFAULT now(),
    CHECK (covers_from < covers_until AND remaining_until BETWEEN covers_from AND covers_until),
    CHECK ((status = 'running') = (lease_expires_at IS NOT NULL))
);

-- The truth of the scope lock: of one scope, one run is active at a time.
CREATE UNIQUE INDEX recompute_runs_active_scope ON recompute_runs (report_slug, window_name, date_from, date_to)
WHERE status IN ('pending', 'running');

CREATE INDEX recompute_runs_active ON recompute_runs (requested_at) WHERE status IN ('pending', 'running');
CREATE INDEX recompute_runs_newest ON recompute_runs (requested_at DESC, id DESC);
