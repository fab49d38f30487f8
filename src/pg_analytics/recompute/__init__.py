"""Recomputation on request: runs, the backlog that they wait in, and the workers that take them.

The table `recompute_runs` is the backlog, the work in progress and the history. A run goes through these states::

    trigger ──► pending ──claim──► running ──────────► completed
                   ▲                 │ │ └──attempts used up──► failed
                   └──hand back──────┘ └──cancel──► cancelled
                      (shutdown; a fault that may pass: later, with a back-off;
                       a schedule's run, when somebody else's is due)

A worker claims a run for a lease, which its heartbeat renews, and counts `attempt` up. From then on every write
to the run is conditional on that attempt: a worker that was paused for longer than its lease finds its attempt
outdated and its transaction, numbers included, rolled back. A run whose lease has run out is claimed like a
pending one and goes on where the last commit left it.

A run rebuilds whole buckets, newest first, in chunks of days that take less than a second (`perform`). Each chunk is
one transaction of the protocol in `snapshots`, which also moves the run's progress: `kill -9` at any moment leaves
either the chunk and its progress, or neither. Two chunks are in work side by side, and commit in order. A lock that
cannot be had is waited for in the open: the run says what it waits for, and holds nothing meanwhile.

A run is completed only after the versions of the numbers that it found or made are known everywhere
(`reports.catalog`): it waits even if it changed nothing, since another run may have done so a moment ago.

A run in the mode `verify` goes the same way and writes nothing but what it found.

What a run would do can be asked without one (`plan`), and a run can be followed to its end (`stream`).

    routes ──► trigger, plan, stream ──► store ◄── worker ──► perform ──► snapshots.rebuild, snapshots.verify
"""
