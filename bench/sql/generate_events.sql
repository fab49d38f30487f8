-- Events of some days, equally full, in the order in which they would have arrived.
-- Parameters: $1 how many, $2 first day, $3 how many days, $4 prefix of the references.
-- 12 sources of very different sizes, 3 statuses, 100,000 entities by Zipf's law, 2 % late by up to 30 days.
INSERT INTO analytics_events
(external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at, created_at)
SELECT
    $4::text || e.n,
    1 + floor(12 * power(random(), 2))::integer,
    'entity-' || lpad(floor(exp(random() * ln(100001)))::integer::text, 6, '0'),
    CASE WHEN e.chance < 0.9 THEN 'success' WHEN e.chance < 0.97 THEN 'failed' ELSE 'pending' END,
    floor(random() * 1000)::integer,
    floor(random() * 100000)::integer,
    e.arrived_at - CASE WHEN random() < 0.02 THEN random() * INTERVAL '30 days' ELSE INTERVAL '0' END,
    e.arrived_at
FROM (
    SELECT
        n,
        random() AS chance,
        ($2::date::timestamp AT TIME ZONE 'UTC')
        + (n::double precision / $1) * $3::integer * INTERVAL '1 day' AS arrived_at
    FROM generate_series(0, $1::integer - 1) AS n
) AS e
