"""Reports: what they are, where their numbers come from, and how a request for one is answered.

A request takes this way through the modules::

    routes ──► parameters ──► run ──► versions      which generation of numbers is current?
    (parse)    (validate)     (decide)  cache        has it been answered already?
                                        staleness    which of its days have changed since?
                                        store        one statement over the rollups; PostgreSQL renders the rows

A report is a folder under `builtin/`: `report.toml` says what can be asked, one `.sql` file per breakdown
answers it. `statement` puts it into a larger one, which also tells how fresh the rows are, and for a fresh answer
counts the events of stale days. The catalogue that operators see and change lies in PostgreSQL (`catalog`).
"""
