-- The catalogue. `version` moves on in the transaction that changes a report's numbers, and names the cache
-- generation that answers them.

CREATE TABLE report_definitions (
    slug text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    description text NOT NULL,
    cache_ttl_seconds integer NOT NULL CHECK (cache_ttl_seconds >= 0),
    default_window text NOT NULL CHECK (default_window IN ('day', 'week')),
    is_public boolean NOT NULL DEFAULT TRUE,
    supported_filters jsonb NOT NULL DEFAULT '{}',
    -- Days are days of UTC for now; a report in another zone needs buckets of its own.
    timezone text NOT NULL DEFAULT 'UTC' CHECK (timezone = 'UTC'),
    rollup text COLLATE "C" NOT NULL CHECK (rollup IN ('source_status', 'entity')),
    version bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    -- Part of every cache key: a Redis that outlived this database, or serves another, holds nothing for it.
    cache_epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE aggregate_windows (
    id bigserial PRIMARY KEY,
    report_slug text COLLATE "C" NOT NULL REFERENCES report_definitions (slug) ON DELETE CASCADE,
    window_name text NOT NULL CHECK (window_name IN ('day', 'week')),
    retention_days integer NOT NULL CHECK (retention_days > 0),
    refresh_interval_minutes integer NOT NULL CHECK (refresh_interval_minutes > 0),
    is_default boolean NOT NULL DEFAULT FALSE,
    UNIQUE (report_slug, window_name)
);
