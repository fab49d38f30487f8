-- Makes the margins of some days equal to what the days' rows in rollup_source_status add up to, writing only the rows
-- that differ; returns how many those are.
-- Parameters: $1 days, which the caller has locked and merged.
-- Index: the primary keys of rollup_source_status and rollup_source_status_margin, once per day (LATERAL) and
-- dimension; see merge_source_status.
WITH differing AS MATERIALIZED (
    SELECT
        days.day,
        g.*
    FROM unnest($1::date[]) AS days (day)
    CROSS JOIN LATERAL (
        SELECT
            b.dimension,
            b.member,
            coalesce(sum(b.counted), 0)::bigint AS event_count,
            max(b.kept) AS kept
        FROM (
            SELECT
                m.dimension,
                m.member,
                r.event_count AS counted,
                NULL::bigint AS kept
            FROM rollup_source_status AS r
            CROSS JOIN
                LATERAL (
                    VALUES ('all', ''), ('source', r.source_id::text), ('status', r.status)
                ) AS m (dimension, member)
            WHERE r.day = days.day
            UNION ALL
            SELECT
                r.dimension,
                r.member,
                NULL AS counted,
                r.event_count AS kept
            FROM rollup_source_status_margin AS r
            WHERE r.dimension IN ('all', 'source', 'status') AND r.day = days.day
        ) AS b
        GROUP BY b.dimension, b.member
        HAVING sum(b.counted) IS DISTINCT FROM max(b.kept)
    ) AS g
),

removed AS (
    DELETE FROM rollup_source_status_margin AS r
    USING differing AS d
    WHERE
        d.event_count = 0
        AND r.dimension IN ('all', 'source', 'status') AND r.day = ANY($1::date[])
        AND r.dimension = d.dimension AND r.day = d.day AND r.member = d.member
),

replaced AS (
    UPDATE rollup_source_status_margin AS r
    SET event_count = d.event_count
    FROM differing AS d
    WHERE
        d.event_count > 0 AND d.kept IS NOT NULL
        AND r.dimension IN ('all', 'source', 'status') AND r.day = ANY($1::date[])
        AND r.dimension = d.dimension AND r.day = d.day AND r.member = d.member
),

added AS (
    INSERT INTO rollup_source_status_margin (dimension, member, day, event_count)
    SELECT
        d.dimension,
        d.member,
        d.day,
        d.event_count
    FROM differing AS d
    WHERE d.kept IS NULL
    ORDER BY d.dimension, d.day, d.member
)

SELECT count(*) FROM differing
