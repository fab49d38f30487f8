-- From which day on the events, and each rollup, are kept.
-- Parameters: none.
-- Index: none; three rows.
SELECT subject, kept_from FROM horizons
