-- A batch of events, as an application writes it.
-- Parameters: $1 how many, $2 prefix of the references, $3 days to spread them over.
INSERT INTO analytics_events (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
SELECT
    $2::text || n,
    1 + n % 12,
    'entity-' || lpad(floor(exp(random() * ln(100001)))::integer::text, 6, '0'),
    'success',
    1,
    1,
    (($3::date[])[1 + n % cardinality($3::date[])])::timestamp AT TIME ZONE 'UTC' + random() * INTERVAL '86399 seconds'
FROM generate_series(0, $1::integer - 1) AS n
