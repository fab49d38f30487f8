-- What a rebuild of some buckets would find, as the days of the report's rollup were last rebuilt.
-- Parameters: $1 report slug, $2 first day, $3 day after the last (whole buckets), $4 days of a bucket.
-- Index: primary key of snapshot_buckets; the change log is short.
WITH days AS (
    SELECT
        $2::date + d.number AS day,
        $2::date + d.number / $4::integer * $4::integer AS bucket_date
    FROM generate_series(0, $3::date - $2::date - 1) AS d (number)
),

changed AS (
    SELECT DISTINCT c.occurred_day AS day
    FROM event_changes AS c
    WHERE c.occurred_day >= $2 AND c.occurred_day < $3
)

SELECT
    d.bucket_date,
    coalesce(sum(b.event_count), 0)::bigint AS event_count,
    min(b.computed_at) AS computed_at,
    bool_or(c.day IS NOT NULL) AS is_stale,
    bool_or(d.day < (SELECT h.kept_from FROM horizons AS h WHERE h.subject = 'events')) AS is_frozen,
    -- A day that was never rebuilt and has no changes has no events.
    bool_or(c.day IS NOT NULL AND b.day IS NULL) AS is_uncounted
FROM days AS d
LEFT JOIN changed AS c ON d.day = c.day
LEFT JOIN snapshot_buckets AS b
    ON d.day = b.day AND b.rollup = (SELECT r.rollup FROM report_definitions AS r WHERE r.slug = $1)
GROUP BY d.bucket_date
ORDER BY d.bucket_date
