"""Snapshots: the rollups of a day's events, the protocol that rebuilds them exactly, and who sets it off.

A program that changes events also writes, by a trigger and in its own transaction, the days that it touched into the
log `event_changes`. A day is rebuilt whole: all rollups, in the transaction that also takes its rows out of that log.
In `READ COMMITTED`, as separate statements, in this order (`rebuild.rebuild_days` is these lines as code)::

    1  take_changes    DELETE the days' rows of event_changes, skipping rows that another transaction holds
    2  lock_days       an advisory lock per day, ascending, held to the commit
       hold_horizons   days whose events were pruned cannot be rebuilt; days that a rollup dropped are left out of it
    3  merge_*         one statement per rollup: aggregate the events, compare, write only what differs
       ------------    up to here, rebuilds of different days do not meet; from here on, they do, and briefly
    4  merge_*_margin  what the rows of each of these days add up to over a dimension
       record_days     when and by whom each day was rebuilt
       add_to_months   what the days' entities have gained or lost is added to their months
    5  move_versions   the version of every report whose rows changed, in slug order, and a NOTIFY of them
       COMMIT          numbers, lineage, versions, the caller's own records and the NOTIFY appear together

Why nothing is lost. A writer's events and its log rows commit together. Log rows that step 1 sees belong to
events that step 3 sees, because step 3 takes its snapshot later. Log rows that it does not see, or skips, stay for
the next rebuild. Two rebuilds of a day are ordered by the lock, which is taken *before* the statement whose
snapshot reads the events and kept until the result is committed: the later one reads what the earlier one did
not. A rebuild is a pure function of the events, so one too many does no harm, and a rollback gives the log rows
back. Taking the lock after the snapshot, logging a flag instead of rows, or deleting the log after rebuilding
each lose updates.

What is made of a rollup's own rows is committed with them, and so equals them in every snapshot. The margins of a day
belong to it, and are made anew under its lock. A month belongs to rebuilds of all its days at once: so a merge returns
the *differences* that it made, and they are added to the month's rows late, in the order of their key. Two rebuilds of
one month thus wait for each other at most in one direction, and briefly; who waited adds to what the other has
committed, since an `ON CONFLICT DO UPDATE` looks at the row as it then is. A row that comes to zero is deleted by
whoever brought it there and still holds it; who waited for it inserts it anew. Months come before versions, days before
both, and retention takes days out of their months in the same order, so nobody waits in a circle. It cannot be done in
step 3: two chunks of one run merge side by side, and publish one after the other.

So one thing holds in every snapshot of the database that anybody can take: *a day whose rollups do not equal its
events stands in the log.* `verify` checks just this, in one statement per rollup, and needs no lock for it; nor to
compare margins and months with the rows that they are made of. Differences keep a month right, but do not make right
what somebody has written there: that is what `months` is for.

Who rebuilds::

    refresh    by itself: follows the log; the newest day at once, older days gathered
    recompute  on request or by schedule: the days of a run, logged or not (the package `recompute`)
    events     the seed and the example, for the events that they load
"""
