-- Compares the days of rollup_source_status with their events, and says which of them wait for a rebuild anyway: all in
-- the one snapshot of this statement.
-- Parameters: $1 days.
-- Index: analytics_events_occurred_day_idx and the primary key of rollup_source_status, once per day.
-- Days whose events were pruned, or whose rows retention dropped, have nothing to be compared with.
SELECT
    days.day,
    days.day IN (SELECT c.occurred_day FROM event_changes AS c) AS is_stale,
    g.event_count,
    g.rows_missing,
    g.rows_surplus,
    g.rows_different
FROM unnest($1::date[]) AS days (day)
CROSS JOIN
    LATERAL (
        SELECT
            coalesce(sum(e.event_count), 0)::bigint AS event_count,
            count(*) FILTER (WHERE e.kept IS NULL) AS rows_missing,
            count(*) FILTER (WHERE e.event_count = 0) AS rows_surplus,
            count(*) FILTER (WHERE e.event_count > 0 AND e.kept <> e.event_count) AS rows_different
        FROM (
            SELECT
                count(*) FILTER (WHERE b.kept IS NULL) AS event_count,
                max(b.kept) AS kept
            FROM (
                SELECT
                    e.day,
                    e.source_id,
                    e.status,
                    NULL::bigint AS kept
                FROM (SELECT occurred_day AS day, source_id, status FROM analytics_events) AS e
                UNION ALL
                SELECT
                    r.day,
                    r.source_id,
                    r.status,
                    r.event_count AS kept
                FROM rollup_source_status AS r
            ) AS b
            WHERE b.day = days.day
            GROUP BY b.source_id, b.status
        ) AS e
    ) AS g
WHERE days.day >= (SELECT max(h.kept_from) FROM horizons AS h WHERE h.subject IN ('events', 'source_status'))
