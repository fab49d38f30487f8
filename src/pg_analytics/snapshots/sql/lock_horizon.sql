-- From which day on something is kept, which nobody else changes until the transaction ends.
-- Parameters: $1 subject: events, or a rollup.
-- Index: primary key of horizons. Whoever only reads a horizon does not wait for this.
SELECT kept_from FROM horizons WHERE subject = $1 FOR NO KEY UPDATE
