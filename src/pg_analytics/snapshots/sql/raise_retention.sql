-- Lets every window be kept for at least so many days.
-- Parameters: $1 days.
-- Index: none; there are a handful of windows.
UPDATE aggregate_windows
SET retention_days = $1, updated_at = clock_timestamp()
WHERE retention_days < $1
