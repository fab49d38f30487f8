"""Analytics over events in PostgreSQL: exact snapshots, fast reports, recomputation that survives anything."""

__version__ = "0.1.0"
