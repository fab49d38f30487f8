"""Recomputation on request: runs, the backlog that they wait in, and the workers that take them.

The table `recompute_runs` is the backlog, the work in progress and the history. A run goes through these states::

    trigger ──► pending ──claim──► running ──────────► completed
                   ▲                 │ │ └──attempts used up──► failed
                   └──hand back──────┘ └──cancel──► cancelled
                      (shutdown, or a fault that may pass: later, with a back-off)

A worker claims a run for a lease, which its heartbeat renews, and counts `attempt` up. From then on every write
to the run is conditional on that attempt: a worker that was paused for longer than its lease finds its attempt
outdated and its transaction, numbers included, rolled back. A run whose lease has run out is claimed like a
pending one and goes on where the last commit left it.

A run rebuilds whole buckets, newest first, one transaction per chunk (`snapshots`), and each such transaction
also moves the run's progress. So `kill -9` at any moment leaves either the chunk and its progress, or neither.
A run is completed only after the versions of the numbers that it found or made are known everywhere
(`reports.catalog`): it waits even if it changed nothing, since another run may have done so a moment ago.

    routes ──► trigger ──► store ◄── worker ──► snapshots.rebuild
"""
