-- How many events a second of rebuilding takes in, over the last runs that rebuilt something.
-- Parameters: none.
-- Index: recompute_runs_newest, as far back as it takes to find them.
-- NULL: there are none.
SELECT sum(r.events_read) * 1000.0 / sum(r.duration_ms) AS events_per_second
FROM (
    SELECT
        (summary ->> 'events_read')::double precision AS events_read,
        -- A run that took less than a millisecond is no reason to divide by zero.
        greatest((summary ->> 'duration_ms')::double precision, 1) AS duration_ms
    FROM recompute_runs
    WHERE mode = 'rebuild' AND status = 'completed' AND (summary ->> 'events_read')::bigint > 0
    ORDER BY requested_at DESC, id DESC
    LIMIT 20
) AS r
