-- volume-by-period, one row per bucket.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset, $6 source slug or NULL.
-- Index: rollup_source_status_margin_member_idx, as one range: a row per day.
-- The week of a day is computed from the date alone: date_trunc would read it in the session's time zone.
WITH counted AS (
    SELECT
        CASE $3::text WHEN 'week' THEN r.day - (extract(ISODOW FROM r.day)::integer - 1) ELSE r.day END AS bucket_date,
        sum_counts(r.event_count) AS event_count
    FROM rollup_source_status_margin AS r
    WHERE
        r.dimension = CASE WHEN $6::text IS NULL THEN 'all' ELSE 'source' END
        AND r.member = coalesce((SELECT s.id::text FROM event_sources AS s WHERE s.slug = $6), '')
        AND r.day >= $1 AND r.day < $2
    GROUP BY 1
),

page AS (
    SELECT bucket_date, event_count
    FROM counted
    ORDER BY bucket_date
    LIMIT $4 OFFSET $5
)

SELECT
    coalesce(
        (
            SELECT '[' || string_agg(row_to_json(p)::text, ',' ORDER BY p.bucket_date) || ']'
            FROM page AS p
        ),
        '[]'
    ) AS rows,
    (SELECT count(*) FROM page) AS row_count,
    (SELECT count(*) FROM counted) AS total
