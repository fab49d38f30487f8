-- The margins of rollup_source_status, as it is in a fresh report: the common table that stands in for
-- rollup_source_status_margin there (`reports.statement`).
-- Parameters: none of its own. The range of days and the dimension are put to it by the report's statement.
-- Index: that of rollup_source_status, which is a common table here, too.
SELECT
    m.dimension,
    m.member,
    r.day,
    sum(r.event_count)::bigint AS event_count
FROM rollup_source_status AS r
CROSS JOIN LATERAL (VALUES ('all', ''), ('source', r.source_id::text), ('status', r.status)) AS m (dimension, member)
GROUP BY m.dimension, m.member, r.day
