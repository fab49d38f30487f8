-- Whether there is any event.
-- Parameters: none.
-- Index: none; the first row that is met decides.
SELECT EXISTS(SELECT 1 FROM analytics_events)
