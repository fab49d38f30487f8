-- status-counts, one row per bucket and status.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset, $6 status or NULL.
-- Index: primary key of rollup_source_status_margin, as one range: a row per day and status.
WITH counted AS (
    SELECT
        CASE $3::text WHEN 'week' THEN r.day - (extract(ISODOW FROM r.day)::integer - 1) ELSE r.day END AS bucket_date,
        r.member AS status,
        sum_counts(r.event_count) AS event_count
    FROM rollup_source_status_margin AS r
    WHERE
        r.dimension = 'status'
        AND r.day >= $1 AND r.day < $2
        AND ($6::text IS NULL OR r.member = $6)
    GROUP BY 1, 2
),

page AS (
    SELECT bucket_date, status, event_count
    FROM counted
    ORDER BY bucket_date, status
    LIMIT $4 OFFSET $5
)

SELECT
    coalesce(
        (
            SELECT '[' || string_agg(row_to_json(p)::text, ',' ORDER BY p.bucket_date, p.status) || ']'
            FROM page AS p
        ),
        '[]'
    ) AS rows,
    (SELECT count(*) FROM page) AS row_count,
    (SELECT count(*) FROM counted) AS total
