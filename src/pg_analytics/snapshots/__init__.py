"""Snapshots: the rollups of a day's events, and the protocol that rebuilds them exactly.

A day is rebuilt whole: all rollups, in the transaction that also takes its rows out of the change log. In
`READ COMMITTED`, as separate statements, in this order (`rebuild.rebuild_days` is these lines as code)::

    1  take_changes    DELETE the days' rows of event_changes, skipping rows that another transaction holds
    2  lock_days       an advisory lock per day, ascending, held to the commit
    3  merge_*         aggregate the events, once per rollup; write only what differs
    4  record_days     when and by whom each day was rebuilt
    5  move_versions   the version of every report whose rows changed, in slug order, and a NOTIFY of them
       COMMIT          numbers, lineage, versions, the caller's own records and the NOTIFY appear together

Why nothing is lost. A writer's events and its log rows commit together. Log rows that step 1 sees belong to
events that step 3 sees, because step 3 takes its snapshot later. Log rows that it does not see, or skips, stay for
the next rebuild. Two rebuilds of a day are ordered by the lock, which is taken *before* the statement whose
snapshot reads the events and kept until the result is committed: the later one reads what the earlier one did
not. A rebuild is a pure function of the events, so one too many does no harm, and a rollback gives the log rows
back. Taking the lock after the snapshot, logging a flag instead of rows, or deleting the log after rebuilding
each lose updates.
"""
