-- Inserts the staged events that are new, and empties the stage: loading twice adds nothing.
-- Parameters: none.
-- Index: primary key of analytics_events.
WITH taken AS (
    DELETE FROM staged_events
    RETURNING external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at, payload
)

INSERT INTO analytics_events
(external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at, payload)
SELECT external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at, payload
FROM taken
ON CONFLICT (external_ref) DO NOTHING
