-- The snapshots in the shape that clients of the original system know, for their plain SQL. The service itself
-- reads the rollups.

CREATE VIEW metric_snapshots AS
WITH buckets AS (
    SELECT
        w.report_slug,
        w.window_name,
        d.rollup,
        b.day,
        b.computed_at,
        b.run_id,
        CASE w.window_name
            WHEN 'week' THEN b.day - (extract(ISODOW FROM b.day)::integer - 1)
            ELSE b.day
        END AS bucket_day
    FROM aggregate_windows AS w
    INNER JOIN report_definitions AS d ON w.report_slug = d.slug
    INNER JOIN snapshot_buckets AS b ON d.rollup = b.rollup
),

counted AS (
    SELECT
        b.*,
        'source' AS dimension_key,
        s.slug AS dimension_value,
        r.event_count
    FROM buckets AS b
    INNER JOIN rollup_source_status AS r ON b.day = r.day
    INNER JOIN event_sources AS s ON r.source_id = s.id
    WHERE b.report_slug = 'volume-by-period'
    UNION ALL
    SELECT
        b.*,
        'status' AS dimension_key,
        r.status AS dimension_value,
        r.event_count
    FROM buckets AS b
    INNER JOIN rollup_source_status AS r ON b.day = r.day
    WHERE b.report_slug = 'status-counts'
    UNION ALL
    SELECT
        b.*,
        'entity_id' AS dimension_key,
        r.entity_id AS dimension_value,
        r.event_count
    FROM buckets AS b
    INNER JOIN rollup_entity AS r ON b.day = r.day
    WHERE b.report_slug = 'top-entities'
)

SELECT
    report_slug,
    window_name,
    bucket_day::timestamp AT TIME ZONE 'UTC' AS bucket_start,
    dimension_key,
    dimension_value,
    'event_count' AS metric_name,
    sum(event_count)::bigint AS metric_value,
    min(computed_at) AS computed_at,
    (array_agg(run_id ORDER BY computed_at DESC))[1] AS run_id
FROM counted
GROUP BY report_slug, window_name, bucket_day, dimension_key, dimension_value;
