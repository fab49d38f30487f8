-- Locks of other sessions that a rebuild cannot share: what they are on, and whose they are.
-- Parameters: none.
-- Index: none; the locks of the moment.
SELECT format('%s on %s by session %s (%s)', l.mode, l.relation::regclass, l.pid, a.application_name) AS blocker
FROM pg_locks AS l
INNER JOIN pg_stat_activity AS a ON l.pid = a.pid
INNER JOIN pg_class AS c ON l.relation = c.oid
WHERE
    l.granted
    AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND c.relname IN (
        'analytics_events', 'event_changes', 'horizons', 'recompute_runs', 'report_definitions', 'rollup_entity',
        'rollup_entity_month', 'rollup_source_status', 'rollup_source_status_margin', 'snapshot_buckets'
    )
    AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
ORDER BY 1
LIMIT 3
