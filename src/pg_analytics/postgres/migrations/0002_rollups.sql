-- Rollups: what the events of a day add up to. One narrow table per grain; the primary key is the grain.
-- Weeks are added up from days when they are read. A day without events has no rows here.

CREATE TABLE rollup_source_status (
    day date NOT NULL,
    source_id bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    event_count bigint NOT NULL CHECK (event_count > 0),
    PRIMARY KEY (day, source_id, status)
);

CREATE TABLE rollup_entity (
    day date NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    event_count bigint NOT NULL CHECK (event_count > 0),
    PRIMARY KEY (day, entity_id)
);

-- Lineage and freshness: when, and by which run, each day of each rollup was last rebuilt. run_id carries no
-- foreign key: a run may be deleted, its numbers stay.
CREATE TABLE snapshot_buckets (
    rollup text COLLATE "C" NOT NULL CHECK (rollup IN ('source_status', 'entity')),
    day date NOT NULL,
    computed_at timestamptz NOT NULL,
    run_id uuid,
    event_count bigint NOT NULL CHECK (event_count >= 0),
    PRIMARY KEY (rollup, day)
);
