-- An empty table of this session for what of the pruned events counts, emptied again when a transaction ends.
-- Parameters: none.
-- Index: none. Its name is that of the events' table in the merges that read it: see snapshots.store.merge_pruned.
CREATE TEMPORARY TABLE IF NOT EXISTS pruned_events (
    occurred_day date NOT NULL,
    source_id bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL
) ON COMMIT DELETE ROWS
