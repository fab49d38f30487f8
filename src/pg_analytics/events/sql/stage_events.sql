-- An empty table of this transaction that events are copied into before the new ones among them are inserted.
-- Parameters: none.
-- Index: none.
CREATE TEMPORARY TABLE staged_events ON COMMIT DROP AS
SELECT external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at, payload
FROM analytics_events
WHERE FALSE
