-- status-counts, one row per status over the whole range.
-- Parameters: $1 first day, $2 day after the last (whole buckets), $3 window, $4 limit,
-- $5 offset, $6 status or NULL. The buckets are whole already, so the window does not change the sums.
-- Index: primary key of rollup_source_status_margin, as one range: a row per day and status.
WITH counted AS (
    SELECT
        r.member AS status,
        sum_counts(r.event_count) AS event_count
    FROM rollup_source_status_margin AS r
    WHERE
        r.dimension = 'status'
        AND r.day >= $1 AND r.day < $2
        AND $3::text IS NOT NULL
        AND ($6::text IS NULL OR r.member = $6)
    GROUP BY r.member
),

page AS (
    SELECT status, event_count
    FROM counted
    ORDER BY event_count DESC, status
    LIMIT $4 OFFSET $5
)

SELECT
    coalesce(
        (
            SELECT '[' || string_agg(row_to_json(p)::text, ',' ORDER BY p.event_count DESC, p.status) || ']'
            FROM page AS p
        ),
        '[]'
    ) AS rows,
    (SELECT count(*) FROM page) AS row_count,
    (SELECT count(*) FROM counted) AS total
