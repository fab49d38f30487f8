-- How far a rollup's numbers reach, when it was last rebuilt, how many days have changes that no rebuild has seen or
-- will ever see, and for how many seconds the oldest change has been waiting for one.
-- Parameters: $1 rollup.
-- Index: primary key of snapshot_buckets; the change log is short.
WITH logged AS (
    SELECT
        c.occurred_day AS day,
        min(c.logged_at) AS since
    FROM event_changes AS c
    WHERE c.occurred_day >= (SELECT h.kept_from FROM horizons AS h WHERE h.subject = $1)
    GROUP BY c.occurred_day
),

stale AS (
    SELECT l.day FROM logged AS l
    UNION
    SELECT b.day FROM snapshot_buckets AS b WHERE b.rollup = $1 AND b.stale_since IS NOT NULL
)

SELECT
    (SELECT max(b.day) FROM snapshot_buckets AS b WHERE b.rollup = $1 AND b.event_count > 0) AS data_through,
    (SELECT max(b.computed_at) FROM snapshot_buckets AS b WHERE b.rollup = $1) AS computed_at,
    (SELECT count(*) FROM stale) AS stale_days,
    coalesce(
        (SELECT round(greatest(extract(EPOCH FROM clock_timestamp() - min(l.since)), 0), 3) FROM logged AS l), 0
    )::double precision AS lag_seconds
