-- volume-by-period, one row per bucket and source.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset, $6 source slug or NULL.
-- Index: primary key of rollup_source_status, as a range of days.
WITH counted AS (
    SELECT
        CASE $3::text WHEN 'week' THEN r.day - (extract(ISODOW FROM r.day)::integer - 1) ELSE r.day END AS bucket_date,
        s.slug AS source,
        sum(r.event_count)::bigint AS event_count
    FROM rollup_source_status AS r
    INNER JOIN event_sources AS s ON r.source_id = s.id
    WHERE
        r.day >= $1 AND r.day < $2
        AND ($6::text IS NULL OR s.slug = $6)
    GROUP BY 1, 2
),

page AS (
    SELECT bucket_date, source, event_count
    FROM counted
    ORDER BY bucket_date, source
    LIMIT $4 OFFSET $5
)

SELECT
    coalesce(
        (
            SELECT '[' || string_agg(row_to_json(p)::text, ',' ORDER BY p.bucket_date, p.source) || ']'
            FROM page AS p
        ),
        '[]'
    ) AS rows,
    (SELECT count(*) FROM page) AS row_count,
    (SELECT count(*) FROM counted) AS total
