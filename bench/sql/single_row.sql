-- A single event, as pgbench's clients insert it.
\set n random(1, 1000000000000)
\set entity random(1, 100000)
INSERT INTO analytics_events (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
VALUES ('one-' || :n || '-' || :client_id, 1 + :entity % 12, 'entity-' || :entity, 'success', 1, 1, now());
