-- One of the original's six statements: a report's rows for one window, aggregated from the events once more.
-- Parameters: $1 report slug, $2 window, $3 dimension key, $4 first day, $5 day after the last.
INSERT INTO original_snapshots
(report_slug, window_name, bucket_start, dimension_key, dimension_value, metric_name, metric_value, run_id)
SELECT
    $1,
    $2,
    date_trunc($2, e.occurred_at, 'UTC'),
    $3,
    CASE $3 WHEN 'source' THEN s.slug WHEN 'status' THEN e.status ELSE e.entity_id END,
    'event_count',
    count(*),
    '00000000-0000-0000-0000-000000000000'::uuid
FROM analytics_events AS e
INNER JOIN event_sources AS s ON e.source_id = s.id
WHERE e.occurred_at >= $4::date::timestamp AT TIME ZONE 'UTC' AND e.occurred_at < $5::date::timestamp AT TIME ZONE 'UTC'
GROUP BY 3, 5
