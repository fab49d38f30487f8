-- volume-by-period, one row per bucket and source.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset, $6 source slug or NULL.
-- Index: primary key of rollup_source_status_margin, as one range: a row per day and source that has events; or, for
-- one source, rollup_source_status_margin_member_idx.
WITH margin AS (
    -- Two branches, of which one is run: a plan for any filter would read all sources for one.
    SELECT
        r.day,
        r.member,
        r.event_count
    FROM rollup_source_status_margin AS r
    WHERE $6::text IS NULL AND r.dimension = 'source' AND r.day >= $1 AND r.day < $2
    UNION ALL
    SELECT
        r.day,
        r.member,
        r.event_count
    FROM rollup_source_status_margin AS r
    WHERE
        $6 IS NOT NULL AND r.dimension = 'source' AND r.day >= $1 AND r.day < $2
        AND r.member = (SELECT s.id::text FROM event_sources AS s WHERE s.slug = $6)
),

counted AS (
    SELECT
        CASE $3::text WHEN 'week' THEN m.day - (extract(ISODOW FROM m.day)::integer - 1) ELSE m.day END AS bucket_date,
        s.slug AS source,
        sum_counts(m.event_count) AS event_count
    FROM margin AS m
    INNER JOIN event_sources AS s ON m.member = s.id::text
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
