-- How many days of a rollup there are before a day, and the first of them.
-- Parameters: $1 rollup, $2 day.
-- Index: primary key of snapshot_buckets. Every day that has rows in a rollup has its bucket.
SELECT
    count(*) AS days,
    min(day) AS first_day
FROM snapshot_buckets
WHERE rollup = $1 AND day < $2
