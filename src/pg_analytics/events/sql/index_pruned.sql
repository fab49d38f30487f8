-- Lets a merge read a day of the pruned events at a time.
-- Parameters: none.
-- Index: this one.
CREATE INDEX IF NOT EXISTS pruned_events_occurred_day_idx ON pruned_events (occurred_day)
